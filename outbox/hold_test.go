package outbox_test

import (
	"context"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestHold_keepsATenantBackAndReleaseSendsIt(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	scope := outbox.Scope{Tenant: "acme"}
	if err := outbox.Hold(t.Context(), pool, scope, "unpaid"); err != nil {
		t.Fatal(err)
	}
	startRelay(t, pool, h)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: "acme", GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, invite(t, pool, "other@example.com"), hasStatus(outbox.StatusSent))
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusHeld))
	if err := outbox.ReleaseMessage(t.Context(), pool, receipt.MessageID); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusHeld)) // its tenant still is
	if h.copies()["ada@example.com"] != 0 {
		t.Error("sent despite the hold")
	}
	if _, err := outbox.Release(t.Context(), pool, scope); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent))
	requireFindings(t, pool)
}

func TestHold_ofEverythingFetchesNothing(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	if err := outbox.Hold(t.Context(), pool, outbox.Scope{}, "the lawyers called"); err != nil {
		t.Fatal(err)
	}
	relay := startRelay(t, pool, h)
	if err := relay.Ready(); !strings.Contains(err.Error(), "the lawyers called") {
		t.Error(err)
	}
	id := invite(t, pool, "ada@example.com")
	if n, err := outbox.ListWaiting(t.Context(), pool); err != nil || len(n) != 1 || n[0].Messages != 1 {
		t.Errorf("waiting %+v, %v", n, err)
	}
	if m, err := outbox.GetMessage(t.Context(), pool, id); err != nil || m.Status != outbox.StatusQueued || len(h.all()) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := outbox.Release(t.Context(), pool, outbox.Scope{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if err := outbox.Hold(t.Context(), pool, outbox.Scope{}, "and again"); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the relay holds", func() bool { return relay.Ready() != nil })
	id = invite(t, pool, "bob@example.com") // fetched or not: a worker may have been asking already
	if _, err := outbox.Release(t.Context(), pool, outbox.Scope{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, id, hasStatus(outbox.StatusSent))
}

// Whoever puts a message on hold and whoever takes the hold away meet at its row:
// no message is left behind without a hold.
func TestRelease_leavesNoMessageBehindThatIsJustPutOnHold(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	exec(t, pool, `SELECT mailcrane.hold(template => 'invitation')`)
	tx := outboxtest.Begin(t, pool)
	if _, err := outbox.Release(t.Context(), tx, outbox.Scope{Template: "invitation"}); err != nil {
		t.Fatal(err)
	}
	startRelay(t, pool, h)
	id := invite(t, pool, "ada@example.com")
	waitUntil(t, "the relay waits for the release", func() bool {
		waits := false
		err := pool.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, id, hasStatus(outbox.StatusSent))
}

// A hold that comes between open and handover is still in time.
func TestHold_R3_stopsWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		exec(t, pool, `SELECT mailcrane.hold(template => 'invitation')`)
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return h.accept(m), nil
	}}
	startRelay(t, pool, h)
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusHeld))
	if len(h.all()) != 0 {
		t.Error("sent despite the hold")
	}
}
