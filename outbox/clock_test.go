package outbox_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// skewable gives a pool whose sessions see a clock that can be set, by
// UPDATE fake.skew.
func skewable(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	exec(t, pool, `CREATE SCHEMA fake`)
	exec(t, pool, `CREATE TABLE fake.skew AS SELECT interval '0' AS ahead`)
	exec(t, pool, `
		CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
		AS $$ SELECT pg_catalog.clock_timestamp() + ahead FROM fake.skew $$`)
	exec(t, pool, `
		CREATE OR REPLACE FUNCTION mailcrane.instance_is_live(mailcrane.instance) RETURNS boolean LANGUAGE sql
		AS $$ SELECT $1.stopped_at IS NULL AND $1.heartbeat_at > fake.clock_timestamp() - $1.lease $$`)
	config := pool.Config()
	config.ConnConfig.RuntimeParams["search_path"] = "fake, pg_catalog"
	skewed, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(skewed.Close)
	return skewed
}

func TestStart_refusesAClockThatIsWrong(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	skewed := skewable(t, pool)
	for _, ahead := range []string{"2 hours", "-2 hours", "3 seconds"} {
		exec(t, pool, `UPDATE fake.skew SET ahead = $1::text::interval`, ahead)
		relay, err := outbox.NewRelay(outbox.RelayConfig{Pool: skewed, Senders: map[string]outbox.Sender{"email": &hop{}}, AllowUnsafe: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := relay.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "NTP") {
			t.Errorf("%s: %v", ahead, err)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.instance WHERE stopped_at IS NULL`); n != 0 {
		t.Errorf("%d of them count as alive", n)
	}
}

// A clock that jumps makes all heartbeats look old. Until the next heartbeat of
// our own shows what has happened, nobody is taken for dead; from then on nothing
// is done at all.
func TestRelay_takesNobodyForDeadByAClockThatJumps(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	skewed := skewable(t, pool)
	id := invite(t, pool, "ada@example.com")
	another(t, pool, id, true)
	h := &hop{}
	relay := startRelay(t, skewed, h, func(c *outbox.RelayConfig) { c.Heartbeat = 1500 * time.Millisecond })
	eventually(t, pool, invite(t, pool, "first@example.com"), hasStatus(outbox.StatusSent))
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{
		GroupID: "g", Email: "dead@example.com", SendAfter: time.Now().Add(time.Hour), // so that nobody else takes it
	})
	if err != nil {
		t.Fatal(err)
	}
	another(t, pool, receipt.MessageID, false)
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent)) // it reaps
	beats := value[int](t, pool, `SELECT beats FROM mailcrane.instance WHERE name = 'relay'`)
	waitUntil(t, "the next heartbeat", func() bool {
		return value[int](t, pool, `SELECT beats FROM mailcrane.instance WHERE name = 'relay'`) > beats
	})
	exec(t, pool, `UPDATE fake.skew SET ahead = '2 hours'`)
	waitUntil(t, "the relay notices", func() bool {
		err := relay.Ready()
		return err != nil && strings.Contains(err.Error(), "NTP")
	})
	if n := h.copies()["ada@example.com"]; n != 0 || value[string](t, pool, `
		SELECT state::text FROM mailcrane.river_job WHERE args ->> 'message_id' = $1`, id) != "running" {
		t.Errorf("the job of a live daemon was taken from it; %d copies", n)
	}
	exec(t, pool, `UPDATE fake.skew SET ahead = '0'`)
	eventually(t, pool, invite(t, pool, "last@example.com"), hasStatus(outbox.StatusSent))
}

// After an outage of the database all heartbeats are old: who lives gets a lease
// to say so.
func TestRelay_takesNobodyForDeadBeforeALeaseIsOver(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	another(t, pool, id, false)
	began := time.Now()
	startRelay(t, pool, &hop{}) // its lease is two seconds
	m := eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if waited := m.FinishedAt.Sub(began); waited < 2*time.Second {
		t.Errorf("the job was taken over after %s", waited)
	}
}
