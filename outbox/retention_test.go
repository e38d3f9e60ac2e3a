package outbox_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// age makes everything that is there ten days older.
func age(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for _, statement := range []string{
			`SET LOCAL session_replication_role = 'replica'`,
			`CREATE FUNCTION pg_temp.older(id uuid) RETURNS uuid LANGUAGE sql AS $$
				SELECT (left(mailcrane.uuid_v7_floor(now() - interval '10 days')::text, 13) || right(id::text, 23))::uuid $$`,
			`UPDATE mailcrane.message SET id = pg_temp.older(id), created_at = created_at - interval '10 days', finished_at = finished_at - interval '10 days'`,
			`UPDATE mailcrane.attempt SET message_id = pg_temp.older(message_id)`,
			`UPDATE mailcrane.invitation SET created_at = created_at - interval '10 days', finished_at = finished_at - interval '10 days'`,
			`UPDATE mailcrane.event SET created_at = created_at - interval '10 days'`,
			`UPDATE mailcrane.quota_use SET day = day - 10`,
		} {
			if _, err := tx.Exec(t.Context(), statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// history leaves an invitation that was accepted and one that is pending, both
// mailed ten days ago, and one of now that was accepted.
func history(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	relay := startRelay(t, pool, &hop{})
	invite := func(email string) string {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{
			GroupID: "g", Email: email, Link: "https://example.com/1", Data: map[string]any{"a": 1}, ExpiresIn: 366 * 24 * time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, pool, receipt.MessageID, func(m outbox.MessageRecord) bool { return m.Status == outbox.StatusSent })
		return receipt.InvitationID
	}
	accept := func(id string) {
		if _, err := outbox.AcceptInvitation(t.Context(), pool, id); err != nil {
			t.Fatal(err)
		}
	}
	accept(invite("over@example.com"))
	invite("pending@example.com")
	age(t, pool)
	accept(invite("new@example.com"))
	if err := relay.Stop(t.Context()); err != nil { // it prunes as well
		t.Fatal(err)
	}
}

func TestPrune_keepsEverythingUnlessTold(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	history(t, pool)
	const rows = `SELECT count(*) FROM (SELECT id::text FROM mailcrane.invitation UNION ALL SELECT id::text FROM mailcrane.message UNION ALL
		SELECT message_id::text FROM mailcrane.attempt UNION ALL SELECT id::text FROM mailcrane.event) AS r`
	before := value[int](t, pool, rows)
	exec(t, pool, `SELECT mailcrane.prune()`)
	if after := value[int](t, pool, rows); after != before {
		t.Errorf("%d of %d rows are left", after, before)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO mailcrane.retention (what, keep) VALUES ('message', '23 hours')`); err == nil {
		t.Error("messages can be kept for less than a day")
	}
}

func TestPrune_deletesWhatIsOverForLong(t *testing.T) {
	t.Parallel()
	for what, want := range map[string]string{
		"data":    `over: {} none, kept: yes, pending: {"a": 1} https://example.com/1 kept: yes, new: {"a": 1} https://example.com/1 kept: yes`,
		"attempt": `over: {"a": 1} https://example.com/1 kept: no, pending: {"a": 1} https://example.com/1 kept: yes, new: {"a": 1} https://example.com/1 kept: yes`,
		"message": `pending: {"a": 1} https://example.com/1 kept: yes, new: {"a": 1} https://example.com/1 kept: yes`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			history(t, pool)
			exec(t, pool, `INSERT INTO mailcrane.retention (what, keep) VALUES ($1, '5 days')`, what)
			for range 8 { // in small steps, which come back to the beginning
				exec(t, pool, `SELECT mailcrane.prune(1)`)
			}
			got := value[string](t, pool, `
				SELECT string_agg(format('%s: %s %s kept: %s', split_part(i.email, '@', 1), i.data, coalesce(i.link, 'none,'),
					CASE WHEN (SELECT a.reply FROM mailcrane.attempt AS a JOIN mailcrane.message AS m ON m.id = a.message_id WHERE m.invitation_id = i.id) IS NULL THEN 'no' ELSE 'yes' END),
					', ' ORDER BY i.created_at)
				FROM mailcrane.invitation AS i`)
			if got != want {
				t.Errorf("%s\ninstead of\n%s", got, want)
			}
			requireFindings(t, pool)

			// What is over later has its turn as well.
			exec(t, pool, `UPDATE mailcrane.invitation SET status = 'declined', finished_at = now() - interval '6 days' WHERE status = 'pending'`)
			for range 8 {
				exec(t, pool, `SELECT mailcrane.prune(1)`)
			}
			if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE email = 'pending@example.com' AND data <> '{}'`); n != 0 && what != "attempt" {
				t.Error("what was not over the first time is forgotten")
			}
		})
	}
}

// Who has not read events that are deleted is told so.
func TestPrune_eventsThatAreMissingAreSaid(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	history(t, pool)
	var all []outbox.Event
	waitUntil(t, "all events can be read", func() (is bool) {
		var err error
		if all, err = outbox.ListEvents(t.Context(), pool, outbox.EventFilter{}); err != nil {
			t.Fatal(err)
		}
		return len(all) == 8
	})
	exec(t, pool, `UPDATE mailcrane.retention SET keep = '5 days' WHERE what = 'event'`)
	for range len(all) {
		exec(t, pool, `SELECT mailcrane.prune(1)`)
	}
	left, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{})
	if err != nil || len(left) == 0 || len(left) >= len(all) || left[0].ID != all[len(all)-len(left)].ID {
		t.Fatalf("%d of %d events are left, %v", len(left), len(all), err)
	}
	gone := len(all) - len(left)
	_, err = outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: all[0].ID})
	if input, ok := errors.AsType[*outbox.InputError](err); !ok || !strings.Contains(input.Problems[0].Problem, "deleted already") {
		t.Errorf("%v", err)
	}
	if next, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: all[gone-1].ID}); err != nil || len(next) != len(left) {
		t.Errorf("behind the last that is deleted: %d, %v", len(next), err)
	}
}

func TestPrune_isDoneByTheDaemon(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	history(t, pool)
	startRelay(t, pool, &hop{})
	exec(t, pool, `INSERT INTO mailcrane.quota_use (kind, tenant, key, day, used) VALUES ('inviter', 'default', '7', current_date - 10, 1)`)
	exec(t, pool, `INSERT INTO mailcrane.bounce (id, tenant, address, kind, source, happened_at) VALUES (mailcrane.uuid_v7_floor(now() - interval '10 days'), 'default', 'a@example.com', 'hard', 'test', now())`)
	exec(t, pool, `INSERT INTO mailcrane.retention (what, keep) VALUES ('message', '5 days'), ('bounce', '5 days')`)
	eventuallyZero(t, pool, `
		SELECT (SELECT count(*) FROM mailcrane.quota_use) + (SELECT count(*) FROM mailcrane.bounce) + (SELECT count(*) FROM mailcrane.invitation WHERE email = 'over@example.com')`)
}
