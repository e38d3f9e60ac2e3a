package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestRevoke_saysWhetherItWasInTime(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	begun, answer := make(chan struct{}), make(chan struct{})
	h.answers = map[string]sendFunc{
		"flying@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			close(begun)
			<-answer
			return h.accept(m), nil
		},
		"unknown@example.com": func(ctx context.Context, _ *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
		},
		"deferred@example.com": func(context.Context, *outbox.Message, outbox.Handover) (outbox.Reply, error) {
			return outbox.Reply{}, errors.New("nobody is there")
		},
	}
	startRelay(t, pool, h, func(c *outbox.RelayConfig) { c.RetryMin, c.RetryMax = time.Hour, time.Hour })
	for _, c := range []struct {
		email string
		after time.Duration
		when  func(outbox.MessageRecord) bool
		want  outbox.Stopped
	}{
		{"later@example.com", time.Hour, hasStatus(outbox.StatusQueued), outbox.StoppedInTime},
		{"deferred@example.com", 0, hasOutcome(outbox.Deferred), outbox.StoppedInTime},
		{"unknown@example.com", 0, hasOutcome(outbox.Unknown), outbox.InFlight},
		{"flying@example.com", 0, hasOutcome(""), outbox.InFlight},
		{"sent@example.com", 0, hasStatus(outbox.StatusSent), outbox.AlreadySent},
	} {
		inv := outbox.Invitation{GroupID: "g", Email: c.email}
		if c.after > 0 {
			inv.SendAfter = time.Now().Add(c.after)
		}
		receipt, err := outbox.Invite(t.Context(), pool, inv)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, pool, receipt.MessageID, c.when)
		for range 2 { // the second says it again
			if got, err := outbox.Revoke(t.Context(), pool, receipt.InvitationID); got != c.want || err != nil {
				t.Errorf("%s: %q, %v", c.email, got, err)
			}
		}
		record, err := outbox.GetInvitation(t.Context(), pool, receipt.InvitationID)
		if status := record.Messages[0].Status; err != nil || record.Status != "revoked" || status != outbox.StatusCancelled && c.want != outbox.AlreadySent {
			t.Errorf("%s: %s, %s, %v", c.email, record.Status, status, err)
		}
	}
	<-begun
	close(answer)
	m := value[string](t, pool, `SELECT id::text FROM mailcrane.message WHERE recipient = 'flying@example.com'`)
	eventually(t, pool, m, hasStatus(outbox.StatusSent)) // the truth comes out
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.live_job`)
	requireFindings(t, pool)
}

// hasOutcome is true of a message with one attempt of that outcome.
func hasOutcome(outcome outbox.Outcome) func(outbox.MessageRecord) bool {
	return func(m outbox.MessageRecord) bool { return len(m.Attempts) == 1 && m.Attempts[0].Outcome == outcome }
}

// While the relay sends as fast as it can, what is said to be stopped was never
// handed over.
func TestRevoke_isTrueInARace(t *testing.T) {
	t.Parallel()
	for _, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(isolation), func(t *testing.T) {
			t.Parallel()
			pool, h := outboxtest.Database(t), &hop{}
			startRelay(t, pool, h, func(c *outbox.RelayConfig) { c.Workers = 2 })
			answers := map[outbox.Stopped]int{}
			for round := range 10 {
				var invs []outbox.Invitation
				for i := range 20 {
					invs = append(invs, outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d-%d@example.com", round, i)})
				}
				receipts, err := outbox.InviteMany(t.Context(), pool, invs)
				if err != nil {
					t.Fatal(err)
				}
				for i, receipt := range receipts {
					answer := revokeIn(t, pool, isolation, time.Duration(i%8)*500*time.Microsecond, receipt.InvitationID)
					answers[answer]++
					if answer == outbox.StoppedInTime {
						if m, err := outbox.GetMessage(t.Context(), pool, receipt.MessageID); err != nil || len(m.Attempts) > 0 || h.copies()[invs[i].Email] > 0 {
							t.Errorf("stopped, and yet %+v, %v", m, err)
						}
					}
				}
			}
			t.Log(answers)
			// With an old snapshot it takes luck to know that one was stopped.
			if isolation == pgx.ReadCommitted && answers[outbox.StoppedInTime] == 0 || answers[outbox.AlreadySent]+answers[outbox.InFlight] == 0 {
				t.Error("one side has won every race")
			}
		})
	}
}

// revokeIn revokes in a transaction whose snapshot has the given age, and tries again
// when the database asks for that.
func revokeIn(t *testing.T, pool interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}, isolation pgx.TxIsoLevel, age time.Duration, id string,
) outbox.Stopped {
	t.Helper()
	for {
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: isolation})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT pg_sleep($1)`, age.Seconds()); err != nil {
			t.Fatal(err)
		}
		answer, err := outbox.Revoke(t.Context(), tx, id)
		if err == nil {
			err = tx.Commit(t.Context())
		}
		if err == nil {
			return answer
		}
		_ = tx.Rollback(t.Context())
		if !strings.Contains(err.Error(), "40001") {
			t.Fatal(err)
		}
	}
}

