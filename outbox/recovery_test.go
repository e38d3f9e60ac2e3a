package outbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// another plants an instance that has the message's job in hand, dead or alive,
// and gives its id.
func another(t *testing.T, pool *pgxpool.Pool, messageID string, alive bool) string {
	t.Helper()
	age := "1 hour"
	if alive {
		age = "0"
	}
	id := value[string](t, pool, `
		INSERT INTO mailcrane.instance (id, name, version, heartbeat_at, lease)
		VALUES (mailcrane.uuid_v7(), 'another:1', 'test', clock_timestamp() - $1::text::interval, '10 minutes')
		RETURNING id::text`, age)
	exec(t, pool, `
		UPDATE mailcrane.river_job
		SET state = 'running', attempt = attempt + 1, attempted_at = now(), attempted_by = array_append(attempted_by, $2::text)
		WHERE id = (SELECT job_id FROM mailcrane.message WHERE id = $1::text::uuid)`, messageID, id)
	return id
}

func plantOpenAttempt(t *testing.T, pool *pgxpool.Pool, messageID, instance string) {
	t.Helper()
	exec(t, pool, `
		INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay)
		SELECT id, 1, job_id, $2::text::uuid, 'relay.example:25' FROM mailcrane.message WHERE id = $1::text::uuid`, messageID, instance)
}

func TestRelay_R2_openAttemptOfADeadDaemonBecomesUnknownAndTheMessageIsRepeated(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	plantOpenAttempt(t, pool, id, another(t, pool, id, false))
	startRelay(t, pool, &hop{})
	m := eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Unknown, outbox.Accepted}) {
		t.Errorf("attempts %+v", m.Attempts)
	}
}

