package pgproxy_test

import (
	"context"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

type setup struct {
	t            *testing.T
	proxy        *pgproxy.Proxy
	direct, conn *pgx.Conn
}

func start(t *testing.T) *setup {
	t.Helper()
	databaseURL := outboxtest.EmptyDatabase(t).Config().ConnString()
	proxy := outboxtest.Proxy(t, databaseURL)
	s := &setup{t: t, proxy: proxy}
	s.direct, s.conn = s.connect(databaseURL), s.connect(proxy.URL())
	s.exec(s.direct, `CREATE TABLE thing (n integer)`)
	return s
}

func (s *setup) connect(databaseURL string) *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), databaseURL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *setup) exec(conn *pgx.Conn, statement string, args ...any) {
	s.t.Helper()
	if _, err := conn.Exec(s.t.Context(), statement, args...); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

func (s *setup) things() (n int) {
	s.t.Helper()
	if err := s.direct.QueryRow(s.t.Context(), `SELECT count(*) FROM thing`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestProxy_passesEverythingOn(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn := s.conn
	big := strings.Repeat("x", 5<<20)
	for range 3 { // prepared, and used again
		var got string
		if err := conn.QueryRow(t.Context(), `SELECT $1::text`, big).Scan(&got); err != nil || got != big {
			t.Fatal(len(got), err)
		}
	}
	if n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"thing"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}})); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT 1/0`); err == nil {
		t.Error("no error")
	}
	s.exec(conn, `LISTEN news`)
	s.exec(s.direct, `NOTIFY news, 'hello'`)
	if news, err := conn.WaitForNotification(t.Context()); err != nil || news.Payload != "hello" {
		t.Error(news, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := conn.Exec(ctx, `SELECT pg_sleep(60)`); err == nil {
		t.Error("not cancelled")
	}
}

func TestProxy_aRequestThatIsCutNeverArrives(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.proxy.Inject(pgproxy.Fault{Statement: "INTO thing", Cut: true, Times: 1})
	if _, err := s.conn.Exec(t.Context(), `INSERT INTO thing VALUES ($1)`, 1); err == nil {
		t.Error("answered")
	}
	s.exec(s.connect(s.proxy.URL()), `INSERT INTO thing VALUES ($1)`, 1)
	if n := s.things(); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestProxy_anAnswerThatIsCutWasCommitted(t *testing.T) {
	t.Parallel()
	s := start(t)
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO thing VALUES (1)`)
	batch.Queue(`INSERT INTO thing VALUES (2)`)
	s.proxy.Inject(pgproxy.Fault{Statement: "values (2)", At: pgproxy.Reply, Cut: true})
	if err := s.conn.SendBatch(t.Context(), batch).Close(); err == nil {
		t.Error("answered")
	}
	if n := s.things(); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestProxy_holdsBackAndChanges(t *testing.T) {
	t.Parallel()
	s := start(t)
	var called atomic.Int32
	remove := s.proxy.Inject(pgproxy.Fault{Statement: "clock_timestamp", At: pgproxy.Reply, Hang: 200 * time.Millisecond,
		Do: func() { called.Add(1) },
		Rewrite: func(values [][]byte) { // microseconds, in the binary format
			at := binary.BigEndian.Uint64(values[0])
			binary.BigEndian.PutUint64(values[0], at+uint64(2*time.Hour/time.Microsecond))
		}})
	began := time.Now()
	var now time.Time
	if err := s.conn.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	if ahead := time.Until(now); ahead < 119*time.Minute || called.Load() != 1 || time.Since(began) < 200*time.Millisecond {
		t.Errorf("ahead by %s, called %d times", ahead, called.Load())
	}
	remove()
	if err := s.conn.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil || time.Until(now) > time.Minute {
		t.Error(now, err)
	}
}

func TestProxy_partitionHoldsEverythingBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.proxy.Partition(true)
	done := make(chan error, 1)
	go func() {
		_, err := s.conn.Exec(context.Background(), `INSERT INTO thing VALUES (1)`)
		done <- err
	}()
	select {
	case err := <-done:
		t.Error("it got through", err)
	case <-time.After(200 * time.Millisecond):
	}
	s.proxy.Partition(false)
	if err := <-done; err != nil || s.things() != 1 {
		t.Error(err)
	}
	s.proxy.CutAll()
	if _, err := s.conn.Exec(t.Context(), `SELECT 1`); err == nil {
		t.Error("not cut")
	}
}

func TestListen_refusesWhatNamesNoServer(t *testing.T) {
	t.Parallel()
	for _, databaseURL := range []string{"host=127.0.0.1 password=secret", "postgres:///db?host=/tmp&password=secret", "postgres://u:secret@:x/db", "mysql://u:secret@h/db"} {
		proxy, err := pgproxy.Listen(databaseURL)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", databaseURL, err)
		}
		if err == nil {
			_ = proxy.Close()
		}
	}
}
