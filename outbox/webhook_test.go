package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// startTelling runs a relay that tells webhooks by way of a sender.
func startTelling(t *testing.T, pool *pgxpool.Pool, sender outbox.Sender, change ...func(*outbox.RelayConfig)) {
	t.Helper()
	startRelay(t, pool, &hop{}, append(change, func(c *outbox.RelayConfig) { c.Senders[outbox.WebhookChannel] = sender })...)
}

func createWebhook(t *testing.T, pool *pgxpool.Pool, tenant string, types ...string) string {
	t.Helper()
	id, err := outbox.CreateWebhook(t.Context(), pool, tenant, "https://example.com/hook", types...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// groupsTold are those of the events that a webhook was told of, in the order of names.
func groupsTold(h *hop, webhook string) []string {
	var groups []string
	for _, m := range h.all() {
		if m.Recipient == webhook {
			groups = append(groups, m.Data["data"].(map[string]any)["group_id"].(string))
		}
	}
	slices.Sort(groups)
	return groups
}

// What goes wrong with one webhook is none of the others' business.
func TestWebhooks_oneDoesNotHinderTheOthers(t *testing.T) {
	t.Parallel()
	pool, h, alarm := outboxtest.Database(t), &hop{}, newAlarm("tell webhook failed")
	first, bad, last := createWebhook(t, pool, ""), createWebhook(t, pool, ""), createWebhook(t, pool, "")
	exec(t, pool, fmt.Sprintf(`ALTER TABLE mailcrane.message ADD CHECK (recipient <> '%s')`, bad))
	inviteToGroup(t, pool, "1")
	requireGroups(t, pool, "", "1")
	exec(t, pool, `SELECT mailcrane.send_events()`)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient IN ($1, $2)`, first, last); n != 2 {
		t.Errorf("%d messages, want one for each of two", n)
	}
	startTelling(t, pool, h, func(c *outbox.RelayConfig) { c.Logger = slog.New(alarm) })
	inviteToGroup(t, pool, "2")
	waitUntil(t, "the others are told", func() bool {
		return strings.Join(append(groupsTold(h, first), groupsTold(h, last)...), " ") == "1 2 1 2"
	})
	alarm.wait(t)
}

func TestWebhooks_areToldWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	accepted, all := createWebhook(t, pool, "", "invitation.accepted"), createWebhook(t, pool, "", "invitation.*")
	other := createWebhook(t, pool, "other")
	for i := range 5 {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint(i), Email: "ada@example.com", SendAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.AcceptInvitation(t.Context(), pool, receipt.InvitationID); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `SELECT mailcrane.tell_webhook($1, 3)`, accepted) // in small steps
	startTelling(t, pool, h)
	waitUntil(t, "they are told", func() bool { return len(groupsTold(h, accepted)) >= 5 && len(groupsTold(h, all)) >= 10 })
	if a, b, c := groupsTold(h, accepted), groupsTold(h, all), groupsTold(h, other); len(a) != 5 || len(b) != 10 || len(c) != 0 {
		t.Errorf("told %q, %q and %q", a, b, c)
	}
	requireFindings(t, pool)
}

// What is deleted before a webhook was told of it is on record.
func TestWebhooks_whatTheyMissIsNoted(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	told, behind, quiet := createWebhook(t, pool, ""), createWebhook(t, pool, ""), createWebhook(t, pool, "quiet")
	inviteToGroup(t, pool, "1")
	before := requireGroups(t, pool, "", "1")
	exec(t, pool, `SELECT mailcrane.tell_webhook($1)`, told)
	exec(t, pool, `UPDATE mailcrane.event SET created_at = now() - interval '91 days'`)
	inviteToGroup(t, pool, "2")
	requireGroups(t, pool, before[0].ID, "2")
	exec(t, pool, `SELECT mailcrane.prune()`)
	requireGroups(t, pool, "", "2")
	for id, missed := range map[string]bool{told: false, behind: true, quiet: false} {
		if w, err := outbox.GetWebhook(t.Context(), pool, id); err != nil || (w.MissedAt != nil) != missed {
			t.Errorf("%+v, %v", w, err)
		}
	}
	tell(t, pool)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient IN ($1, $2) AND data ->> 'group_id' = '2'`, told, behind); n != 2 {
		t.Errorf("%d are told of what is left", n)
	}
}

// What waits for a webhook that answers 410 is held, however long, and told when it is
// enabled: each once.
func TestWebhooks_disabledOnesLoseNothing(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	hook, other := createWebhook(t, pool, ""), createWebhook(t, pool, "")
	var gone atomic.Bool
	gone.Store(true)
	startTelling(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if gone.Load() && m.Recipient == hook {
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			err := outbox.DisableWebhook(ctx, pool, hook, "it answered 410 Gone")
			return outbox.Reply{Code: 410}, &outbox.SendError{Outcome: outbox.Deferred, Err: errors.Join(errors.New("the answer is 410"), err)}
		}
		return h.Send(ctx, m, handover)
	}))
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("%02d", i))
		inviteToGroup(t, pool, want[i])
		if i == 20 {
			waitUntil(t, "the webhook is disabled and what waits is held", func() bool {
				return value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient = $1 AND held_by = 'webhook'`, hook) > 0
			})
		}
	}
	waitUntil(t, "the other one is told", func() bool { return len(groupsTold(h, other)) == len(want) })
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient = $1 AND held_by IS DISTINCT FROM 'webhook'`, hook)
	exec(t, pool, `UPDATE mailcrane.message SET created_at = created_at - interval '30 hours' WHERE recipient = $1`, hook)
	gone.Store(false)
	if err := outbox.EnableWebhook(t.Context(), pool, hook); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the webhook is told of everything", func() bool { return len(groupsTold(h, hook)) >= len(want) })
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.message WHERE channel = 'webhook' AND status <> 'sent'`)
	if got := groupsTold(h, hook); !slices.Equal(got, want) {
		t.Errorf("told of %q", got)
	}
	requireFindings(t, pool)
}

// A webhook may be enabled while what waits for it is being held.
func TestWebhooks_nothingIsHeldForOneThatIsEnabled(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	hook := createWebhook(t, pool, "")
	startTelling(t, pool, h)
	if err := outbox.DisableWebhook(t.Context(), pool, hook, "test"); err != nil {
		t.Fatal(err)
	}
	enabling := outboxtest.Begin(t, pool)
	if err := outbox.EnableWebhook(t.Context(), enabling, hook); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `SELECT mailcrane.enqueue(recipient => $1, template => 'webhook-event', channel => 'webhook', data => '{"group_id": "1"}')`, hook)
	waitUntil(t, "its turn has come", func() bool {
		return value[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FOR SHARE OF w%'`) == 1
	})
	if err := enabling.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "it is told", func() bool { return len(groupsTold(h, hook)) == 1 })
}

