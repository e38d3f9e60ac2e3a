package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// dumped is everything that pg_dump writes of a database, in lower case.
func dumped(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	out, err := outboxtest.Dump(t, pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	return strings.ToLower(out)
}

// Wherever an address can get to, pg_dump does not find it after erasure.
func TestErase_leavesNoTrace(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{})
	startDaemon(t, settingsFor(pool, box))
	must := func(receipt outbox.Receipt, err error) outbox.Receipt {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return receipt
	}
	ctx := t.Context()
	sent := must(outbox.Invite(ctx, pool, outbox.Invitation{
		GroupID: "g", Email: "Ada.Lovelace@example.com", Data: map[string]any{"name": "Ada"}, IdempotencyKey: "for ada.lovelace@example.com",
	}))
	waitForStatus(t, pool, sent.MessageID, outbox.StatusSent)
	later := must(outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "h", Email: "ada.lovelace@example.com", SendAfter: time.Now().Add(time.Hour)}))
	other := must(outbox.Invite(ctx, pool, outbox.Invitation{
		GroupID: "ada.lovelace@example.com", Email: "bob@example.com", InviterID: "ADA.lovelace@example.com",
		Link: "https://example.com/?from=ada.lovelace%40example.com&x=1", Data: map[string]any{"cc": []any{"<ada.lovelace@example.com>"}},
	}))
	must(outbox.Invite(ctx, pool, outbox.Invitation{
		GroupID: "k", Email: "carl@example.com", IdempotencyKey: "invite-k-ada.lovelace@example.com", SendAfter: time.Now().Add(time.Hour),
		Link: "https://example.com/login?next=%2Fjoin%3Femail%3Dada.lovelace%40example.com",
	}))
	moved := must(outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "m", Email: "Ada.Lovelace@example.com", SendAfter: time.Now().Add(time.Hour)}))
	if _, err := outbox.ChangeAddress(ctx, pool, moved.InvitationID, "dora@example.com"); err != nil {
		t.Fatal(err)
	}
	near := must(outbox.Enqueue(ctx, pool, outbox.Draft{Recipient: "not-ada.lovelace@example.com", Template: "receipt", SendAfter: time.Now().Add(time.Hour)}))
	waitForStatus(t, pool, other.MessageID, outbox.StatusSent)
	if _, err := outbox.Suppress(ctx, pool, "", outbox.Suppression{Address: "ada.lovelace@example.com"}); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, `
		UPDATE mailcrane.attempt SET reply = 'no <ada.lovelace@example.com> here';
		UPDATE mailcrane.river_job SET errors = ARRAY['{"error": "about ada.lovelace@example.com"}'::jsonb]`); err != nil {
		t.Fatal(err)
	}
	before := dumped(t, pool)
	if !strings.Contains(before, "ada.lovelace@example.com") || !strings.Contains(before, "ada.lovelace%40example.com") {
		t.Fatal("it is not there before")
	}

	out := &bytes.Buffer{}
	if err := run(ctx, []string{"erase", "ADA.Lovelace@example.com"}, []string{"DATABASE_URL=" + pool.Config().ConnString()}, out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"invitations: 2\n", "messages: 3\n", "suppressions: 1\n", "attempt.reply: 2\n", "invitation.inviter_id: 1\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in %q", line, out)
		}
	}
	const neighbour = "not-ada.lovelace@example.com"
	after := dumped(t, pool)
	if !strings.Contains(after, neighbour) {
		t.Error("another address was erased too")
	}
	after = strings.ReplaceAll(after, neighbour, "")
	for _, trace := range []string{"ada.lovelace", "\"ada\""} {
		if i := strings.Index(after, trace); i >= 0 {
			t.Errorf("%q is left: %s", trace, after[max(0, i-200):i+50])
		}
	}
	for id, want := range map[string]outbox.Status{
		sent.MessageID: outbox.StatusSent, later.MessageID: outbox.StatusCancelled, other.MessageID: outbox.StatusSent, near.MessageID: outbox.StatusQueued,
	} {
		if m, err := outbox.GetMessage(ctx, pool, id); err != nil || m.Status != want {
			t.Errorf("%s instead of %s, %v", m.Status, want, err)
		}
	}
	if i, err := outbox.GetInvitation(ctx, pool, later.InvitationID); err != nil || i.Status != "revoked" {
		t.Errorf("a pending one is %s, %v", i.Status, err)
	}
	findings, err := outbox.Audit(ctx, pool, 24*time.Hour)
	if err != nil || len(findings) != 0 {
		t.Errorf("%+v, %v", findings, err)
	}
	must(outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "h", Email: "ada.lovelace@example.com"}))
}

// Who must not be written to is not written to after erasure either, and nobody can
// read who it is.
func TestErase_keepsTheSuppression(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{})
	settings := settingsFor(pool, box)
	ctx := t.Context()
	if _, err := outbox.Suppress(ctx, pool, "", outbox.Suppression{Address: "ada.king@example.com", Reason: "complained", Source: "complaint"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again after she was suppressed again
		if err := run(ctx, []string{"erase", "Ada.King@example.com"}, settings, io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(dumped(t, pool), "ada.king@example.com"); i >= 0 {
			t.Error("it is there")
		}
		if _, err := outbox.Suppress(ctx, pool, "", outbox.Suppression{Address: "ada.king@example.com"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(ctx, []string{"erase", "ada.king@example.com"}, settings, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	list, err := outbox.ListSuppressions(ctx, pool, outbox.SuppressionFilter{})
	erased := outbox.ErasedAddress([]byte("0123456789abcdef0123456789abcdef"), "ada.king@example.com")
	if err != nil || len(list) != 1 || list[0].Address != erased || list[0].Source != "complaint" {
		t.Fatalf("%+v instead of %s, %v", list, erased, err)
	}

	startDaemon(t, settings)
	for i, want := range map[string]outbox.Status{"Ada.King@example.com": outbox.StatusSuppressed, "bob@example.com": outbox.StatusSent} {
		receipt, err := outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "g", Email: i})
		if err != nil {
			t.Fatal(err)
		}
		waitForStatus(t, pool, receipt.MessageID, want)
	}
	other, err := outbox.Invite(ctx, pool, outbox.Invitation{Tenant: "other", GroupID: "g", Email: "ada.king@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	waitForStatus(t, pool, other.MessageID, outbox.StatusSent)
}

func TestErase_refusesWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, address := range []string{"", "ada", "@example.com", "\x00", "\xff", ".*@example.com|.*"} {
		_, err := outbox.Erase(t.Context(), pool, address, nil)
		if _, ok := errors.AsType[*outbox.InputError](err); !ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
