package outbox_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// slowly is a hop that takes a message every four milliseconds.
type slowly struct {
	hop
	tick *time.Ticker
}

func (s *slowly) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	select {
	case <-s.tick.C:
	case <-ctx.Done():
		return outbox.Reply{}, ctx.Err()
	}
	return s.hop.Send(ctx, m, handover)
}

// place is how many messages went before the one to a recipient, or -1.
func (s *slowly) place(recipient string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.IndexFunc(s.accepted, func(m outbox.Message) bool { return m.Recipient == recipient })
}

func (s *slowly) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted)
}

func startSlowRelay(t *testing.T, pool *pgxpool.Pool) *slowly {
	t.Helper()
	s := &slowly{tick: time.NewTicker(4 * time.Millisecond)}
	t.Cleanup(s.tick.Stop)
	startRelay(t, pool, s, func(c *outbox.RelayConfig) { c.Workers = 20 })
	return s
}

// requirePlace waits for the message to a recipient, which at most so many others may
// be sent before.
func (s *slowly) requirePlace(t *testing.T, recipient string, atMost int) {
	t.Helper()
	waitUntil(t, recipient+" has got a message", func() bool { return s.place(recipient) >= 0 })
	if place := s.place(recipient); place > atMost {
		t.Errorf("%d messages went before the one to %s, at most %d should", place, recipient, atMost)
	}
}

const crowd = 3000

// fill queues single messages of a tenant.
func fill(t *testing.T, pool *pgxpool.Pool, tenant, priority string) {
	t.Helper()
	exec(t, pool, `
		SELECT count(*)
		FROM generate_series(1, $1::integer) AS s (n)
		CROSS JOIN LATERAL mailcrane.invite(group_id => 'g', email => $2 || s.n || '@example.com', tenant => $2, priority => $3::text::integer)`, crowd, tenant, priority)
}

func TestFairness_aCrowdKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	for _, priority := range []string{"1", "2"} {
		t.Run("priority "+priority, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			fill(t, pool, "many", priority)
			invite := func(tenant, email string) {
				t.Helper()
				if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: tenant, GroupID: "g", Email: email}); err != nil {
					t.Fatal(err)
				}
			}
			invite("early", "early@example.com")
			s := startSlowRelay(t, pool)
			s.requirePlace(t, "early@example.com", crowd/2)
			before := s.taken()
			invite("late", "late@example.com")
			s.requirePlace(t, "late@example.com", before+crowd/10)
			if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.crowd WHERE tenant = 'many'`); n != 1 {
				t.Error("the crowd is not known")
			}
		})
	}
}

func TestFairness_singleMessagesGoBeforeBatches(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `
		SELECT count(*)
		FROM generate_series(1, 3) AS b (n)
		CROSS JOIN LATERAL mailcrane.invite_many((
			SELECT jsonb_agg(jsonb_build_object('group_id', 'g', 'email', b.n || '-' || s.n || '@example.com'))
			FROM generate_series(1, 1000) AS s (n)))`)
	s := startSlowRelay(t, pool)
	waitUntil(t, "the batch is on its way", func() bool { return s.taken() > 50 })
	before := s.taken()
	if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "single@example.com"}); err != nil {
		t.Fatal(err)
	}
	s.requirePlace(t, "single@example.com", before+crowd/10)
}

// A crowd that is gone is forgotten, and nothing is out of order then.
func TestFairness_isOverWithTheCrowd(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	fill(t, pool, "many", "2")
	exec(t, pool, `SELECT mailcrane.share_queue()`)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.crowd`); n != 1 {
		t.Fatalf("%d tenants make up the crowd", n)
	}
	exec(t, pool, `UPDATE mailcrane.river_job SET state = 'completed', finalized_at = now()`)
	exec(t, pool, `SELECT mailcrane.share_queue()`)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.crowd`); n != 0 {
		t.Error("the crowd is remembered")
	}
	exec(t, pool, `SELECT mailcrane.invite(group_id => 'g', email => 'ada@example.com')`)
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state = 'available' AND priority = 2 AND scheduled_at > now() - interval '1 minute'`); n != 1 {
		t.Error("the message has not got the usual place")
	}
}