func TestRevoke_killsTheLink(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if _, err := outbox.Revoke(t.Context(), pool, m.id); err != nil {
		t.Fatal(err)
	}
	_, err := outbox.Accept(t.Context(), pool, m.token)
	if status, ok := errors.AsType[*outbox.StatusError](err); !ok || status.Status != "revoked" {
		t.Error(err)
	}
	m = mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if _, err := outbox.Accept(t.Context(), pool, m.token); err != nil {
		t.Error(err)
	}
	if _, err := outbox.Revoke(t.Context(), pool, m.id); err == nil || !strings.Contains(err.Error(), "is accepted") {
		t.Error(err)
	}
	for _, id := range []string{"", "x", m.messageID} {
		if _, err := outbox.Revoke(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestResend_replacesTheLink(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com", Priority: 3})
	_, err := outbox.Resend(t.Context(), pool, m.id)
	if limit, ok := errors.AsType[*outbox.LimitError](err); !ok || limit.RetryAfter < 9*time.Minute || limit.RetryAfter > 10*time.Minute {
		t.Errorf("too soon: %v", err)
	}
	exec(t, pool, `UPDATE mailcrane.policy SET resend_after = '0', max_resends = 2`)
	tokens := []string{m.token}
	for range 2 {
		receipt, err := outbox.Resend(t.Context(), pool, m.id)
		if err != nil || receipt.InvitationID != m.id || receipt.Result != outbox.Created {
			t.Fatalf("%+v, %v", receipt, err)
		}
		if again := eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent)); again.Priority != 3 || again.ExpiresAt == nil {
			t.Errorf("%+v", again)
		}
		tokens = append(tokens, h.token(t, receipt.MessageID))
	}
	_, err = outbox.Resend(t.Context(), pool, m.id)
	if limit, ok := errors.AsType[*outbox.LimitError](err); !ok || limit.RetryAfter != 0 || !strings.Contains(err.Error(), "2 times") {
		t.Errorf("too often: %v", err)
	}
	for _, old := range tokens[:2] {
		if _, err := outbox.Accept(t.Context(), pool, old); !errors.Is(err, outbox.ErrInvalidToken) {
			t.Errorf("an old link: %v", err)
		}
	}
	if _, err := outbox.Accept(t.Context(), pool, tokens[2]); err != nil {
		t.Error(err)
	}
	if _, err := outbox.Resend(t.Context(), pool, m.id); err == nil || !strings.Contains(err.Error(), "is accepted") {
		t.Error(err)
	}
	requireFindings(t, pool)
}

// What was not sent yet is not sent any more: its link would be invalid.
func TestResend_withdrawsWhatItReplaces(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `UPDATE mailcrane.policy SET resend_after = '0'`)
	first, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `INSERT INTO mailcrane.suppression (address, reason) VALUES ('ada@example.com', 'bounced')`)
	second, err := outbox.Resend(t.Context(), pool, first.InvitationID)
	if err != nil || second.Result != outbox.Suppressed {
		t.Errorf("%+v, %v", second, err)
	}
	exec(t, pool, `DELETE FROM mailcrane.suppression`)
	third, err := outbox.Resend(t.Context(), pool, first.InvitationID)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]outbox.Status{
		first.MessageID: outbox.StatusCancelled, second.MessageID: outbox.StatusSuppressed, third.MessageID: outbox.StatusQueued,
	} {
		if m, err := outbox.GetMessage(t.Context(), pool, id); err != nil || m.Status != want {
			t.Errorf("%s instead of %s, %v", m.Status, want, err)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.live_job`); n != 1 {
		t.Errorf("%d jobs", n)
	}
	requireFindings(t, pool)
}

func TestChangeAddress_mailsTheOtherOne(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@exmaple.com"})
	mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "bob@example.com"})
	lapsed := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "eve@example.com"})
	exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = now() WHERE id = $1`, lapsed.id)

	if _, err := outbox.ChangeAddress(t.Context(), pool, m.id, "Bob@example.com"); !errors.Is(err, outbox.ErrAlreadyInvited) {
		t.Error(err)
	}
	for _, address := range []string{"", "nobody", "a\x00@example.com", "\xff@example.com", "Ada@exmaple.com"} {
		_, err := outbox.ChangeAddress(t.Context(), pool, m.id, address)
		if input, ok := errors.AsType[*outbox.InputError](err); !ok || input.Problems[0].Field != "email" {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := outbox.ChangeAddress(t.Context(), pool, m.messageID, "ada@example.com"); !errors.Is(err, outbox.ErrNotFound) {
		t.Error(err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 3 {
		t.Errorf("%d messages", n)
	}

	receipt, err := outbox.ChangeAddress(t.Context(), pool, m.id, " Eve@EXAMPLE.com ")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent))
	record, err := outbox.Accept(t.Context(), pool, h.token(t, receipt.MessageID))
	if err != nil || record.ID != m.id || record.Email != "Eve@example.com" {
		t.Errorf("%+v, %v", record, err)
	}
	if _, err := outbox.Verify(t.Context(), pool, m.token); !errors.Is(err, outbox.ErrInvalidToken) {
		t.Error(err)
	}
	if status := value[string](t, pool, `SELECT status FROM mailcrane.invitation WHERE id = $1`, lapsed.id); status != "expired" {
		t.Error(status)
	}
	exec(t, pool, `UPDATE mailcrane.policy SET max_resends = 0`)
	again := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "eve@example.com"})
	if _, err := outbox.ChangeAddress(t.Context(), pool, again.id, "dan@example.com"); err == nil || !strings.Contains(err.Error(), "0 times already") {
		t.Error(err)
	}
	requireFindings(t, pool)
}

