package outbox_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
)

// sendFunc makes a Sender of a function.
type sendFunc func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error)

func (f sendFunc) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	return f(ctx, m, handover)
}

const relayName = "relay.example:25"

// hop is a next hop that keeps what it accepted. An answer, if there is one for
// the recipient, decides; it may call accept itself.
type hop struct {
	mu       sync.Mutex
	accepted []outbox.Message
	answers  map[string]sendFunc
}

func (h *hop) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	if answer, ok := h.answers[m.Recipient]; ok {
		return answer(ctx, m, handover)
	}
	if err := handover(ctx, relayName); err != nil {
		return outbox.Reply{}, err
	}
	return h.accept(m), nil
}

func (h *hop) accept(m *outbox.Message) outbox.Reply {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accepted = append(h.accepted, *m)
	return outbox.Reply{Relay: relayName, Code: 250, Enhanced: "2.0.0", Text: "taken"}
}

// copies counts what was accepted, by recipient.
func (h *hop) copies() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	copies := map[string]int{}
	for _, m := range h.accepted {
		copies[m.Recipient]++
	}
	return copies
}

func (h *hop) all() []outbox.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]outbox.Message(nil), h.accepted...)
}

// startRelay runs a relay with short waits until the test ends.
func startRelay(t *testing.T, pool *pgxpool.Pool, sender outbox.Sender, change ...func(*outbox.RelayConfig)) *outbox.Relay {
	t.Helper()
	config := outbox.RelayConfig{
		Pool:      pool,
		Senders:   map[string]outbox.Sender{"email": sender},
		RetryMin:  50 * time.Millisecond,
		RetryMax:  100 * time.Millisecond,
		AcceptURL: "https://app.example/join?token={token}",
		Secret:    []byte("a secret that is long enough to be one"),
		Lease:     2 * time.Second,

		AllowUnsafe: true, // the tests' server has fsync off
	}
	for _, c := range change {
		c(&config)
	}
	relay, err := outbox.NewRelay(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := relay.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return relay
}

// invite commits one invitation and gives the id of its message.
func invite(t *testing.T, pool *pgxpool.Pool, email string) string {
	t.Helper()
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", GroupName: "Group", Email: email})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.MessageID
}

// inviteTo commits one invitation together with another change.
func inviteTo(t *testing.T, pool *pgxpool.Pool, email, change string) string {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: email})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return receipt.MessageID
}

// eventually waits until the message is as it should be, and shows what it was
// last if it does not come to that.
func eventually(t *testing.T, pool *pgxpool.Pool, id string, as func(outbox.MessageRecord) bool) outbox.MessageRecord {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	var last outbox.MessageRecord
	for {
		m, err := outbox.GetMessage(ctx, pool, id)
		switch {
		case err == nil && as(m):
			return m
		case err == nil:
			last = m
		case !errors.Is(err, context.DeadlineExceeded):
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("message did not become as it should; last seen: %+v", last)
		case <-ticker.C:
		}
	}
}

func hasStatus(status outbox.Status) func(outbox.MessageRecord) bool {
	return func(m outbox.MessageRecord) bool { return m.Status == status }
}

// value reads one value.
func value[T any](t *testing.T, pool *pgxpool.Pool, query string, args ...any) T {
	t.Helper()
	rows, err := pool.Query(context.Background(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func exec(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// outcomes are those of the attempts, in order.
func outcomes(m outbox.MessageRecord) []outbox.Outcome {
	var list []outbox.Outcome
	for _, a := range m.Attempts {
		list = append(list, a.Outcome)
	}
	return list
}

// eventuallyZero waits until the count that query gives is zero.
func eventuallyZero(t *testing.T, pool *pgxpool.Pool, query string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		n := value[int](t, pool, query, args...)
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d: %s", n, query)
		}
		<-ticker.C
	}
}
