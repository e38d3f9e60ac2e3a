package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// mailed is an invitation that was sent.
type mailed struct {
	id, messageID, token string
}

// mail invites somebody, and waits until the mail is sent.
func mail(t *testing.T, pool *pgxpool.Pool, h *hop, inv outbox.Invitation) mailed {
	t.Helper()
	receipt, err := outbox.Invite(t.Context(), pool, inv)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent))
	return mailed{receipt.InvitationID, receipt.MessageID, h.token(t, receipt.MessageID)}
}

// token is the one in the mail.
func (h *hop) token(t *testing.T, messageID string) string {
	t.Helper()
	for _, m := range h.all() {
		if m.ID == messageID {
			link, _ := m.Data["link"].(string)
			_, token, _ := strings.Cut(link, "token=")
			return token
		}
	}
	t.Fatalf("message %s was not sent", messageID)
	return ""
}

func TestAccept_succeedsOnceOfFiftyAtATime(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	wide := outboxtest.Connections(t, pool, 50)
	errs := make([]error, 50)
	outboxtest.AtOnce(t, pool, `SELECT FROM mailcrane.invitation FOR UPDATE`, len(errs), func(i int) { _, errs[i] = outbox.Accept(t.Context(), wide, m.token) })
	accepted := 0
	for _, err := range errs {
		status, refused := errors.AsType[*outbox.StatusError](err)
		switch {
		case err == nil:
			accepted++
		case !refused || status.Status != "accepted":
			t.Error(err)
		}
	}
	if accepted != 1 {
		t.Errorf("%d succeeded", accepted)
	}
}

