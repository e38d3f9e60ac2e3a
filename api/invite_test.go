package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestInvite_writesAndSaysWhereToLook(t *testing.T) {
	t.Parallel()
	s := start(t, nil)

	answer := s.invite(ada).want(http.StatusAccepted)
	receipt := answer.document()
	if receipt["result"] != "created" || receipt["status"] != "pending" || receipt["group_id"] != "42" {
		t.Errorf("receipt is %s", answer.body)
	}
	id, _ := receipt["id"].(string)
	if got := answer.Header.Get("Location"); id == "" || got != "/v1/invitations/"+id {
		t.Errorf("location is %q, id %q", got, id)
	}
	found := s.get(answer.Header.Get("Location")).want(http.StatusOK).document()
	messages, _ := found["messages"].([]any)
	if found["id"] != id || found["email"] != "ada@example.com" || found["inviter_name"] != "Charles" || len(messages) != 1 {
		t.Fatalf("invitation is %v", found)
	}
	if m, _ := messages[0].(map[string]any); m["id"] != receipt["message_id"] || m["status"] != "queued" {
		t.Errorf("message is %v", m)
	}
}

func TestInvite_passesOnEveryField(t *testing.T) {
	t.Parallel()
	s := start(t, nil)

	receipt := s.request(http.MethodPost, "/v1/groups/a%2Fb%20c/invitations", `{
		"email": "ada@example.com", "group_name": "Club", "inviter_id": "7", "inviter_name": "Charles",
		"link": "https://example.com/join?x=1", "locale": "de-AT", "data": {"order": 12345678901234567890, "nested": {"a": [1.50]}},
		"send_after": "2026-01-31T10:00:00+01:00", "expires_in": 3600, "priority": 1}`,
		"Idempotency-Key", "key-1").want(http.StatusAccepted).document()

	id, _ := receipt["id"].(string)
	var data, key string
	err := s.pool.QueryRow(t.Context(), `
		SELECT i.data::text, i.idempotency_key FROM mailcrane.invitation AS i WHERE i.id = $1::text::uuid`, id).Scan(&data, &key)
	if err != nil {
		t.Fatal(err)
	}
	if data != `{"order": 12345678901234567890, "nested": {"a": [1.50]}}` || key != "key-1" {
		t.Errorf("data is %s, key %s", data, key)
	}
	r, err := outbox.GetInvitation(t.Context(), s.pool, id)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s|%s|%s|%s|%s|%s|%d|%s", r.GroupID, r.GroupName, r.InviterID, r.InviterName, r.Link, r.Locale,
		r.Messages[0].Priority, r.Messages[0].SendAfter.UTC().Format(time.RFC3339))
	want := "a/b c|Club|7|Charles|https://example.com/join?x=1|de-AT|1|2026-01-31T09:00:00Z"
	if got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
	if left := r.ExpiresAt.Sub(r.CreatedAt); left != time.Hour {
		t.Errorf("expires after %s", left)
	}
}