func TestWebhooks_areReplayedFromWhatTheyWereTold(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	hook := createWebhook(t, pool, "")
	for _, group := range []string{"1", "2", "3"} {
		inviteToGroup(t, pool, group)
	}
	list := requireGroups(t, pool, "", "1", "2", "3")
	messages := func(want int) {
		t.Helper()
		if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE recipient = $1`, hook); n != want {
			t.Errorf("%d messages, want %d", n, want)
		}
	}
	exec(t, pool, `SELECT mailcrane.tell_webhook($1, 2)`, hook)
	err := outbox.ReplayWebhook(t.Context(), pool, hook, list[2].ID)
	if _, refused := errors.AsType[*outbox.InputError](err); !refused {
		t.Errorf("after what it has not been told: %v", err)
	}
	for _, after := range []string{list[1].ID, list[0].ID, ""} {
		if err := outbox.ReplayWebhook(t.Context(), pool, hook, after); err != nil {
			t.Fatal(err)
		}
	}
	tell(t, pool)
	messages(5)
	exec(t, pool, `UPDATE mailcrane.event SET created_at = now() - interval '91 days' WHERE id = $1`, eventNumber(list[0]))
	exec(t, pool, `SELECT mailcrane.prune()`)
	if err := outbox.ReplayWebhook(t.Context(), pool, hook, ""); err != nil { // from the first that there is
		t.Fatal(err)
	}
	tell(t, pool)
	messages(7)
	exec(t, pool, `SELECT mailcrane.prune()`)
	if w, err := outbox.GetWebhook(t.Context(), pool, hook); err != nil || w.MissedAt != nil {
		t.Errorf("%+v, %v", w, err)
	}
}

// A secret is good for a day after it was replaced, come what may.
func TestWebhooks_rotateOnceADay(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	hook := createWebhook(t, pool, "")
	for _, tooSoon := range []bool{false, true} {
		err := outbox.RotateWebhook(t.Context(), pool, hook)
		limit, is := errors.AsType[*outbox.LimitError](err)
		if is != tooSoon || is && (limit.RetryAfter < 23*time.Hour || limit.RetryAfter > 24*time.Hour) {
			t.Errorf("too soon %v: %v", tooSoon, err)
		}
	}
	exec(t, pool, `UPDATE mailcrane.webhook SET rotated_at = rotated_at - interval '24 hours'`)
	if err := outbox.RotateWebhook(t.Context(), pool, hook); err != nil {
		t.Error(err)
	}
	if w, err := outbox.GetWebhook(t.Context(), pool, hook); err != nil || w.Generation != 3 {
		t.Errorf("%+v, %v", w, err)
	}
}

// Messages to webhooks are kept for thirty days, unless somebody says otherwise.
func TestPrune_messagesToWebhooks(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	createWebhook(t, pool, "")
	inviteToGroup(t, pool, "1")
	startTelling(t, pool, h)
	eventuallyZero(t, pool, `SELECT 1 - count(*) FROM mailcrane.message WHERE channel = 'webhook' AND status = 'sent'`)
	left := func(days, want int) {
		t.Helper()
		exec(t, pool, `UPDATE mailcrane.message SET finished_at = now() - make_interval(days => $1) WHERE finished_at IS NOT NULL`, days)
		exec(t, pool, `SELECT mailcrane.prune_events(10)`)
		if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message AS m JOIN mailcrane.attempt AS a ON a.message_id = m.id WHERE m.channel = 'webhook'`); n != want {
			t.Errorf("%d messages of %d days ago", n, days)
		}
	}
	left(29, 1)
	left(31, 0)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 1 {
		t.Errorf("%d messages are left of the invitation", n)
	}
	requireFindings(t, pool)
}

// Nobody waits for the events of others.
func BenchmarkWebhooks(b *testing.B) {
	pool := outboxtest.Database(b)
	ctx := context.Background()
	for range 2 {
		if _, err := outbox.CreateWebhook(ctx, pool, "", "https://example.com/hook"); err != nil {
			b.Fatal(err)
		}
	}
	quiet, err := outbox.CreateWebhook(ctx, pool, "quiet", "https://example.com/hook")
	if err != nil {
		b.Fatal(err)
	}
	fill := func(n int) {
		exec(b, pool, fmt.Sprintf(`INSERT INTO mailcrane.event (tenant, type, invitation_id) SELECT 'default', 'invitation.created', gen_random_uuid() FROM generate_series(1, %d)`, n))
	}
	b.Run("thousand", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			fill(1000)
			b.StartTimer()
			exec(b, pool, `SELECT mailcrane.send_events(1000)`)
		}
	})
	fill(300000)
	exec(b, pool, `UPDATE mailcrane.webhook SET disabled_at = now(), disabled_because = 'bench' WHERE id <> $1`, quiet)
	b.Run("quiet", func(b *testing.B) {
		for range b.N {
			exec(b, pool, `SELECT mailcrane.send_events(1000)`)
		}
	})
}
