package outbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// holdAfterUnknown makes a message that is held after an unknown attempt, under the
// policy hold.
func holdAfterUnknown(t *testing.T, pool *pgxpool.Pool, h *hop) string {
	t.Helper()
	exec(t, pool, `INSERT INTO mailcrane.policy (template, on_unknown) VALUES ('invitation', 'hold')`)
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		h.accept(m)
		if m.Attempt > 1 {
			return outbox.Reply{Relay: relayName, Code: 250}, nil
		}
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
	}}
	id := invite(t, pool, "ada@example.com")
	eventually(t, pool, id, hasStatus(outbox.StatusHeld))
	return id
}

func TestPolicy_holdNeverRepeatsByItself(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	id := holdAfterUnknown(t, pool, h)
	m, err := outbox.GetMessage(t.Context(), pool, id)
	if err != nil || len(m.Attempts) != 1 || len(h.all()) != 1 || !strings.Contains(m.Reason, "unknown") {
		t.Errorf("%+v, %d copies, %v", m, len(h.all()), err)
	}
	requireFindings(t, pool, "held")
}

// After the handover nobody can say what an error means that nobody classified;
// and what is left to a human is so at once, not after the wait for a repeat.
func TestRelay_R5_anErrorOfNobodysAfterTheHandoverIsUnknown(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	exec(t, pool, `INSERT INTO mailcrane.policy (template, on_unknown) VALUES ('invitation', 'hold')`)
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, _ *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return outbox.Reply{}, errors.New("something is wrong")
	}}
	startRelay(t, pool, h, func(c *outbox.RelayConfig) { c.RetryMin, c.RetryMax = time.Hour, time.Hour })
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusHeld))
	if got := outcomes(m); !slices.Equal(got, []outbox.Outcome{outbox.Unknown}) {
		t.Errorf("outcomes %v", got)
	}
}

func TestReleaseMessage_sendsAgainUnderTheSameMessageID(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	id := holdAfterUnknown(t, pool, h)
	if err := outbox.ReleaseMessage(t.Context(), pool, id); err != nil {
		t.Fatal(err)
	}
	m := eventually(t, pool, id, hasStatus(outbox.StatusSent))
	all := h.all()
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Unknown, outbox.Accepted}) || len(all) != 2 || all[0].HeaderMessageID != all[1].HeaderMessageID {
		t.Errorf("%v, %d copies", outcomes(m), len(all))
	}
	requireFindings(t, pool)
}

func TestMarkSent_endsAHeldMessageWithoutAnotherCopy(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	id := holdAfterUnknown(t, pool, h)
	if err := outbox.MarkSent(t.Context(), pool, id); err != nil {
		t.Fatal(err)
	}
	m := eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Accepted}) || len(h.all()) != 1 {
		t.Errorf("%v, %d copies", outcomes(m), len(h.all()))
	}
	requireFindings(t, pool)
	for _, err := range []error{outbox.MarkSent(t.Context(), pool, id), outbox.ReleaseMessage(t.Context(), pool, id)} {
		if !errors.Is(err, outbox.ErrNotHeld) {
			t.Errorf("a sent message: %v", err)
		}
	}
	for _, unknown := range []string{"nonsense", "00000000-0000-7000-8000-000000000000"} {
		if err := outbox.ReleaseMessage(t.Context(), pool, unknown); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("%s: %v", unknown, err)
		}
	}
}

func TestMarkSent_refusesWhatCannotHaveBeenSent(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	exec(t, pool, `UPDATE mailcrane.message SET status = 'held', held_by = 'poison'`)
	if err := outbox.MarkSent(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotHeld) {
		t.Error(err)
	}
}