// Whoever asks what an address was mailed gets what it was mailed before, too.
func TestChangeAddress_findsWhatTheFormerOneWasMailed(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	messages := func(recipient string) (ids []string) {
		t.Helper()
		found, err := outbox.ListMessages(t.Context(), pool, outbox.MessageFilter{Recipient: recipient})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range found {
			ids = append(ids, m.ID)
		}
		return ids
	}
	first, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "Ada@example.com", Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.message SET status = 'sent', finished_at = now()`)
	of := map[string][]string{"ada@EXAMPLE.com": {first.MessageID}}
	for _, address := range []string{"bob@example.com", "Carl@example.com"} {
		receipt, err := outbox.ChangeAddress(t.Context(), pool, first.InvitationID, address)
		if err != nil {
			t.Fatal(err)
		}
		of[address] = []string{receipt.MessageID}
	}
	for address, want := range of {
		if got := messages(address); !slices.Equal(got, want) {
			t.Errorf("%s was mailed %q instead of %q", address, got, want)
		}
	}

	got := report(t, pool, "", outbox.Bounce{Kind: outbox.HardBounce, Address: "ADA@example.com"})
	if len(got) != 1 || got[0].MessageID != first.MessageID {
		t.Errorf("the bounce is about %+v", got)
	}
	requireText(t, pool, suppressedFor, "a ada@example.com bounce")
}

func TestCancelMessage_withdrawsIt(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "receipt"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := outbox.CancelMessage(t.Context(), pool, receipt.MessageID); got != outbox.StoppedInTime || err != nil {
			t.Error(got, err)
		}
	}
	m, err := outbox.GetMessage(t.Context(), pool, receipt.MessageID)
	if err != nil || m.Status != outbox.StatusCancelled || m.FinishedAt == nil {
		t.Errorf("%+v, %v", m, err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.live_job`); n != 0 {
		t.Errorf("%d jobs", n)
	}
	for _, id := range []string{"", "x", "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"} {
		if _, err := outbox.CancelMessage(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