func TestRelay_R2_openAttemptOfALiveDaemonIsLeftAlone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	plantOpenAttempt(t, pool, id, another(t, pool, id, true))
	exec(t, pool, `UPDATE mailcrane.river_job SET state = 'available'`) // woken once too often
	h := &hop{}
	startRelay(t, pool, h)
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE coalesce((metadata ->> 'snoozes')::integer, 0) < 2`)
	m := eventually(t, pool, id, hasStatus(outbox.StatusQueued))
	if len(h.all()) != 0 || len(m.Attempts) != 1 || m.Attempts[0].Outcome != "" {
		t.Errorf("accepted %v, attempts %+v", h.copies(), m.Attempts)
	}
}

func TestRelay_reaperGivesBackTheJobsOfDeadDaemonsOnly(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	dead, alive := invite(t, pool, "dead@example.com"), invite(t, pool, "alive@example.com")
	another(t, pool, dead, false)
	another(t, pool, alive, true)
	h := &hop{}
	startRelay(t, pool, h)
	eventually(t, pool, dead, hasStatus(outbox.StatusSent))
	if n := h.copies()["alive@example.com"]; n != 0 {
		t.Errorf("a live daemon's job was taken from it")
	}
}

// Between open and handover anything may happen to a worker that was paused.
func TestRelay_R3_handoverRefusesWhenTheRightToSendIsLost(t *testing.T) {
	t.Parallel()
	const deferredBefore = "after an attempt: " // the first is protected by its number alone
	for name, meanwhile := range map[string]string{
		"job taken by another daemon": `
			UPDATE mailcrane.river_job SET attempted_by = array_append(attempted_by, 'another'), attempt = attempt + 1`,
		"job run again by this daemon": `UPDATE mailcrane.river_job SET attempt = attempt + 1`,
		"job no longer running":        `UPDATE mailcrane.river_job SET state = 'available'`,
		"message withdrawn":            `UPDATE mailcrane.message SET status = 'cancelled', finished_at = now()`,
		"accepted elsewhere, status not yet seen": `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), 'accepted', now() FROM mailcrane.message`,
		deferredBefore + "accepted elsewhere": `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, finished_at)
			SELECT id, 7, job_id, mailcrane.uuid_v7(), 'accepted', now() FROM mailcrane.message`,
		"open elsewhere": `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id)
			SELECT m.id, 7, m.job_id, n.id FROM mailcrane.message AS m, mailcrane.instance AS n`,
		"unknown elsewhere": `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), 'unknown', true, now() FROM mailcrane.message`,
		deferredBefore + "too many unknown": `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, finished_at)
			SELECT id, n, job_id, mailcrane.uuid_v7(), 'unknown', true, now() FROM mailcrane.message, generate_series(7, 9) AS n`,
		"lease over":    `UPDATE mailcrane.instance SET heartbeat_at = heartbeat_at - interval '1 hour'`,
		"said good-bye": `UPDATE mailcrane.instance SET stopped_at = now()`,
		"expired":       `UPDATE mailcrane.message SET expires_at = now()`,
		"suppressed":    `INSERT INTO mailcrane.suppression (address, reason) VALUES ('ada@example.com', 'test')`,
		"revoked":       `UPDATE mailcrane.invitation SET status = 'revoked', finished_at = now()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			id, number := invite(t, pool, "ada@example.com"), 1
			if strings.HasPrefix(name, deferredBefore) {
				exec(t, pool, `
					INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, finished_at)
					SELECT id, 1, job_id, mailcrane.uuid_v7(), 'deferred', now() FROM mailcrane.message`)
				number = 2
			}
			refused := make(chan error, 1)
			startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
				exec(t, pool, meanwhile)
				err := handover(ctx, relayName)
				select {
				case refused <- err:
				default:
				}
				return outbox.Reply{}, err
			}), func(c *outbox.RelayConfig) {
				c.Heartbeat = time.Hour
				c.RetryMin, c.RetryMax = time.Hour, time.Hour
			})
			if err := <-refused; err == nil {
				t.Fatal("the handover went through")
			}
			if n := value[int](t, pool, `
				SELECT count(*) FROM mailcrane.attempt WHERE message_id = $1::text::uuid AND number = $2 AND outcome IS NULL`, id, number); n != 0 {
				t.Error("an open attempt is left behind")
			}
			if id := value[*string](t, pool, `SELECT max(header_message_id) FROM mailcrane.attempt WHERE message_id = $1::text::uuid`, id); id != nil {
				t.Errorf("the identity %s of a mail that nobody has handed over is on record", *id)
			}
		})
	}
}

// Whoever changes a message has it locked, and what he has written shows only once
// he commits.
func TestRelay_R3_handoverSkipsAMessageThatIsBeingChanged(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	id := invite(t, pool, "ada@example.com")
	withdrawal := outboxtest.Begin(t, pool)
	refused := make(chan error, 1)
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if _, err := withdrawal.Exec(ctx, `UPDATE mailcrane.message SET status = 'cancelled', finished_at = now()`); err != nil {
			t.Error(err)
		}
		err := handover(ctx, relayName)
		select {
		case refused <- err:
		default: // it is tried again until the withdrawal is committed
		}
		return outbox.Reply{}, err
	}))
	if err := <-refused; err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("handover: %v, want that it skips the message at once", err)
	}
	if err := withdrawal.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := eventually(t, pool, id, hasStatus(outbox.StatusCancelled))
	if len(m.Attempts) != 0 {
		t.Errorf("attempts: %+v", m.Attempts)
	}
}

func TestRelay_R3_aRefusedWorkerLeavesTheJobToItsNewOwner(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var once atomic.Bool
	h := &hop{}
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if once.CompareAndSwap(false, true) {
			exec(t, pool, `UPDATE mailcrane.river_job SET attempted_by = array_append(attempted_by, 'dead'), attempt = attempt + 1`)
		}
		return h.Send(ctx, m, handover)
	}))
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if len(h.all()) != 1 || len(m.Attempts) != 1 {
		t.Errorf("accepted %v, attempts %+v", h.copies(), m.Attempts)
	}
}

