package outbox_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// wantLimit wants that a limit was the reason.
func wantLimit(t *testing.T, err error) {
	t.Helper()
	if _, is := errors.AsType[*outbox.LimitError](err); !is {
		t.Errorf("%v is no *LimitError", err)
	}
}

// Invitations of other people, made days ago, are no supply for one address.
func TestQuota_countsInvitationsThatAreMovedToAnAddress(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for i := range 6 {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: fmt.Sprintf("own%d@example.com", i)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = outbox.ChangeAddress(t.Context(), pool, receipt.InvitationID, "Victim@example.com")
		if i < 3 && err != nil {
			t.Error(err)
		}
		if i >= 3 {
			wantLimit(t, err)
			if email := value[string](t, pool, `SELECT email FROM mailcrane.invitation WHERE id = $1`, receipt.InvitationID); email == "Victim@example.com" {
				t.Error("it was moved all the same")
			}
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient = 'Victim@example.com' AND status = 'queued'`); n != 3 {
		t.Errorf("%d mails are for the victim", n)
	}
}

// What was mailed stays mailed when the invitation goes on to another address.
func TestQuota_isNotGivenBackWhenAnInvitationIsMovedAway(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for i := range 5 {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: "victim@example.com"})
		if want := i < 3; err != nil || (receipt.Result == outbox.Created) != want {
			t.Fatalf("invitation %d: %+v, %v", i, receipt, err)
		}
		if _, err := outbox.ChangeAddress(t.Context(), pool, receipt.InvitationID, fmt.Sprintf("own%d@example.com", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// What counts for a day is remembered for a day, and forgotten without waiting for
// those who count.
func TestPrune_forgetsWhoWasMailed(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `
		INSERT INTO mailcrane.recipient_use (recipient, times, last_at)
		SELECT n, ARRAY[now() - age], now() - age FROM (VALUES (1, interval '25 hours'), (2, '0'), (4, '26 hours')) AS v (n, age)`)
	err := pgx.BeginFunc(t.Context(), pool, func(counting pgx.Tx) error {
		if _, err := counting.Exec(t.Context(), `SELECT FROM mailcrane.recipient_use WHERE recipient = 4 FOR UPDATE`); err != nil {
			return err
		}
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `SET LOCAL lock_timeout = '5s'; SELECT mailcrane.prune()`)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, pool, `SELECT sum(recipient) FROM mailcrane.recipient_use`); n != 2+4 {
		t.Errorf("%d", n)
	}
}

// What was one too many is not mailed a little later by a resend.
func TestQuota_holdsForResend(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var ids []string
	for i := range 5 {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: "victim@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, receipt.InvitationID)
	}
	exec(t, pool, `UPDATE mailcrane.message SET created_at = created_at - interval '11 minutes'`)
	exec(t, pool, `
		INSERT INTO mailcrane.message (id, tenant, invitation_id, channel, recipient, template, locale, status, finished_at, created_at)
		SELECT mailcrane.uuid_v7(), i.tenant, i.id, 'email', i.email, 'invitation-reminder', 'en', 'cancelled', now(), now() - interval '1 hour'
		FROM mailcrane.invitation AS i`)
	for i, id := range ids {
		if _, err := outbox.Resend(t.Context(), pool, id); i < 3 && err != nil {
			t.Errorf("invitation %d: %v", i, err)
		} else if i >= 3 {
			wantLimit(t, err)
		}
	}
	exec(t, pool, `UPDATE mailcrane.recipient_use SET times = ARRAY(SELECT u.at - interval '1 day' FROM unnest(times) AS u (at))`)
	if receipt, err := outbox.Resend(t.Context(), pool, ids[4]); err != nil || receipt.Result != outbox.Created {
		t.Errorf("another day: %+v, %v", receipt, err)
	}
}

func TestResend_toASuppressedAddressLeavesTheLinkGood(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if _, err := outbox.Suppress(t.Context(), pool, "", outbox.Suppression{Address: "ada@example.com"}); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.message SET created_at = created_at - interval '11 minutes'`)
	if receipt, err := outbox.Resend(t.Context(), pool, m.id); err != nil || receipt.Result != outbox.Suppressed {
		t.Errorf("%+v, %v", receipt, err)
	}
	if _, err := outbox.Accept(t.Context(), pool, m.token); err != nil {
		t.Error(err)
	}
}

// Who corrects the address of an invitation for next week does not send it today.
func TestChangeAddress_keepsTheTimeToSendAt(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "aad@example.com", SendAfter: time.Now().Add(72 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	moved, err := outbox.ChangeAddress(t.Context(), pool, receipt.InvitationID, "ada@example.com")
	if err != nil {
		t.Fatal(err)
	}
	waits := value[bool](t, pool, `
		SELECT m.send_after > now() + interval '71 hours' AND j.scheduled_at = m.send_after AND j.state = 'scheduled'
		FROM mailcrane.message AS m
		JOIN mailcrane.river_job AS j ON j.id = m.job_id
		WHERE m.id = $1`, moved.MessageID)
	if !waits {
		t.Error("it is sent now")
	}
}

// What is said to a webhook is not as urgent as an invitation.
func TestFairness_onlyWhatIsUrgentGoesBeforeACrowd(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.crowd (tenant) VALUES ('many')`)
	for priority, ahead := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "verify", Priority: priority})
		if err != nil {
			t.Fatal(err)
		}
		if got := value[bool](t, pool, `
			SELECT j.scheduled_at < now() - interval '1 day'
			FROM mailcrane.message AS m
			JOIN mailcrane.river_job AS j ON j.id = m.job_id
			WHERE m.id = $1`, receipt.MessageID); got != ahead {
			t.Errorf("priority %d: goes before the crowd: %t", priority, got)
		}
	}
}

// Another person's address may end in the one that is erased.
func TestErase_leavesOtherAddressesAlone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	neighbours := []string{"o'brien@example.com", "x/brien@example.com", "x=brien@example.com", "x.brien@example.com"}
	for i, address := range append(neighbours, "brien@example.com") {
		if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: address}); err != nil {
			t.Fatal(err)
		}
	}
	moved, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "moved", Email: "brien@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"o'brien@example.com", "home@example.com"} {
		exec(t, pool, `UPDATE mailcrane.invitation SET email = $2 WHERE id = $1`, moved.InvitationID, address)
	}
	exec(t, pool, `INSERT INTO mailcrane.quota_use (kind, tenant, key, day, used) VALUES
		('inviter', 'default', 'brien@example.com', '2026-01-01', 1), ('inviter', 'default', 'Brien@example.com', '2026-01-01', 1)`)
	for i, key := range []string{"brien@example.com-42", "brien@example.com.42", "42brien@example.com", "invite-brien%40example.com"} {
		_, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint("k", i), Email: fmt.Sprintf("k%d@example.com", i), IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `SELECT mailcrane.erase('brien@example.com')`)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE idempotency_key IS NOT NULL`); n != 0 {
		t.Errorf("%d keys have the address in them", n)
	}
	for _, address := range neighbours {
		if n := value[int](t, pool, `
			SELECT count(*)
			FROM mailcrane.invitation AS i
			JOIN mailcrane.message AS m ON m.invitation_id = i.id
			WHERE i.email = $1 AND m.recipient = $1 AND m.status = 'queued'`, address); n != 1 {
			t.Errorf("%s was erased too", address)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient = 'brien@example.com'`); n != 0 {
		t.Error("it was not erased")
	}
	former := value[string](t, pool, `SELECT array_to_string(former_emails, ' ') FROM mailcrane.invitation WHERE id = $1`, moved.InvitationID)
	recipient := value[string](t, pool, `SELECT recipient FROM mailcrane.message WHERE id = $1`, moved.MessageID)
	if former != recipient+" o'brien@example.com" {
		t.Errorf("%s was mailed, and the former addresses are %s", recipient, former)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE email LIKE 'erased-%' AND former_emails IS NOT NULL`); n != 0 {
		t.Errorf("%d have a former address and never had another", n)
	}
}