// A copy of a database is told from the original by PostgreSQL itself.
func TestGuard_aCopySendsNothingUntilItIsAdopted(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	exec(t, pool, `INSERT INTO mailcrane.installation (system_identifier, database_id, timeline)
		SELECT system_identifier, 1, timeline FROM mailcrane.whereabouts()`) // as another database had it
	id, running := invite(t, pool, "ada@example.com"), invite(t, pool, "bob@example.com")
	relay := startRelay(t, pool, h)
	if err := relay.Ready(); err == nil || !strings.Contains(err.Error(), "mailcrane adopt") {
		t.Error(err)
	}
	requireNothingHappens(t, pool, id)
	another(t, pool, running, false)
	waitUntil(t, "a lease is over", func() bool { // there are five heartbeats in each
		return value[int](t, pool, `SELECT beats FROM mailcrane.instance WHERE name = 'relay'`) > 8
	})
	if state := value[string](t, pool, `SELECT state::text FROM mailcrane.river_job WHERE args ->> 'message_id' = $1`, running); state != "running" {
		t.Errorf("the queue of a copy was touched: %s", state)
	}
	if err := outbox.Adopt(t.Context(), pool, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, id, hasStatus(outbox.StatusSent))
}

func TestGuard_knowsACopyARestoredBackupAndAnotherInstallation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change, name string
		wasThere     bool
		want         string
	}{
		"as it was left":              {"", "production", false, ""},
		"staging":                     {"", "staging", false, "'production'"},
		"no name":                     {"", "", false, "'production'"},
		"another cluster":             {`UPDATE mailcrane.installation SET system_identifier = '1'`, "production", true, "a copy"},
		"another database":            {`UPDATE mailcrane.installation SET database_id = 1`, "production", true, "a copy"},
		"a backup":                    {`UPDATE mailcrane.installation SET timeline = '00000000'`, "production", false, "backup"},
		"a promotion before our eyes": {`UPDATE mailcrane.installation SET timeline = '00000000'`, "production", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			exec(t, pool, `SELECT mailcrane.guard('production', false)`)
			if c.change != "" {
				exec(t, pool, c.change)
			}
			got := value[string](t, pool, `SELECT coalesce(mailcrane.guard(nullif($1, ''), $2), '')`, c.name, c.wasThere)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			again := value[string](t, pool, `SELECT coalesce(mailcrane.guard(nullif($1, ''), false), '')`, c.name)
			if again != got {
				t.Errorf("and then %q", again)
			}
		})
	}
}

func TestGuard_aDatabaseThatForgetsAHeartbeatHoldsEverything(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	relay := startRelay(t, pool, h)
	waitUntil(t, "it has beaten a few times", func() bool { return value[int](t, pool, `SELECT max(beats) FROM mailcrane.instance`) > 2 })
	exec(t, pool, `UPDATE mailcrane.instance SET beats = 1`) // as a restored backup has it
	waitUntil(t, "the relay holds", func() bool { return relay.Ready() != nil })
	if err := relay.Ready(); !strings.Contains(err.Error(), "back in time") {
		t.Error(err)
	}
	id := invite(t, pool, "ada@example.com")
	before := value[int](t, pool, `SELECT max(beats) FROM mailcrane.instance`)
	waitUntil(t, "three heartbeats", func() bool { return value[int](t, pool, `SELECT max(beats) FROM mailcrane.instance`) > before+2 })
	if m, err := outbox.GetMessage(t.Context(), pool, id); err != nil || len(m.Attempts) != 0 || len(h.all()) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestStart_refusesFsyncOff(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	relay, err := outbox.NewRelay(outbox.RelayConfig{Pool: pool, Senders: map[string]outbox.Sender{"email": &hop{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "fsync") {
		t.Error(err)
	}
}

func TestRelay_unavailableLeavesNoAttempt(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	tried := make(chan struct{}, 10)
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if tried <- struct{}{}; len(tried) < 2 {
			return outbox.Reply{}, &outbox.Unavailable{RetryAfter: 10 * time.Millisecond, Err: errors.New("no relay")}
		}
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return h.accept(m), nil
	}}
	startRelay(t, pool, h)
	if m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent)); len(m.Attempts) != 1 {
		t.Errorf("attempts %+v", m.Attempts)
	}
}