// A row that a crash could take back must not be what a mail relies on, whatever
// the role or the database has as its default.
func TestRelay_R3_R5_commitsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	config := outboxtest.Database(t).Config()
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	exec(t, pool, `
		CREATE TABLE seen (setting text);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO seen VALUES (TG_TABLE_NAME || ' ' || lower(TG_OP) || ' ' || NEW.status_or_outcome || ' ' || current_setting('synchronous_commit'));
			RETURN NEW;
		END $$;
		ALTER TABLE mailcrane.attempt ADD COLUMN status_or_outcome text GENERATED ALWAYS AS (coalesce(outcome, 'open')) STORED;
		ALTER TABLE mailcrane.message ADD COLUMN status_or_outcome text GENERATED ALWAYS AS (status) STORED;
		CREATE TRIGGER note AFTER INSERT OR UPDATE ON mailcrane.attempt FOR EACH ROW EXECUTE FUNCTION note();
		CREATE TRIGGER note AFTER UPDATE ON mailcrane.message FOR EACH ROW EXECUTE FUNCTION note()`)
	startRelay(t, pool, &hop{})
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	eventually(t, pool, inviteTo(t, pool, "suppressed@example.com", `INSERT INTO mailcrane.suppression (address, reason) VALUES ('suppressed@example.com', 'bounced')`),
		hasStatus(outbox.StatusSuppressed))
	for _, want := range []string{"attempt insert open on", "message update sent on", "attempt update accepted on", "message update suppressed on"} {
		if n := value[int](t, pool, `SELECT count(*) FROM seen WHERE setting = $1`, want); n == 0 {
			t.Errorf("not seen: %s; seen: %s", want, value[string](t, pool, `SELECT string_agg(setting, ', ') FROM seen`))
		}
	}
}

func TestRelay_R4_noDotOnALeaseThatIsNotTrusted(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	const lease = 3 * time.Second // it takes less to fetch the message
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		<-time.After(lease) // a slow transfer, while heartbeats do not get through
		return h.Send(ctx, m, handover)
	}), func(c *outbox.RelayConfig) {
		c.Lease, c.Heartbeat = lease, time.Hour
		c.RetryMin, c.RetryMax = time.Hour, time.Hour
	})
	// The database would still believe it: only the daemon's own clocks object.
	exec(t, pool, `UPDATE mailcrane.instance SET lease = '1 hour'`)
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), func(m outbox.MessageRecord) bool {
		return len(m.Attempts) == 1 && m.Attempts[0].Outcome != ""
	})
	if m.Attempts[0].Outcome != outbox.Deferred || len(h.all()) != 0 {
		t.Errorf("attempts %+v, accepted %v", m.Attempts, h.copies())
	}
}

func TestRelay_R5_closeIsRepeatedUntilItIsRecorded(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	relay := startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		exec(t, pool, `ALTER TABLE mailcrane.attempt ADD CONSTRAINT nothing_closes CHECK (outcome IS NULL)`)
		return h.accept(m), nil
	}), func(c *outbox.RelayConfig) { c.Logger = nil })
	id := invite(t, pool, "ada@example.com")
	eventuallyZero(t, pool, `SELECT 1 - count(*) FROM pg_constraint WHERE conname = 'nothing_closes'`)
	m := eventually(t, pool, id, func(m outbox.MessageRecord) bool { return len(m.Attempts) == 1 })
	if m.Status != outbox.StatusQueued {
		t.Fatalf("half of the close was written: %+v", m)
	}
	waitUntil(t, "the relay fetches nothing", func() bool {
		err := relay.Ready()
		return err != nil && strings.Contains(err.Error(), "the outcome of 1 messages")
	})
	exec(t, pool, `ALTER TABLE mailcrane.attempt DROP CONSTRAINT nothing_closes`)
	m = eventually(t, pool, id, hasStatus(outbox.StatusSent))
	if len(h.all()) != 1 || len(m.Attempts) != 1 {
		t.Errorf("accepted %v, attempts %+v", h.copies(), m.Attempts)
	}
}

