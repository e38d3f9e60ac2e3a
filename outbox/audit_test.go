package outbox_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// requireFindings compares the checks that find something, each named once.
func requireFindings(t *testing.T, pool *pgxpool.Pool, want ...string) {
	t.Helper()
	findings, err := outbox.Audit(t.Context(), pool, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, f := range findings {
		if f.Detail == "" {
			t.Errorf("%s says nothing", f.Check)
		}
		if !slices.Contains(got, f.Check) {
			got = append(got, f.Check)
		}
	}
	if !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("the audit finds %q, want %q", got, want)
	}
}

// A ledger with one message of every kind, and nothing wrong with it.
const soundLedger = `
	WITH daemon AS (
		INSERT INTO mailcrane.instance (id, name, version, lease) VALUES ('00000000-0000-7000-8000-000000000001', 'test:1', 'test', '1 hour')
	), waiting AS (
		SELECT * FROM mailcrane.invite('g', 'waiting@example.com')
	), later AS (
		SELECT * FROM mailcrane.invite('g', 'later@example.com', send_after => now() + interval '1 hour')
	)
	SELECT FROM waiting, later;
	SELECT FROM mailcrane.invite('g', 'sent@example.com');
	SELECT FROM mailcrane.invite('g', 'twice@example.com');
	SELECT FROM mailcrane.invite('g', 'failed@example.com');
	UPDATE mailcrane.river_job AS j SET state = 'completed', finalized_at = now()
	FROM mailcrane.message AS m
	WHERE m.job_id = j.id AND m.recipient IN ('sent@example.com', 'twice@example.com', 'failed@example.com');
	UPDATE mailcrane.message SET status = CASE recipient WHEN 'failed@example.com' THEN 'failed' ELSE 'sent' END, finished_at = now()
	WHERE recipient IN ('sent@example.com', 'twice@example.com', 'failed@example.com');
	INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, outcome, was_unknown, finished_at)
	SELECT m.id, v.number, m.job_id, '00000000-0000-7000-8000-000000000001', 'relay:25', v.outcome, v.outcome = 'unknown', now()
	FROM mailcrane.message AS m
	JOIN (VALUES ('sent@example.com', 1, 'accepted'), ('twice@example.com', 1, 'unknown'), ('twice@example.com', 2, 'accepted'),
	             ('failed@example.com', 1, 'rejected')) AS v (recipient, number, outcome) ON v.recipient = m.recipient`

