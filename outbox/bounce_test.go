package outbox_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// What waits already is looked at again before it is sent.
func TestReportBounces_keepWhatIsQueuedFromBeingSent(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	hard, complaint, soft := invite(t, pool, "Ada@example.com"), invite(t, pool, "grace@example.com"), invite(t, pool, "alan@example.com")
	results, err := outbox.ReportBounces(t.Context(), pool, "",
		outbox.Bounce{Kind: outbox.SoftBounce, Address: "alan@example.com"},
		outbox.Bounce{Kind: outbox.HardBounce, Address: " ADA@Example.com"},
		outbox.Bounce{Kind: outbox.Complaint, MessageID: complaint})
	want := []outbox.Reported{{Result: "recorded"}, {Result: "recorded"}, {Result: "recorded", MessageID: complaint}}
	if diff := cmp.Diff(want, results); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	startRelay(t, pool, h)
	eventually(t, pool, hard, hasStatus(outbox.StatusSuppressed))
	eventually(t, pool, complaint, hasStatus(outbox.StatusSuppressed))
	eventually(t, pool, soft, hasStatus(outbox.StatusSent))
	if copies := h.copies(); len(copies) != 1 || copies["alan@example.com"] != 1 {
		t.Errorf("sent to %v", copies)
	}
	requireFindings(t, pool)
}

func TestReportBounces_areUndoneWithTheCallersTransaction(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	bounce := outbox.Bounce{Kind: outbox.HardBounce, MessageID: id, Source: "dsn", SourceID: "1"}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outbox.ReportBounces(t.Context(), tx, "", bounce); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	const written = `SELECT (SELECT count(*) FROM mailcrane.bounce) + (SELECT count(*) FROM mailcrane.suppression)
		+ (SELECT count(*) FROM mailcrane.event WHERE type = 'message.bounced')`
	for i, want := range []int{0, 3, 3} {
		if got := value[int](t, pool, written); got != want {
			t.Errorf("%d rows after %d reports, want %d", got, i, want)
		}
		if _, err := outbox.ReportBounces(t.Context(), pool, "", bounce); err != nil {
			t.Fatal(err)
		}
	}
	if none, err := outbox.ReportBounces(t.Context(), pool, ""); len(none) != 0 || err != nil {
		t.Error(none, err)
	}
}

// What was said about an address goes with it, and no event has ever had it.
func TestErase_reachesBounces(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "Ada@example.com")
	_, err := outbox.ReportBounces(t.Context(), pool, "",
		outbox.Bounce{Kind: outbox.HardBounce, MessageID: id, Diagnostic: "550 <ada@example.com>: no such user", Source: "ses", SourceID: "1 hard ada@example.com"},
		outbox.Bounce{Kind: outbox.Complaint, Address: "ADA@example.com", Source: "ses", SourceID: "2"},
		outbox.Bounce{Kind: outbox.SoftBounce, Address: "not-ada@example.com", Diagnostic: "full"})
	if err != nil {
		t.Fatal(err)
	}
	const traces = `SELECT (SELECT count(*) FROM mailcrane.bounce AS b WHERE b::text ~* '[^-]ada@')
		+ (SELECT count(*) FROM mailcrane.suppression AS s WHERE s.address ~ '^ada@')`
	const inEvents = `SELECT count(*) FROM mailcrane.event AS e WHERE e::text ~* 'ada@'`
	if n, events := value[int](t, pool, traces), value[int](t, pool, inEvents); n != 3 || events != 0 {
		t.Errorf("%d traces before, want 3; %d events", n, events)
	}
	if _, err := outbox.Erase(t.Context(), pool, "ada@example.com", nil); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, pool, traces); n != 0 {
		t.Errorf("%d traces after", n)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.bounce WHERE address = 'not-ada@example.com'`); n != 1 {
		t.Error("another address was erased too")
	}
}
