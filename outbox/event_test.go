package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// requireEvents waits for the events about one invitation: other tests' writes, on
// the same server, keep them back.
func requireEvents(t *testing.T, pool *pgxpool.Pool, invitationID string, want ...string) {
	t.Helper()
	var types []string
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for range 1000 {
		events, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		types = nil
		for _, e := range events {
			if e.InvitationID == invitationID {
				types = append(types, e.Type)
			}
		}
		if slices.Equal(types, want) {
			return
		}
		<-ticker.C
	}
	t.Errorf("%q, want %q", types, want)
}

func TestEvents_tellTheStoryOfAnInvitation(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	tries := 0
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		tries++
		if tries == 1 {
			return outbox.Reply{}, errors.New("nobody is there")
		}
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		if tries == 2 {
			return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
		}
		return h.accept(m), nil
	}, "bounce@example.com": func(context.Context, *outbox.Message, outbox.Handover) (outbox.Reply, error) {
		return outbox.Reply{Code: 550, Text: "no such user"}, &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("no such user")}
	}}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	exec(t, pool, `UPDATE mailcrane.policy SET resend_after = '0'`)
	again, err := outbox.Resend(t.Context(), pool, m.id)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, again.MessageID, hasStatus(outbox.StatusSent))
	if _, err := outbox.Accept(t.Context(), pool, h.token(t, again.MessageID)); err != nil {
		t.Fatal(err)
	}
	requireEvents(t, pool, m.id,
		"invitation.created", "message.deferred", "message.unknown", "message.sent", "message.sent", "invitation.accepted")

	exec(t, pool, `INSERT INTO mailcrane.suppression (address, reason) VALUES ('no@example.com', 'asked')`)
	for email, want := range map[string][]string{
		"no@example.com":     {"invitation.created", "message.suppressed"},
		"bounce@example.com": {"invitation.created", "message.failed"},
	} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: email})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, pool, receipt.MessageID, func(m outbox.MessageRecord) bool { return m.FinishedAt != nil })
		requireEvents(t, pool, receipt.InvitationID, want...)
	}

	later, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com", SendAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.message SET data = '{"changed": "not its status"}'`)
	if _, err := outbox.Revoke(t.Context(), pool, later.InvitationID); err != nil {
		t.Fatal(err)
	}
	requireEvents(t, pool, later.InvitationID, "invitation.created", "invitation.revoked", "message.cancelled")
}

// Writers commit and roll back in any order, and a reader that follows them gets
// every event once, whatever era it is of.
func TestEvents_areNeitherSkippedNorRepeated(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	ctx, writing := context.WithTimeout(t.Context(), 3*time.Second)
	defer writing()
	var writers sync.WaitGroup
	var committed atomic.Int64
	for w := range 6 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if n := writeSlowly(t, pool, fmt.Sprintf("%d-%d", w, i)); n > 0 {
					committed.Add(int64(n))
				}
			}
		})
	}
	writers.Go(func() {
		for ctx.Err() == nil {
			if err := outbox.Adopt(t.Context(), pool, ""); err != nil {
				t.Error(err)
			}
			<-time.After(400 * time.Millisecond)
		}
	})
	seen := map[string]bool{}
	after, over, ended := "", false, time.Time{}
	for {
		events, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: after, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if seen[e.InvitationID] {
				t.Errorf("event %s comes twice", e.ID)
			}
			seen[e.InvitationID] = true
			after = e.ID
		}
		if over && len(events) == 0 && (int64(len(seen)) >= committed.Load() || time.Since(ended) > 20*time.Second) {
			break
		}
		if ctx.Err() != nil && !over {
			writers.Wait()
			over, ended = true, time.Now()
		}
	}
	if int64(len(seen)) != committed.Load() || len(seen) < 100 {
		t.Errorf("%d events of %d", len(seen), committed.Load())
	}
}

// writeSlowly commits some invitations, or rolls them back, and says how many.
func writeSlowly(t *testing.T, pool *pgxpool.Pool, name string) int {
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	n := 1 + rand.IntN(3)
	for i := range n {
		if _, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: name, Email: fmt.Sprintf("%s-%d@example.com", name, i)}); err != nil {
			t.Error(err)
			return 0
		}
		if _, err := tx.Exec(t.Context(), `SELECT pg_sleep($1)`, 0.008*rand.Float64()); err != nil {
			t.Error(err)
			return 0
		}
	}
	if rand.IntN(3) == 0 {
		return 0
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
		return 0
	}
	return n
}

func TestEvents_ofOneTenant(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, tenant := range []string{"a", "b", "a"} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: tenant, GroupID: "of " + tenant, Email: "ada@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		requireEvents(t, pool, receipt.InvitationID, "invitation.created")
	}
	events, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{Tenant: "b"})
	if err != nil || len(events) != 1 || events[0].GroupID != "of b" || events[0].Tenant != "b" || events[0].CreatedAt.IsZero() {
		t.Errorf("%+v, %v", events, err)
	}
}

func TestEvents_refuseWhatIsNoID(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for after, want := range map[string]string{
		"x": "not the id", "1": "not the id", "-": "not the id", "1-": "not the id", "1-2-3": "not the id", "9999999999999999999-1": "not the id",
		"-1-1": "not the id", "999999999999999999-1": "restored",
	} {
		_, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: after})
		if input, ok := errors.AsType[*outbox.InputError](err); !ok || input.Problems[0].Field != "after" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", after, err)
		}
	}
}

// A dump may come from a server that has counted further.
func TestEvents_surviveARestore(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	before, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.event SET xid = '800000000000000'`)
	if events, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{}); err != nil || len(events) != 0 {
		t.Fatalf("%+v, %v", events, err)
	}
	if err := outbox.Adopt(t.Context(), pool, ""); err != nil {
		t.Fatal(err)
	}
	requireEvents(t, pool, before.InvitationID, "invitation.created")
}
