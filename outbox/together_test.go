package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// assembly is a next hop at which messages assemble, before the handover or after
// it, until all are there; then they go on together.
type assembly struct {
	hop
	after   bool // the handover
	present sync.WaitGroup
	goOn    chan struct{}
}

func newAssembly(messages int, after bool) *assembly {
	a := &assembly{after: after, goOn: make(chan struct{})}
	a.present.Add(messages)
	return a
}

func (a *assembly) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	if !a.after {
		a.assemble()
	}
	if err := handover(ctx, relayName); err != nil {
		return outbox.Reply{}, err
	}
	if a.after {
		a.assemble()
	}
	return a.accept(m), nil
}

func (a *assembly) assemble() {
	select {
	case <-a.goOn:
	default:
		a.present.Done()
		<-a.goOn
	}
}

// lock keeps a row locked, as somebody does who has forgotten to commit, until
// unlock.
func lock(t *testing.T, pool *pgxpool.Pool, query string, args ...any) (unlock func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tag, err := tx.Exec(t.Context(), query, args...)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("%s: %v, %v", query, tag, err)
	}
	unlock = sync.OnceFunc(func() { _ = tx.Rollback(context.Background()) })
	t.Cleanup(unlock)
	return unlock
}

// alarm waits for a line in the log.
type alarm struct {
	slog.Handler
	text string
	rang chan struct{}
	once sync.Once
}

func newAlarm(text string) *alarm {
	return &alarm{Handler: slog.DiscardHandler, text: text, rang: make(chan struct{})}
}

func (a *alarm) Enabled(context.Context, slog.Level) bool { return true }

func (a *alarm) Handle(ctx context.Context, record slog.Record) error {
	if strings.Contains(record.Message, a.text) {
		a.once.Do(func() { close(a.rang) })
	}
	return a.Handler.Handle(ctx, record)
}

func (a *alarm) wait(t *testing.T) {
	t.Helper()
	select {
	case <-a.rang:
	case <-time.After(30 * time.Second):
		t.Fatalf("the log does not say %q", a.text)
	}
}

func TestRelay_aRowThatSomebodyHasLockedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	const messages = 20
	for name, c := range map[string]struct {
		lock     string
		after    bool   // the handover
		notTaken string // a line in the log once the row was waited for in vain
	}{
		"the message, before the handover": {
			lock: `SELECT FROM mailcrane.message WHERE id = $1::text::uuid FOR UPDATE`},
		"the message, after it": {
			lock:  `SELECT FROM mailcrane.message WHERE id = $1::text::uuid FOR UPDATE`,
			after: true, notTaken: "outcome not recorded"},
		"the attempt": {
			lock:  `SELECT FROM mailcrane.attempt WHERE message_id = $1::text::uuid FOR UPDATE`,
			after: true, notTaken: "outcome not recorded"},
		"the job": {
			lock:  `SELECT FROM mailcrane.river_job WHERE args ->> 'message_id' = $1 FOR UPDATE`,
			after: true, notTaken: "outcome not recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, h, complaint := outboxtest.Database(t), newAssembly(messages, c.after), newAlarm(c.notTaken)
			relay := startRelay(t, pool, h, func(r *outbox.RelayConfig) { r.Logger = slog.New(complaint) })
			var ids []string
			for i := range messages {
				ids = append(ids, invite(t, pool, fmt.Sprintf("u%d@example.com", i)))
			}
			h.present.Wait()
			unlock := lock(t, pool, c.lock, ids[7])
			close(h.goOn)
			for i, id := range ids {
				if i != 7 {
					eventually(t, pool, id, hasStatus(outbox.StatusSent))
				}
			}
			if c.notTaken != "" {
				complaint.wait(t)
				if err := relay.Ready(); err != nil {
					t.Errorf("the daemon fetches no more: %v", err)
				}
			}
			eventually(t, pool, invite(t, pool, "late@example.com"), hasStatus(outbox.StatusSent))
			unlock()
			eventually(t, pool, ids[7], hasStatus(outbox.StatusSent))
			if copies := h.copies()["u7@example.com"]; copies != 1 {
				t.Errorf("%d copies", copies)
			}
			eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state <> 'completed'`)
			requireFindings(t, pool)
		})
	}
}

func TestRelay_R3_twoJobsOfAMessageInOneGroupSendItOnce(t *testing.T) {
	t.Parallel()
	const messages = 10
	pool, h := outboxtest.Database(t), newAssembly(messages+1, false)
	var ids []string
	for i := range messages {
		ids = append(ids, invite(t, pool, fmt.Sprintf("u%d@example.com", i)))
	}
	exec(t, pool, `
		INSERT INTO mailcrane.river_job (args, kind, max_attempts, priority, queue, state)
		SELECT args, kind, max_attempts, priority, queue, state FROM mailcrane.river_job WHERE args ->> 'message_id' = $1`, ids[3])
	startRelay(t, pool, h)
	h.present.Wait()
	close(h.goOn)
	for _, id := range ids {
		if m := eventually(t, pool, id, hasStatus(outbox.StatusSent)); len(m.Attempts) != 1 {
			t.Errorf("%d attempts", len(m.Attempts))
		}
	}
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state <> 'completed'`)
	for to, copies := range h.copies() {
		if copies != 1 {
			t.Errorf("%d copies to %s", copies, to)
		}
	}
	requireFindings(t, pool)
}

func TestRelay_reportsWhoKeepsOldRowsAlive(t *testing.T) {
	t.Parallel()
	pool, began, over := outboxtest.Database(t), newAlarm("the queue becomes slow"), newAlarm("can be removed again")
	began.Handler = over
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) {
		c.Logger = slog.New(began)
		c.SnapshotAlarm = 300 * time.Millisecond
	})
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `SELECT count(*) FROM mailcrane.message`); err != nil {
		t.Fatal(err)
	}
	began.wait(t)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	over.wait(t)
}

// The transactions of all databases of a server have numbers of the same row.
func TestRelay_reportsWhoKeepsEventsBack(t *testing.T) {
	t.Parallel()
	pool, elsewhere := outboxtest.Database(t), outboxtest.EmptyDatabase(t)
	began, over := newAlarm("webhooks are told nothing"), newAlarm("events can be read again")
	began.Handler = over
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) {
		c.Logger = slog.New(began)
		c.SnapshotAlarm = 300 * time.Millisecond
	})
	tx := outboxtest.Begin(t, elsewhere)
	if _, err := tx.Exec(t.Context(), `CREATE TABLE written (n integer)`); err != nil {
		t.Fatal(err)
	}
	began.wait(t)
	waitUntil(t, "it is named", func() bool {
		return value[int](t, pool, `SELECT count(*) FROM mailcrane.oldest_writer WHERE since IS NOT NULL AND detail LIKE $1`,
			elsewhere.Config().ConnConfig.Database+" % idle in transaction") == 1
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	over.wait(t)
}