func TestInventory_givesBackWhatNobodyHasInHand(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	startRelay(t, pool, h)
	waitUntil(t, "the relay is registered", func() bool { return value[int](t, pool, `SELECT count(*) FROM mailcrane.instance`) == 1 })
	tx := outboxtest.Begin(t, pool)
	receipt, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	// As after a fetch whose answer was lost: running under the relay's own name.
	if _, err := tx.Exec(t.Context(), `
		UPDATE mailcrane.river_job
		SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = ARRAY[(SELECT id::text FROM mailcrane.instance)]`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent))
}

// Between the look at what is running and the giving back, somebody made the job
// available by hand, and a worker of ours has it.
func TestInventory_leavesAnotherAttemptAlone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	proxy := outboxtest.Proxy(t, pool.Config().ConnString())
	far, err := pgxpool.New(t.Context(), proxy.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	gaveBack := make(chan struct{}, 100)
	proxy.Inject(pgproxy.Fault{Statement: "1)] = $2", Do: func() {
		exec(t, pool, `UPDATE mailcrane.river_job SET attempt = attempt + 1`)
		gaveBack <- struct{}{}
	}})
	receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "verify", SendAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	startRelay(t, far, &hop{}, func(c *outbox.RelayConfig) { c.Lease = time.Second })
	exec(t, pool, `
		UPDATE mailcrane.river_job
		SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = ARRAY[(SELECT id::text FROM mailcrane.instance)]`)
	for range 2 {
		select {
		case <-gaveBack:
		case <-time.After(20 * time.Second): // twenty leases
			t.Fatal("the job was given back to the queue")
		}
	}
	if m := value[string](t, pool, `SELECT state || ' ' || coalesce(metadata ->> 'rescues', '0') FROM mailcrane.river_job`); m != "running 0" {
		t.Errorf("job of message %s: %s", receipt.MessageID, m)
	}
}

func TestRelay_aMessageThatDaemonsDieOfIsHeld(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	id := invite(t, pool, "ada@example.com")
	another(t, pool, id, false)
	exec(t, pool, `UPDATE mailcrane.river_job SET metadata = metadata || '{"rescues": 4}'`)
	startRelay(t, pool, h)
	m := eventually(t, pool, id, hasStatus(outbox.StatusHeld))
	if len(h.all()) != 0 || !strings.Contains(m.Reason, "5 times") {
		t.Errorf("%+v", m)
	}
}

// requireNothingHappens watches a queued message for a few heartbeats.
func requireNothingHappens(t *testing.T, pool *pgxpool.Pool, id string) {
	t.Helper()
	before := value[int](t, pool, `SELECT max(beats) FROM mailcrane.instance`)
	waitUntil(t, "three heartbeats", func() bool { return value[int](t, pool, `SELECT max(beats) FROM mailcrane.instance`) > before+2 })
	m, err := outbox.GetMessage(t.Context(), pool, id)
	if err != nil || m.Status != outbox.StatusQueued || len(m.Attempts) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state = 'running' OR attempt > 0`); n != 0 {
		t.Errorf("%d jobs were touched", n)
	}
}

func waitUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		<-ticker.C
	}
}

// Two tries of one daemon would have the same number, and one could close the
// open attempt of the other.
func TestRelay_R5_aJobThatItFetchesAgainWaitsForItsFirstWorker(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	inHand, answer := make(chan struct{}, 10), make(chan struct{})
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if inHand <- struct{}{}; len(inHand) == 1 {
			<-answer
			return outbox.Reply{}, errors.New("connection reset")
		}
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return h.accept(m), nil
	}}
	startRelay(t, pool, h)
	id := invite(t, pool, "ada@example.com")
	waitUntil(t, "it is in hand", func() bool { return len(inHand) == 1 })
	exec(t, pool, `UPDATE mailcrane.river_job SET state = 'available', scheduled_at = now()`) // reaped
	waitUntil(t, "it was fetched again", func() bool {
		return value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE metadata ? 'snoozes'`) == 1
	})
	if len(inHand) != 1 {
		t.Error("a second worker took it")
	}
	close(answer)
	m := eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if len(h.all()) != 1 || !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Deferred, outbox.Accepted}) {
		t.Errorf("%v, %d copies", outcomes(m), len(h.all()))
	}
}