// The answer comes after everybody has given the daemon up: it is recorded, for
// it is the truth, but the job is somebody else's.
func TestRelay_R5_lateAnswerIsRecordedAsAFactOnly(t *testing.T) {
	t.Parallel()
	late := func(t *testing.T, answer func(*hop, *outbox.Message) (outbox.Reply, error)) (outbox.MessageRecord, string) {
		t.Helper()
		pool := outboxtest.Database(t)
		h := &hop{}
		var id string
		ready := make(chan struct{})
		startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			<-ready
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			exec(t, pool, `UPDATE mailcrane.attempt SET outcome = 'unknown', was_unknown = true, finished_at = now()`)
			another(t, pool, id, true)
			return answer(h, m)
		}))
		id = invite(t, pool, "ada@example.com")
		close(ready)
		m := eventually(t, pool, id, func(m outbox.MessageRecord) bool {
			return len(m.Attempts) == 1 && m.Attempts[0].Outcome != "" && m.Attempts[0].Outcome != outbox.Unknown
		})
		if !value[bool](t, pool, `SELECT was_unknown FROM mailcrane.attempt`) {
			t.Error("it is forgotten that the outcome was unknown")
		}
		// What the worker returns makes River change the job once more.
		eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state = 'running'`)
		return m, value[string](t, pool, `SELECT state::text FROM mailcrane.river_job`)
	}
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		m, _ := late(t, func(h *hop, m *outbox.Message) (outbox.Reply, error) { return h.accept(m), nil })
		if m.Status != outbox.StatusSent || m.Attempts[0].Outcome != outbox.Accepted {
			t.Errorf("got %+v", m)
		}
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		m, job := late(t, func(*hop, *outbox.Message) (outbox.Reply, error) {
			return outbox.Reply{Code: 554}, &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("554")}
		})
		if m.Status != outbox.StatusQueued || job == "completed" {
			t.Errorf("message %s, job %s: the new owner's work was finished for it", m.Status, job)
		}
	})
}

func TestRelay_stopPutsBackWhatWasNotHandedOverAndWaitsForTheRest(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	inHand := make(chan struct{}, 2)
	answer := make(chan struct{})
	h.answers = map[string]sendFunc{
		"before@example.com": func(ctx context.Context, _ *outbox.Message, _ outbox.Handover) (outbox.Reply, error) {
			inHand <- struct{}{}
			<-ctx.Done()
			return outbox.Reply{}, ctx.Err()
		},
		"after@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			inHand <- struct{}{}
			<-answer
			return h.accept(m), nil
		},
	}
	config := outbox.RelayConfig{Pool: pool, Senders: map[string]outbox.Sender{"email": h}, AcceptURL: "https://x/{token}", Secret: []byte("s"), AllowUnsafe: true}
	relay, err := outbox.NewRelay(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, after := invite(t, pool, "before@example.com"), invite(t, pool, "after@example.com")
	<-inHand
	<-inHand
	stopped := make(chan error)
	go func() { stopped <- relay.Stop(context.Background()) }()
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state = 'running' AND id = (
		SELECT job_id FROM mailcrane.message WHERE id = $1::text::uuid)`, before)
	select {
	case err := <-stopped:
		t.Fatalf("stopped (%v) before the relay had answered", err)
	default:
	}
	close(answer)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if m := eventually(t, pool, after, hasStatus(outbox.StatusSent)); len(m.Attempts) != 1 {
		t.Errorf("got %+v", m)
	}
	if m := eventually(t, pool, before, hasStatus(outbox.StatusQueued)); len(m.Attempts) != 0 {
		t.Errorf("putting back left a trace: %+v", m.Attempts)
	}
	if live := value[int](t, pool, `SELECT count(*) FROM mailcrane.instance AS n WHERE mailcrane.instance_is_live(n)`); live != 0 {
		t.Error("the stopped daemon still counts as live")
	}
}
