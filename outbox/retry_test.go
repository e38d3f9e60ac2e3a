package outbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// failed is a message to ada@example.com that a relay has refused once.
func failed(t *testing.T, pool *pgxpool.Pool, h *hop) outbox.Receipt {
	t.Helper()
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if m.Attempt == 1 {
			return outbox.Reply{Code: 550}, &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("no such user")}
		}
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return h.accept(m), nil
	}}
	startRelay(t, pool, h)
	exec(t, pool, `UPDATE mailcrane.policy SET resend_after = '0'`)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusFailed))
	return receipt
}

func requireNotRetried(t *testing.T, pool *pgxpool.Pool, id string) {
	t.Helper()
	if err := outbox.RetryMessage(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFailed) {
		t.Errorf("retry: %v", err)
	}
	if m, err := outbox.GetMessage(t.Context(), pool, id); err != nil || m.Status != outbox.StatusFailed || len(m.Attempts) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	requireFindings(t, pool)
}

// Its link is dead, and its address may be the one that was wrong.
func TestRetryMessage_notAfterANewerMail(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	old := failed(t, pool, h)
	again, err := outbox.ChangeAddress(t.Context(), pool, old.InvitationID, "ada@example.org")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, again.MessageID, hasStatus(outbox.StatusSent))
	requireNotRetried(t, pool, old.MessageID)
}

func TestRetryMessage_notAfterErasure(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	old := failed(t, pool, h)
	if _, err := outbox.Erase(t.Context(), pool, "ada@example.com", nil); err != nil {
		t.Fatal(err)
	}
	requireNotRetried(t, pool, old.MessageID)
}

func TestRetryMessage_notWithoutItsData(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	old := failed(t, pool, h)
	exec(t, pool, `INSERT INTO mailcrane.retention (what, keep) VALUES ('data', '30 days')`)
	exec(t, pool, `UPDATE mailcrane.message SET finished_at = now() - interval '31 days'`)
	requireNotRetried(t, pool, old.MessageID)
}

// Same identity on every try: Message-ID, Date, and so every byte. The time to give
// it up begins anew all the same.
func TestRetryMessage_keepsTheDate(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	old := failed(t, pool, h)
	exec(t, pool, `UPDATE mailcrane.message SET created_at = created_at - interval '30 days'`)
	before, err := outbox.GetMessage(t.Context(), pool, old.MessageID)
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.RetryMessage(t.Context(), pool, old.MessageID); err != nil {
		t.Fatal(err)
	}
	after := eventually(t, pool, old.MessageID, hasStatus(outbox.StatusSent))
	all := h.all()
	if len(all) != 1 || !all[0].Date.Equal(before.CreatedAt) || after.SendAfter != nil {
		t.Errorf("%+v, send_after %v, want the date %s", all, after.SendAfter, before.CreatedAt.Format(time.RFC3339Nano))
	}
	requireFindings(t, pool)
}
