package outbox_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// sent enqueues a message that a relay has accepted since.
func sent(t *testing.T, pool *pgxpool.Pool, draft outbox.Draft) string {
	t.Helper()
	draft.Template = "verify"
	receipt, err := outbox.Enqueue(t.Context(), pool, draft)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.message SET status = 'sent', finished_at = now() WHERE id = $1`, receipt.MessageID)
	return receipt.MessageID
}

func report(t *testing.T, pool *pgxpool.Pool, tenant string, bounces ...outbox.Bounce) []outbox.Reported {
	t.Helper()
	results, err := outbox.ReportBounces(t.Context(), pool, tenant, bounces...)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

const (
	bounceEvents = `SELECT coalesce(string_agg(tenant || ' ' || type || ' ' || detail || ' ' || message_id, ', ' ORDER BY id), '')
		FROM mailcrane.event WHERE type IN ('message.bounced', 'message.complained')`
	suppressedFor = `SELECT coalesce(string_agg(tenant || ' ' || address || ' ' || source, ', ' ORDER BY tenant, address), '') FROM mailcrane.suppression`
)

func requireText(t *testing.T, pool *pgxpool.Pool, query, want string) {
	t.Helper()
	if got := value[string](t, pool, query); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Some providers say nothing but the address.
func TestReportBounces_byAddressAreAboutTheNewestMailToIt(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	sent(t, pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "a"})
	inA := sent(t, pool, outbox.Draft{Recipient: "Ada@example.com", Tenant: "a"})
	inB := invite(t, pool, "ADA@example.com") // of the tenant default
	exec(t, pool, `UPDATE mailcrane.message SET status = 'sent', finished_at = now() WHERE id = $1`, inB)
	sent(t, pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "c:test"})
	sent(t, pool, outbox.Draft{Recipient: "other@example.com", Tenant: "d"})
	if _, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "e", Template: "verify"}); err != nil {
		t.Fatal(err) // was not sent yet
	}

	got := report(t, pool, "a", outbox.Bounce{Kind: outbox.SoftBounce, Address: "ada@Example.com"})
	got = append(got, report(t, pool, "", outbox.Bounce{Kind: outbox.Complaint, Address: "ada@example.com", Source: "postmark", SourceID: "1"})...)
	want := []outbox.Reported{{Result: "recorded", MessageID: inA}, {Result: "recorded", MessageID: inB}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	requireText(t, pool, bounceEvents, "a message.bounced soft "+inA+", default message.complained complaint "+inB)
	requireText(t, pool, suppressedFor, "a ada@example.com complaint, default ada@example.com complaint")

	// What is reported again was about the same mail, whatever was sent meanwhile.
	exec(t, pool, `DELETE FROM mailcrane.suppression`)
	sent(t, pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "f"})
	again := report(t, pool, "", outbox.Bounce{Kind: outbox.Complaint, Address: "ada@example.com", Source: "postmark", SourceID: "1"})
	if diff := cmp.Diff([]outbox.Reported{{Result: "existing", MessageID: inB}}, again); diff != "" {
		t.Error(diff)
	}
	requireText(t, pool, suppressedFor, "")
}

// One that names a message which is not here is about somebody else's mail.
func TestReportBounces_ofOtherMailAreTiedToNone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	sent(t, pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "a"})
	sent(t, pool, outbox.Draft{Recipient: "ada@example.com", Tenant: "b"})
	got := report(t, pool, "",
		outbox.Bounce{Kind: outbox.HardBounce, Address: "ada@example.com", HeaderMessageID: "<4711@example.org>"},
		outbox.Bounce{Kind: outbox.HardBounce, Address: "nobody@example.com"})
	if diff := cmp.Diff([]outbox.Reported{{Result: "recorded"}, {Result: "recorded"}}, got); diff != "" {
		t.Error(diff)
	}
	requireText(t, pool, bounceEvents, "")
	requireText(t, pool, suppressedFor, "a ada@example.com bounce, b ada@example.com bounce, default nobody@example.com bounce")
}

// A mail counts as sent while nobody knows whether it was.
func TestReportBounces_byAddressFindMailOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, outcome := range []string{"unknown", "deferred"} {
		receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: outcome + "@example.com", Template: "verify"})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, `INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, finished_at)
			VALUES ($1, 1, 1, gen_random_uuid(), $2, $2 = 'unknown', now())`, receipt.MessageID, outcome)
		got := report(t, pool, "", outbox.Bounce{Kind: outbox.HardBounce, Address: outcome + "@example.com"})
		if tied := got[0].MessageID == receipt.MessageID; tied != (outcome == "unknown") {
			t.Errorf("%s: %v", outcome, got)
		}
	}
}

// What a webhook is told is no mail, and its id no address.
func TestReportBounces_ofWhatIsNoMailAreIgnored(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	hook := sent(t, pool, outbox.Draft{Channel: outbox.WebhookChannel, Recipient: "01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49"})
	got := report(t, pool, "", outbox.Bounce{Kind: outbox.HardBounce, MessageID: hook},
		outbox.Bounce{Kind: outbox.Complaint, HeaderMessageID: "<" + hook + "@example.com>", Address: "ada@example.com"})
	if diff := cmp.Diff([]outbox.Reported{{Result: "ignored"}, {Result: "recorded"}}, got); diff != "" {
		t.Error(diff)
	}
	requireText(t, pool, suppressedFor, "default ada@example.com complaint")
	requireText(t, pool, bounceEvents, "")
}

// Relays spell domains in ASCII.
func TestReportBounces_suppressTheAddressAsItWasWritten(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := sent(t, pool, outbox.Draft{Recipient: "Ada@bücher.example"})
	report(t, pool, "",
		outbox.Bounce{Kind: outbox.HardBounce, Address: "ada@xn--bcher-kva.example", HeaderMessageID: "<" + id + "@example.com>"},
		outbox.Bounce{Kind: outbox.Complaint, Address: "grace@xn--bcher-kva.example", MessageID: id})
	requireText(t, pool, suppressedFor, "default ada@bücher.example bounce, default grace@bücher.example complaint")
}

// Whoever refuses a mail may quote it.
func TestReportBounces_keepNoToken(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	link, _ := outbox.AcceptLink("https://app.example/join?token={token}", []byte("a secret"), "01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49", 0)
	folded := strings.Replace(link, "token=", "token=3D", 1)
	folded = folded[:60] + "=\r\n" + folded[60:]
	report(t, pool, "",
		outbox.Bounce{Kind: outbox.SoftBounce, MessageID: id, SourceID: "1", Diagnostic: "554 spam: <" + link + ">, see https://example.com/help?id=12345678"},
		outbox.Bounce{Kind: outbox.SoftBounce, MessageID: id, SourceID: "2", Diagnostic: "554 spam: " + folded + " 1"},
		outbox.Bounce{Kind: outbox.SoftBounce, MessageID: id, SourceID: "3", Diagnostic: strings.Repeat("x ", 235) + link})
	requireText(t, pool, `SELECT string_agg(right(diagnostic, 92), '|' ORDER BY source_id) FROM mailcrane.bounce`,
		"554 spam: <https://app.example/join?token=[token]>, see https://example.com/help?id=12345678|"+
			"554 spam: https://app.example/join?token=[token] 1|"+
			strings.Repeat("x ", 31)+"https://app.example/join?token")
}
