package outbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func wantForeignKey(t *testing.T, err error, item int) {
	t.Helper()
	if input, is := errors.AsType[*outbox.InputError](err); !is || input.Problems[0].Field != "idempotency_key" || input.Problems[0].Item != item {
		t.Errorf("%v is no refusal of the key of item %d", err, item)
	}
}

// Who gives a key twice for different things would take the answer of one for that of
// the other, and nobody would be mailed.
func TestIdempotencyKey_isForOneInvitation(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	ada := outbox.Invitation{GroupID: "g", Email: "ada@example.com", IdempotencyKey: "k"}
	first, err := outbox.Invite(t.Context(), pool, ada)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []outbox.Invitation{{GroupID: "g", Email: "eve@example.com", IdempotencyKey: "k"}, {GroupID: "h", Email: "ada@example.com", IdempotencyKey: "k"}} {
		_, err := outbox.Invite(t.Context(), pool, other)
		wantForeignKey(t, err, 0)
		_, err = outbox.InviteMany(t.Context(), pool, []outbox.Invitation{ada, {GroupID: "g", Email: "bob@example.com"}, other})
		wantForeignKey(t, err, 2)
	}
	_, err = outbox.InviteMany(t.Context(), pool, []outbox.Invitation{{GroupID: "n", Email: "a@example.com", IdempotencyKey: "n"}, {GroupID: "n", Email: "b@example.com", IdempotencyKey: "n"}})
	wantForeignKey(t, err, 1)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation`); n != 1 {
		t.Errorf("%d invitations", n)
	}

	// It stays its key when it is over, or moved.
	if _, err := outbox.ChangeAddress(t.Context(), pool, first.InvitationID, "lovelace@example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := outbox.Revoke(t.Context(), pool, first.InvitationID); err != nil {
		t.Fatal(err)
	}
	if again, err := outbox.Invite(t.Context(), pool, ada); err != nil || again.InvitationID != first.InvitationID || again.Result != outbox.Existing {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestIdempotencyKey_isForOneMessage(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	draft := outbox.Draft{Recipient: "ada@example.com", Template: "verify", IdempotencyKey: "k"}
	first, err := outbox.Enqueue(t.Context(), pool, draft)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []outbox.Draft{
		{Recipient: "eve@example.com", Template: "verify", IdempotencyKey: "k"}, {Recipient: "ada@example.com", Template: "welcome", IdempotencyKey: "k"},
	} {
		_, err := outbox.Enqueue(t.Context(), pool, other)
		wantForeignKey(t, err, 0)
	}
	draft.Recipient, draft.SendAfter = "Ada@example.com", time.Now().Add(time.Hour)
	if again, err := outbox.Enqueue(t.Context(), pool, draft); err != nil || again.MessageID != first.MessageID || again.Result != outbox.Existing {
		t.Errorf("%+v, %v", again, err)
	}
}