// Whoever wrote a moment before the crowd was known does not wait until the whole
// queue has been looked at.
func TestFairness_theNewestComeFirst(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	fill(t, pool, "many", "2")
	jobOf := func(tenant string) string {
		t.Helper()
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: tenant, GroupID: "g", Email: tenant + "@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		return value[string](t, pool, `SELECT job_id::text FROM mailcrane.message WHERE id = $1::text::uuid`, receipt.MessageID)
	}
	old := jobOf("old")
	exec(t, pool, `UPDATE mailcrane.river_job SET scheduled_at = scheduled_at - interval '1 hour'`)
	fresh := jobOf("fresh")
	goesFirst := func(job string) bool {
		t.Helper()
		return value[bool](t, pool, `SELECT priority = 1 AND scheduled_at < now() - interval '300 days' FROM mailcrane.river_job WHERE id = $1::text::bigint`, job)
	}
	exec(t, pool, `SELECT mailcrane.find_crowd()`)
	if !goesFirst(fresh) || goesFirst(old) {
		t.Errorf("at once: the newest %t, the old one %t", goesFirst(fresh), goesFirst(old))
	}
	if later := jobOf("later"); !goesFirst(later) {
		t.Error("the crowd is not known to those who write")
	}
	exec(t, pool, `SELECT mailcrane.let_through()`)
	if !goesFirst(old) {
		t.Error("the old one waits")
	}

	// What comes back goes first as well.
	exec(t, pool, `UPDATE mailcrane.river_job SET priority = 2, scheduled_at = now() WHERE id = $1::text::bigint`, old)
	exec(t, pool, `SELECT mailcrane.find_crowd()`)
	if !goesFirst(old) {
		t.Error("what comes back waits")
	}
}

// It is looked for twice a second, and the queue may have millions.
func TestFindCrowd_readsNotTheWholeQueue(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	fill(t, pool, "many", "2")
	exec(t, pool, `UPDATE mailcrane.river_job SET scheduled_at = scheduled_at - interval '1 hour'`)
	exec(t, pool, `SELECT mailcrane.find_crowd()`)
	tx := outboxtest.Begin(t, pool)
	_, before := reads(t, tx)
	if _, err := tx.Exec(t.Context(), `SELECT mailcrane.find_crowd()`); err != nil {
		t.Fatal(err)
	}
	// 20 places of 30 jobs, and their messages; 200 to begin with.
	if _, rows := reads(t, tx); rows == before || rows-before > crowd/2 {
		t.Errorf("%d rows", rows-before)
	}
}

func TestLetThrough_looksAgainAsOftenAsItIsWorthIt(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `UPDATE mailcrane.quota SET at_most = 10000`)
	fill(t, pool, "many", "2")
	exec(t, pool, `SELECT count(*) FROM generate_series(1, 1500) AS s (n)
		CROSS JOIN LATERAL mailcrane.enqueue('other' || s.n || '@example.com', 'verify', tenant => 'other' || s.n)`)
	exec(t, pool, `UPDATE mailcrane.river_job SET scheduled_at = scheduled_at - interval '1 hour'`)
	exec(t, pool, `INSERT INTO mailcrane.crowd (tenant) VALUES ('many')`)
	letThrough := func(want int) {
		t.Helper()
		if n := value[int](t, pool, `SELECT mailcrane.let_through()`); n != want {
			t.Errorf("%d were let through, not %d", n, want)
		}
	}
	letThrough(1000)
	letThrough(500)
	waiting := func() {
		t.Helper()
		exec(t, pool, `UPDATE mailcrane.river_job SET priority = 2, scheduled_at = now() - interval '1 hour'
			WHERE id = (SELECT job_id FROM mailcrane.message WHERE tenant = 'other7')`)
	}
	waiting()
	exec(t, pool, `UPDATE mailcrane.crowd SET since = now() - interval '1 hour', cleared_at = now() - interval '14 seconds'`)
	letThrough(0)
	exec(t, pool, `UPDATE mailcrane.crowd SET cleared_at = now() - interval '16 seconds', cleared_in = '1 millisecond'`)
	letThrough(1)
	waiting()
	exec(t, pool, `UPDATE mailcrane.crowd SET cleared_at = now() - interval '35 seconds', cleared_in = '2 seconds'`)
	letThrough(0)
	exec(t, pool, `UPDATE mailcrane.crowd SET cleared_at = now() - interval '41 seconds', cleared_in = '2 seconds'`)
	letThrough(1)
	if value[bool](t, pool, `SELECT cleared_in IS NULL OR cleared_in <= '0' OR cleared_in = '2 seconds' FROM mailcrane.crowd`) {
		t.Error("how long the look took is not on record")
	}
}