func TestAccept_isPartOfTheCallersTransaction(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	record, err := outbox.Accept(t.Context(), tx, m.token)
	if err != nil || record.ID != m.id || record.Status != "accepted" || record.GroupID != "g" || record.FinishedAt == nil {
		t.Errorf("%+v, %v", record, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err = outbox.Decline(t.Context(), pool, m.token)
	if err != nil || record.Status != "declined" {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestAccept_takesNoTokenThatWasNotMailed(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	other := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "bob@example.com"})
	for _, token := range []string{
		"", "x", "\x00", "\xff", strings.Repeat("A", 43), strings.Repeat("A", 44), m.token + "=", " " + m.token, m.token + "\n",
		m.token[:21] + other.token[21:], strings.ToUpper(m.token), m.token[:42] + "B", m.id,
	} {
		_, accepted := outbox.Accept(t.Context(), pool, token)
		_, declined := outbox.Decline(t.Context(), pool, token)
		_, verified := outbox.Verify(t.Context(), pool, token)
		for _, err := range []error{accepted, declined, verified} {
			if !errors.Is(err, outbox.ErrInvalidToken) {
				t.Errorf("%q: %v", token, err)
			}
		}
	}
	// The functions are a door of their own.
	if n := value[int](t, pool, `SELECT count(*) FROM unnest(ARRAY['', 'x', repeat('A', 43), $1 || '=', upper($1)]) AS t, mailcrane.verify(t)`, m.token); n != 0 {
		t.Errorf("%d are valid", n)
	}
	// Written, and not mailed: what a thief of the secret makes is worth nothing.
	exec(t, pool, `UPDATE mailcrane.attempt SET token_hash = NULL WHERE message_id = $1`, m.messageID)
	if _, err := outbox.Accept(t.Context(), pool, m.token); !errors.Is(err, outbox.ErrInvalidToken) {
		t.Error(err)
	}
}

func TestVerify_changesNothing(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	for _, status := range []string{"pending", "accepted"} {
		record, err := outbox.Verify(t.Context(), pool, m.token)
		if err != nil || record.ID != m.id || record.Status != status {
			t.Errorf("%+v, %v", record, err)
		}
		if _, err := outbox.Accept(t.Context(), pool, m.token); status == "pending" && err != nil {
			t.Error(err)
		}
	}
}

func TestAcceptInvitation_worksWithoutAToken(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for email, end := range map[string]func(context.Context, outbox.Tx, string) (outbox.InvitationRecord, error){
		"accepted": outbox.AcceptInvitation, "declined": outbox.DeclineInvitation,
	} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: email + "@example.com", SendAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		record, err := end(t.Context(), pool, receipt.InvitationID)
		if err != nil || record.Status != email || record.Messages[0].Status != outbox.StatusCancelled || !strings.Contains(record.Messages[0].Reason, email) {
			t.Errorf("%+v, %v", record, err)
		}
		if _, err := end(t.Context(), pool, receipt.InvitationID); err == nil || !strings.Contains(err.Error(), "the invitation is "+email) {
			t.Errorf("again: %v", err)
		}
		for _, id := range []string{"", "x", receipt.MessageID} {
			if _, err := end(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFound) {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	requireFindings(t, pool)
}

// One at a time and in batches, with a key and without.
func TestInvite_givesOneRowOfFiftyAtATime(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	wide := outboxtest.Connections(t, pool, 50)
	ids := make([]string, 50)
	outboxtest.AtOnce(t, pool, `LOCK TABLE mailcrane.invitation IN EXCLUSIVE MODE`, len(ids), func(i int) {
		inv := outbox.Invitation{GroupID: "g", Email: "ada@example.com", IdempotencyKey: []string{"", "k"}[i/2%2]}
		invite := func() (string, error) {
			receipt, err := outbox.Invite(t.Context(), wide, inv)
			return receipt.InvitationID, err
		}
		if i%2 == 0 {
			invite = func() (string, error) {
				receipts, err := outbox.InviteMany(t.Context(), wide, []outbox.Invitation{inv})
				if err != nil {
					return "", err
				}
				return receipts[0].InvitationID, nil
			}
		}
		var err error
		if ids[i], err = invite(); err != nil {
			t.Error(err)
		}
	})
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("%s and %s", ids[0], id)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestRequests_areForgotten(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.request (tenant, key, hash, created_at) VALUES ('default', 'k', '', now() - interval '2 days')`)
	startRelay(t, pool, &hop{})
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.request`)
}

func TestExpire_marksWhatHasLapsed(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com", ExpiresIn: 2 * time.Second})
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE status <> 'expired'`)
	if _, err := outbox.Accept(t.Context(), pool, m.token); err == nil || !strings.Contains(err.Error(), "is expired") {
		t.Error(err)
	}
	mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	requireFindings(t, pool)
}

func TestExpire_isNotWaitedFor(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = now() - interval '1 second'`)
	_, accepted := outbox.AcceptInvitation(t.Context(), pool, receipt.InvitationID)
	_, resent := outbox.Resend(t.Context(), pool, receipt.InvitationID)
	_, revoked := outbox.Revoke(t.Context(), pool, receipt.InvitationID)
	for _, err := range []error{accepted, resent, revoked} {
		if status, ok := errors.AsType[*outbox.StatusError](err); !ok || status.Status != "expired" {
			t.Error(err)
		}
	}
	exec(t, pool, `SELECT mailcrane.invite_many(jsonb_agg(jsonb_build_object('group_id', 'h', 'email', format('u%s@example.com', n)))) FROM generate_series(1, 5) AS n`)
	exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = now() - interval '1 second'`)
	for _, want := range []int{4, 2, 0} {
		if n := value[int](t, pool, `SELECT mailcrane.expire_invitations(4)`); n != want {
			t.Errorf("%d expired, want %d", n, want)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE status = 'expired' AND finished_at IS NOT NULL`); n != 6 {
		t.Error(n, "are expired")
	}
}

// Two who change one invitation at the same moment: the second waits for the
// first, and finds what that has done.
func TestLifecycle_oneAfterTheOther(t *testing.T) {
	t.Parallel()
	change := map[string]func(context.Context, outbox.Tx, mailed) error{
		"accept": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.Accept(ctx, tx, m.token)
			return err
		},
		"accept by id": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.AcceptInvitation(ctx, tx, m.id)
			return err
		},
		"decline": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.Decline(ctx, tx, m.token)
			return err
		},
		"revoke": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.Revoke(ctx, tx, m.id)
			return err
		},
		"resend": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.Resend(ctx, tx, m.id)
			return err
		},
		"move": func(ctx context.Context, tx outbox.Tx, m mailed) error {
			_, err := outbox.ChangeAddress(ctx, tx, m.id, "new@example.com")
			return err
		},
	}
	for _, c := range []struct{ first, second, want string }{
		{"accept", "accept", "is accepted"},
		{"accept by id", "accept by id", "is accepted"},
		{"accept", "revoke", "is accepted"},
		{"accept by id", "resend", "is accepted"},
		{"decline", "accept", "is declined"},
		{"revoke", "accept", "is revoked"},
		{"revoke", "move", "is revoked"},
		{"revoke", "revoke", ""},
		{"resend", "accept", "token is not valid"},
		{"move", "decline", "token is not valid"},
		{"resend", "resend", "less than 00:10:00 ago"},
		{"move", "move", "is the address that it has"},
	} {
		t.Run(c.first+", "+c.second, func(t *testing.T) {
			t.Parallel()
			pool, h := outboxtest.Database(t), &hop{}
			startRelay(t, pool, h)
			m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
			exec(t, pool, `UPDATE mailcrane.message SET created_at = now() - interval '11 minutes'`)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := change[c.first](t.Context(), tx, m); err != nil {
				t.Fatal(err)
			}
			second := make(chan error, 1)
			go func() { second <- change[c.second](t.Context(), pool, m) }()
			eventuallyZero(t, pool, `SELECT 1 - least(1, count(*)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-second; (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v instead of %q", err, c.want)
			}
		})
	}
}
