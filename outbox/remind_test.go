package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func templates(h *hop, recipient string) []string {
	var names []string
	for _, m := range h.all() {
		if m.Recipient == recipient {
			names = append(names, m.Template)
		}
	}
	return names
}

func TestRemind_untilThereIsAnAnswer(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	m := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "ada@example.com", RemindAfter: []time.Duration{24 * time.Hour, 72 * time.Hour, 96 * time.Hour}})
	quiet := mail(t, pool, h, outbox.Invitation{GroupID: "g", Email: "bob@example.com", RemindAfter: []time.Duration{24 * time.Hour}})
	if at := value[float64](t, pool, `SELECT extract(epoch FROM remind_at - created_at)::float8 FROM mailcrane.invitation WHERE id = $1`, m.id); at != 86400 {
		t.Errorf("the first after %v s", at)
	}
	if _, err := outbox.Decline(t.Context(), pool, quiet.token); err != nil {
		t.Fatal(err)
	}
	for n, left := range []float64{172800, 86400} {
		exec(t, pool, `UPDATE mailcrane.invitation SET remind_at = clock_timestamp() - interval '1 second'`)
		eventuallyZero(t, pool, `SELECT $1 - count(*) FROM mailcrane.message WHERE template = 'invitation-reminder' AND status = 'sent'`, n+1)
		if at := value[float64](t, pool, `SELECT round(extract(epoch FROM remind_at - clock_timestamp()) / 60)::float8 * 60 FROM mailcrane.invitation WHERE id = $1`, m.id); at != left {
			t.Errorf("reminder %d: the next in %v s, want %v", n+1, at, left)
		}
	}
	if got := templates(h, "ada@example.com"); !slices.Equal(got, []string{"invitation", "invitation-reminder", "invitation-reminder"}) {
		t.Errorf("%q", got)
	}
	if got := templates(h, "bob@example.com"); !slices.Equal(got, []string{"invitation"}) {
		t.Errorf("%q", got)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE invitation_id = $1`, quiet.id); n != 1 {
		t.Errorf("%d messages to somebody who has answered", n)
	}
	last := h.all()[len(h.all())-1]
	if token := h.token(t, last.ID); token != m.token {
		t.Error("the reminder has another link")
	}
	if _, err := outbox.Accept(t.Context(), pool, m.token); err != nil {
		t.Error(err)
	}
	requireEvents(t, pool, m.id, "invitation.created", "message.sent",
		"invitation.reminded", "message.sent", "invitation.reminded", "message.sent", "invitation.accepted")
	requireFindings(t, pool)
}

// Nobody is reminded of a mail that they have not got, nor of what is over.
func TestRemind_onlyOfWhatWasSent(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com", RemindAfter: []time.Duration{time.Hour, 2 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		exec(t, pool, `UPDATE mailcrane.invitation SET remind_at = clock_timestamp() WHERE remind_at IS NOT NULL`)
		exec(t, pool, `SELECT mailcrane.send_reminders()`)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 1 {
		t.Errorf("%d messages", n)
	}
	if n := value[int](t, pool, `SELECT reminders FROM mailcrane.invitation WHERE id = $1 AND remind_at IS NULL`, receipt.InvitationID); n != 2 {
		t.Errorf("%d steps are behind it", n)
	}
}

// remindedAndDue makes an invitation whose mail was sent and whose reminders are all due.
func remindedAndDue(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{
		GroupID: "g", Email: "ada@example.com", RemindAfter: []time.Duration{time.Hour, 2 * time.Hour, 72 * time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE mailcrane.message SET status = 'sent', finished_at = now()`)
	exec(t, pool, `UPDATE mailcrane.invitation SET remind_at = clock_timestamp() - interval '90 minutes'`)
	return receipt.InvitationID
}

const reminded = `SELECT count(*) FROM mailcrane.message WHERE template = 'invitation-reminder'`

