package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// restoreElsewhere brings what pg_dump writes of a database to a server that has
// counted fewer transactions.
func restoreElsewhere(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	dump, err := outboxtest.Dump(t, pool.Config().ConnString(), "--inserts", "--schema=mailcrane")
	if err != nil {
		t.Fatal(err)
	}
	dump = regexp.MustCompile(`(?m)^\\.*$`).ReplaceAllString(dump, "") // for psql only
	server, err := localpg.Start(t.Context(), localpg.Config{Ephemeral: true, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	conn := connection(t, server.URL())
	if _, err := conn.Exec(t.Context(), dump, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	restored, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restored.Close)
	return restored
}

// groups are those of the events after one, once there are as many as wanted.
func requireGroups(t *testing.T, pool *pgxpool.Pool, after string, want ...string) (list []outbox.Event) {
	t.Helper()
	var got []string
	waitUntil(t, "events can be read", func() bool {
		var err error
		if list, err = outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: after}); err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, e := range list {
			got = append(got, e.GroupID)
		}
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("after %q: %q, want %q", after, got, want)
	}
	return list
}

func requireRefused(t *testing.T, pool *pgxpool.Pool, after, want string) {
	t.Helper()
	_, err := outbox.ListEvents(t.Context(), pool, outbox.EventFilter{After: after})
	if input, ok := errors.AsType[*outbox.InputError](err); !ok || !strings.Contains(input.Error(), want) {
		t.Errorf("after %q: %v, want %q", after, err, want)
	}
}

func inviteToGroup(t *testing.T, pool *pgxpool.Pool, group string) {
	t.Helper()
	if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: group, Email: group + "@example.com", SendAfter: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
}

// tell does what the daemon does for webhooks, until there is nothing more.
func tell(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for value[int64](t, pool, `SELECT mailcrane.send_events()`) > 0 {
	}
}

// A dump that was restored elsewhere goes on where the original was at the time: for
// those who read events, and for webhooks, whatever was pruned before, written before
// the adoption, or happened in the original since.
func TestEvents_goOnInARestoredDatabase(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `DO $$ BEGIN FOR i IN 1..30000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`)
	hook, err := outbox.CreateWebhook(t.Context(), pool, "", "https://example.com/hook")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"1", "2", "3"} {
		inviteToGroup(t, pool, group)
	}
	before := requireGroups(t, pool, "", "1", "2", "3")
	tell(t, pool)
	exec(t, pool, `UPDATE mailcrane.event SET created_at = created_at - interval '100 days' WHERE id <= $1`, eventNumber(before[1]))
	exec(t, pool, `SELECT mailcrane.prune()`)
	requireRefused(t, pool, before[0].ID, "deleted already")
	inviteToGroup(t, pool, "4")
	inviteToGroup(t, pool, "5")
	requireGroups(t, pool, before[1].ID, "3", "4", "5")

	restored := restoreElsewhere(t, pool)
	inviteToGroup(t, pool, "lost")
	lost := requireGroups(t, pool, "", "3", "4", "5", "lost")[3].ID
	requireRefused(t, restored, before[1].ID, "restored")
	inviteToGroup(t, restored, "6") // before anybody has looked at it
	if err := outbox.Adopt(t.Context(), restored, ""); err != nil {
		t.Fatal(err)
	}
	inviteToGroup(t, restored, "7")
	requireGroups(t, restored, before[1].ID, "3", "4", "5", "6", "7")
	requireGroups(t, restored, "", "3", "4", "5", "6", "7")
	requireRefused(t, restored, lost, "restored")
	requireRefused(t, restored, before[0].ID, "deleted already")

	h := &hop{}
	startRelay(t, restored, &hop{}, func(c *outbox.RelayConfig) { c.Senders[outbox.WebhookChannel] = h })
	waitUntil(t, "the webhook is told", func() bool { return h.copies()[hook] >= 7 })
	var told []string
	for _, m := range h.all() {
		told = append(told, m.Data["data"].(map[string]any)["group_id"].(string))
	}
	slices.Sort(told)
	if want := []string{"1", "2", "3", "4", "5", "6", "7"}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	if err := outbox.Adopt(t.Context(), restored, ""); err != nil { // once more, where nothing has changed
		t.Fatal(err)
	}
	requireGroups(t, restored, before[1].ID, "3", "4", "5", "6", "7")
}

// eventNumber is the second part of the ID of an event.
func eventNumber(e outbox.Event) (n int64) {
	_, _ = fmt.Sscanf(e.ID[strings.Index(e.ID, "-")+1:], "%d", &n)
	return n
}

// Whoever has begun to write before an adoption, and writes an event after it, has
// the snapshot of before.
func TestAdopt_nobodyWritesBehindReaders(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	inviteToGroup(t, pool, "1")
	requireGroups(t, pool, "", "1")
	late, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback(context.Background()) // or committed
	if _, err := late.Exec(t.Context(), `INSERT INTO mailcrane.suppression (address, reason) VALUES ('a@example.com', 'asked')`); err != nil {
		t.Fatal(err)
	}
	if err := outbox.Adopt(t.Context(), pool, ""); err != nil {
		t.Fatal(err)
	}
	inviteToGroup(t, pool, "2")
	if _, err := outbox.Invite(t.Context(), late, outbox.Invitation{GroupID: "late", Email: "late@example.com"}); err != nil {
		t.Fatal(err)
	}
	seen := requireGroups(t, pool, "", "1")
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := requireGroups(t, pool, seen[0].ID, "late", "2")
	requireGroups(t, pool, list[0].ID, "2")
}

// An adoption waits for those who write.
func TestAdopt_waitsForWriters(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	writer := outboxtest.Begin(t, pool)
	if _, err := outbox.Invite(t.Context(), writer, outbox.Invitation{GroupID: "1", Email: "1@example.com"}); err != nil {
		t.Fatal(err)
	}
	adopted := make(chan error, 1)
	go func() { adopted <- outbox.Adopt(t.Context(), pool, "") }()
	waitUntil(t, "the adoption waits", func() bool {
		return value[int](t, pool, `SELECT count(*) FROM pg_locks WHERE relation = 'mailcrane.event'::regclass AND NOT granted`) == 1
	})
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-adopted; err != nil {
		t.Fatal(err)
	}
	inviteToGroup(t, pool, "2")
	first := requireGroups(t, pool, "", "1", "2")
	requireGroups(t, pool, first[0].ID, "2")
}