func TestAudit_findsJustWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, corruption string }{
		{"", `SELECT 1`},
		{"queued_without_job", `DELETE FROM mailcrane.river_job WHERE id = (SELECT job_id FROM mailcrane.message WHERE recipient = 'waiting@example.com')`},
		{"queued_without_job", `UPDATE mailcrane.river_job SET state = 'discarded', finalized_at = now() WHERE id = (SELECT job_id FROM mailcrane.message WHERE recipient = 'waiting@example.com')`},
		{"two_live_jobs", `INSERT INTO mailcrane.river_job (args, kind, max_attempts) SELECT args, kind, max_attempts FROM mailcrane.river_job WHERE state = 'available'`},
		{"job_without_message", `INSERT INTO mailcrane.river_job (args, kind, max_attempts) VALUES ('{"message_id": "00000000-0000-7000-8000-00000000000f"}', 'deliver', 5)`},
		{"job_without_message", `INSERT INTO mailcrane.river_job (args, kind, max_attempts) VALUES ('{}', 'deliver', 5)`},
		{"finished_with_job", `WITH m AS (UPDATE mailcrane.message SET finished_at = now() - interval '2 minutes' WHERE recipient = 'sent@example.com' RETURNING job_id)
			UPDATE mailcrane.river_job AS j SET state = 'available', finalized_at = NULL FROM m WHERE j.id = m.job_id`},
		{"personal_data_in_job", `UPDATE mailcrane.river_job SET args = args || '{"email": "ada@example.com"}' WHERE state = 'available'`},
		{"sent_without_acceptance", `UPDATE mailcrane.attempt SET outcome = 'deferred' WHERE outcome = 'accepted' AND number = 1`},
		{"accepted_but_not_sent", `UPDATE mailcrane.message SET status = 'failed' WHERE recipient = 'sent@example.com'`},
		{"accepted_too_often", `INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, outcome, finished_at)
			SELECT message_id, 2, job_id, instance_id, relay, outcome, finished_at FROM mailcrane.attempt WHERE outcome = 'accepted' AND number = 1`},
		{"unknown_over_bound", `UPDATE mailcrane.attempt SET number = number + 1 WHERE number = 2;
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, outcome, was_unknown, finished_at)
			SELECT message_id, 2, job_id, instance_id, relay, 'unknown', true, finished_at FROM mailcrane.attempt WHERE number = 3;
			UPDATE mailcrane.attempt SET allowed_unknown = 1 WHERE number = 3`},
		{"repeated_despite_hold", `UPDATE mailcrane.attempt SET allowed_unknown = 0 WHERE number = 2`},
		{"begun_too_late", `UPDATE mailcrane.message SET expires_at = now() - interval '1 minute' WHERE recipient = 'sent@example.com'`},
		{"begun_too_late", `INSERT INTO mailcrane.suppression (address, reason, created_at) VALUES ('sent@example.com', 'complained', now() - interval '1 hour')`},
		{"begun_too_late", `UPDATE mailcrane.invitation SET status = 'revoked', finished_at = now() - interval '1 hour' WHERE email = 'sent@example.com'`},
		{"open_attempt_of_dead_daemon", `INSERT INTO mailcrane.instance (id, name, version, lease, heartbeat_at) VALUES ('00000000-0000-7000-8000-000000000002', 'dead:1', 'test', '10 s', now() - interval '1 hour');
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay) SELECT id, 1, job_id, '00000000-0000-7000-8000-000000000002', 'relay:25' FROM mailcrane.message WHERE recipient = 'waiting@example.com'`},
		{"job_of_dead_daemon", `UPDATE mailcrane.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '5 minutes', attempted_by = '{gone}' WHERE state = 'available'`},
		{"running_too_long", `UPDATE mailcrane.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '16 minutes', attempted_by = '{00000000-0000-7000-8000-000000000001}' WHERE state = 'available'`},
		{"overdue", `UPDATE mailcrane.river_job SET scheduled_at = now() - interval '11 minutes' WHERE state = 'available'`},
		{"clock_ahead", `UPDATE mailcrane.instance SET heartbeat_at = now() + interval '2 hours'`},
		{"clock_ahead", `UPDATE mailcrane.attempt SET began_at = now() + interval '2 hours' WHERE number = 2`},
		{"held", `UPDATE mailcrane.message SET status = 'held', held_by = 'poison', reason = 'x' WHERE recipient = 'later@example.com';
			UPDATE mailcrane.river_job SET state = 'completed', finalized_at = now() WHERE state = 'scheduled'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			script(t, pool, soundLedger)
			script(t, pool, c.corruption)
			if c.name == "" {
				requireFindings(t, pool)
			} else {
				requireFindings(t, pool, c.name)
			}
		})
	}
}

func TestRepair_putsTheQueueRightAndNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	pool, h := outboxtest.Database(t), &hop{}
	script(t, pool, soundLedger)
	script(t, pool, `
		INSERT INTO mailcrane.river_job (args, kind, max_attempts) SELECT args, kind, max_attempts FROM mailcrane.river_job WHERE state = 'available';
		INSERT INTO mailcrane.river_job (args, kind, max_attempts) VALUES ('{"email": "ada@example.com"}', 'deliver', 5);
		UPDATE mailcrane.message SET status = 'queued', finished_at = NULL WHERE recipient = 'sent@example.com';
		DELETE FROM mailcrane.river_job WHERE state = 'scheduled';
		UPDATE mailcrane.message SET send_after = NULL`)
	repaired, err := outbox.Repair(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if len(repaired) != 4 {
		t.Errorf("repaired %+v", repaired)
	}
	if again, err := outbox.Repair(t.Context(), pool); err != nil || len(again) != 0 {
		t.Errorf("and again %+v, %v", again, err)
	}
	exec(t, pool, `DELETE FROM mailcrane.instance`)
	startRelay(t, pool, h)
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.message WHERE finished_at IS NULL`)
	if copies := h.copies(); copies["sent@example.com"] != 0 || copies["waiting@example.com"] != 1 || copies["later@example.com"] != 1 {
		t.Errorf("copies %v", copies)
	}
	requireFindings(t, pool)
}

// script runs several statements.
func script(t *testing.T, pool *pgxpool.Pool, statements string) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(t.Context(), statements).ReadAll(); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}