// Several are due when no daemon was there for days.
func TestRemind_onceOfWhatIsOverdue(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := remindedAndDue(t, pool)
	for range 3 {
		exec(t, pool, `SELECT mailcrane.send_reminders()`)
	}
	if n := value[int](t, pool, reminded); n != 1 {
		t.Errorf("%d reminders", n)
	}
	record, err := outbox.GetInvitation(t.Context(), pool, id)
	if err != nil || record.Reminders != 2 || record.RemindAt == nil || time.Until(*record.RemindAt).Round(time.Minute) != 69*time.Hour+30*time.Minute {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestRemind_isLeftOutForWhoWasMailedEnough(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"quota":       `UPDATE mailcrane.recipient_use SET times = array_fill(now(), ARRAY[3])`,
		"suppression": `SELECT mailcrane.suppress('ada@example.com', 'asked', 'test')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			id := remindedAndDue(t, pool)
			exec(t, pool, statement)
			exec(t, pool, `SELECT mailcrane.send_reminders()`)
			if n := value[int](t, pool, reminded); n != 0 {
				t.Errorf("%d reminders", n)
			}
			if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.event WHERE type = 'invitation.reminded'`); n != 0 {
				t.Error("there is an event of it")
			}
			if n := value[int](t, pool, `SELECT reminders FROM mailcrane.invitation WHERE id = $1 AND remind_at > now()`, id); n != 2 {
				t.Errorf("%d times are over", n)
			}
		})
	}
}

// Three a day are for reminders too.
func TestRemind_countsForTheQuota(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	remindedAndDue(t, pool)
	exec(t, pool, `SELECT mailcrane.send_reminders()`)
	for i, want := range []outbox.Result{outbox.Created, outbox.Suppressed} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: "ada@example.com"})
		if err != nil || receipt.Result != want {
			t.Errorf("%+v, %v", receipt, err)
		}
	}
}

// What waits when the invitation expires is withdrawn, whoever finds that it has.
func TestRemind_endsWithTheInvitation(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"daemon":         `SELECT mailcrane.expire_invitations()`,
		"invitation":     `SELECT mailcrane.invite('g', 'ada@example.com')`,
		"change_address": `SELECT mailcrane.change_address((SELECT id FROM mailcrane.invitation WHERE email = 'bob@example.com'), 'ada@example.com')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			id := remindedAndDue(t, pool)
			invite(t, pool, "bob@example.com")
			exec(t, pool, `SELECT mailcrane.send_reminders()`)
			exec(t, pool, `UPDATE mailcrane.message SET status = 'held', held_by = 'operator' WHERE template = 'invitation-reminder'`)
			exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = clock_timestamp() WHERE id = $1`, id)
			exec(t, pool, statement)
			if got := value[string](t, pool, `
				SELECT format('%s, %s', i.status, m.status)
				FROM mailcrane.invitation AS i
				JOIN mailcrane.message AS m ON m.invitation_id = i.id AND m.template = 'invitation-reminder'
				WHERE i.id = $1`, id); got != "expired, cancelled" {
				t.Error(got)
			}
		})
	}
}

func TestRemind_refusesTimesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, steps := range [][]time.Duration{
		{0}, {-time.Hour}, {time.Hour, time.Hour}, {2 * time.Hour, time.Hour}, {367 * 24 * time.Hour}, make([]time.Duration, 11),
		{59 * time.Minute}, {time.Hour, 119 * time.Minute}, {time.Hour, 7 * 24 * time.Hour},
	} {
		_, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com", RemindAfter: steps})
		if input, ok := errors.AsType[*outbox.InputError](err); !ok || input.Problems[0].Field != "remind_after" {
			t.Errorf("%v: %v", steps, err)
		}
	}
	for _, given := range []string{`7`, `"x"`, `[]`, `{}`, `[7]`, `[null]`, `["x"]`, `[["1 day"]]`, `["infinity"]`} {
		_, err := pool.Exec(t.Context(), `SELECT mailcrane.invite_many(jsonb_build_array(jsonb_build_object('group_id', 'g', 'email', 'ada@example.com', 'remind_after', $1::text::jsonb)))`, given)
		if err == nil {
			t.Errorf("%s is taken", given)
		}
	}
	exec(t, pool, `SELECT mailcrane.invite(group_id => 'g', email => 'ada@example.com', remind_after => '{2 days,5 days}')`)
	if n := value[int](t, pool, `SELECT cardinality(remind_after) FROM mailcrane.invitation`); n != 2 {
		t.Errorf("%d steps", n)
	}
}