func TestInvite_existingShowsWhatIsThere(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	first := s.invite(ada, "Idempotency-Key", "k").want(http.StatusAccepted).document()

	again := s.invite(`{"email":"ADA@example.com"}`).want(http.StatusAccepted).document()
	if again["result"] != "existing" || again["id"] != first["id"] || again["status"] != "pending" {
		t.Errorf("second request gave %v", again)
	}
	_, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.invitation SET status = 'declined', finished_at = now()`)
	if err != nil {
		t.Fatal(err)
	}
	// The database knows the key for longer than the answer is kept.
	if _, err := s.pool.Exec(t.Context(), `DELETE FROM mailcrane.request`); err != nil {
		t.Fatal(err)
	}
	other := s.request(http.MethodPost, "/v1/groups/other/invitations", ada, "Idempotency-Key", "k").problem(http.StatusUnprocessableEntity, "invalid-input")
	if errs := fmt.Sprint(other["errors"]); !strings.Contains(errs, "location:header.Idempotency-Key") {
		t.Errorf("another group with the same key: %s", errs)
	}
	repeated := s.invite(ada, "Idempotency-Key", "k").want(http.StatusAccepted).document()
	if repeated["result"] != "existing" || repeated["id"] != first["id"] || repeated["status"] != "declined" || repeated["group_id"] != "42" {
		t.Errorf("same key gave %v", repeated)
	}
}

func TestInvite_suppressedAddressIsNotSaid(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	_, err := s.pool.Exec(t.Context(), `INSERT INTO mailcrane.suppression (address, reason, source) VALUES ('ada@example.com', 'asked', 'test')`)
	if err != nil {
		t.Fatal(err)
	}
	answer := s.invite(ada).want(http.StatusAccepted)
	if receipt := answer.document(); receipt["result"] != "created" || receipt["status"] != "pending" {
		t.Errorf("receipt is %v", receipt)
	}
	look := s.get(answer.Header.Get("Location")).want(http.StatusOK)
	if !strings.Contains(string(look.body), `"status":"suppressed","reason":"asked"`) || strings.Contains(string(look.body), "sent_at") {
		t.Errorf("invitation is %s", look.body)
	}
}

func TestInvite_reminds(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.invite(`{"email":"ada@example.com","remind_after":[86400,172800]}`).want(http.StatusAccepted)
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation WHERE remind_after = '{24:00,48:00}'`); n != 1 {
		t.Error("the times are not written")
	}
	for _, given := range []string{`[0]`, `[7,7]`, `["1 day"]`, `7`, `[1,2,3,4,5,6,7,8,9,10,11]`, `[31622401]`} {
		a := s.invite(`{"email":"bob@example.com","remind_after":` + given + `}`)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		s.silent(a)
	}
}

func TestInvite_hasAQuota(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO mailcrane.quota (kind, at_most) VALUES ('tenant', 1)`); err != nil {
		t.Fatal(err)
	}
	s.invite(ada).want(http.StatusAccepted)
	for path, a := range map[string]*answer{
		"/v1/groups/{group_id}/invitations": s.invite(`{"email":"bob@example.com"}`),
		batchPath:                           s.batch([]string{`{"email":"bob@example.com"}`}),
	} {
		s.description().declared(a, path)
		a.problem(http.StatusTooManyRequests, "limit-reached")
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	s.invite(ada).want(http.StatusAccepted) // there already, and nothing new
}

// counter counts queries.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// startCounted starts a service whose queries are counted.
func startCounted(t *testing.T) (*service, *counter) {
	t.Helper()
	queries := &counter{}
	s := start(t, func(c *api.Config) {
		config := outboxtest.Database(t).Config()
		config.ConnConfig.Tracer = queries
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		c.Pool = pool
	})
	return s, queries
}

func TestInvite_createdTakesOneRoundTrip(t *testing.T) {
	t.Parallel()
	s, queries := startCounted(t)
	s.invite(ada).want(http.StatusAccepted)
	if n := queries.n.Load(); n != 1 {
		t.Errorf("a new invitation took %d queries", n)
	}
}

func TestInvite_isWrittenThoughTheClientGoesAway(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	gone := make(chan struct{})
	inner := s.Config.Handler
	watched := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(gone) })
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(watched.Close)

	tx := outboxtest.Begin(t, s.pool)
	if _, err := tx.Exec(t.Context(), `LOCK TABLE mailcrane.invitation IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, goAway := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, watched.URL+"/v1/groups/42/invitations", strings.NewReader(ada))
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			_ = response.Body.Close()
		}
		left <- err
	}()
	eventually(t, "the write waits for the lock", func() bool {
		return count(t, s.pool, `SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
			WHERE d.datname = current_database() AND NOT l.granted`) > 0
	})
	goAway()
	if err := <-left; err == nil {
		t.Fatal("the client got an answer")
	}
	<-gone
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the write is answered", func() bool { return strings.Contains(s.logs.String(), `"status":202`) })
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 1 {
		t.Errorf("%d invitations are there", n)
	}
}

func count(t testing.TB, pool *pgxpool.Pool, query string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually waits until happened says so.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
