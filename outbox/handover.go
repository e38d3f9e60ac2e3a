package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// durable makes the commit of the transaction it is part of wait for the disk,
// and for a synchronous standby, whatever the session's default is. A row that
// a crash could take back must not be what a mail relies on.
const durable = `SELECT set_config('synchronous_commit', 'on', true)`

// completeJob ends the job of a message that is no longer queued, if it still is
// the one in hand: running, in this attempt, by this daemon.
const completeJob = `
	UPDATE mailcrane.river_job
	SET state = 'completed', finalized_at = clock_timestamp()
	WHERE id = $1
	  AND state = 'running'
	  AND attempt = $2
	  AND attempted_by[array_upper(attempted_by, 1)] = $3
	  AND NOT EXISTS (SELECT FROM mailcrane.message AS m WHERE m.id = $4 AND m.status = 'queued')`

// giveBackJob puts the job back into the queue for later, if it still is the one
// in hand. The attempt is given back too, as River does: its numbers are finite.
const giveBackJob = `
	UPDATE mailcrane.river_job
	SET state = CASE WHEN $4::interval > interval '0' THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
	    scheduled_at = clock_timestamp() + $4::interval,
	    attempt = greatest(attempt - 1, 0),
	    metadata = jsonb_set(metadata, '{snoozes}', to_jsonb(coalesce((metadata ->> 'snoozes')::integer, 0) + 1))
	WHERE id = $1
	  AND state = 'running'
	  AND attempt = $2
	  AND attempted_by[array_upper(attempted_by, 1)] = $3`

// openAttempt writes the open attempt, if nothing has changed since open.
const openAttempt = `
		INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, allowed_unknown)
		SELECT m.id, $2::integer, $3::bigint, $4::uuid, $5::text, $7::integer
		FROM mailcrane.message AS m
		WHERE m.id = $1
		  AND m.status = 'queued'
		  AND coalesce(m.expires_at > clock_timestamp(), true)
		  AND mailcrane.held_because(m.tenant, m.template) IS NULL
		  AND NOT EXISTS (
			SELECT FROM mailcrane.suppression AS s WHERE s.tenant = m.tenant AND s.address = lower(m.recipient))
		  AND NOT EXISTS (
			SELECT FROM mailcrane.invitation AS i WHERE i.id = m.invitation_id AND i.status <> 'pending')
		  AND NOT EXISTS (
			SELECT FROM mailcrane.attempt AS a
			WHERE a.message_id = m.id AND (a.outcome = 'accepted' OR a.outcome IS NULL))
		  AND (SELECT count(*) FROM mailcrane.attempt AS a WHERE a.message_id = m.id AND a.was_unknown) <= $7
		  AND EXISTS (
			SELECT FROM mailcrane.instance AS n WHERE n.id = $4::uuid AND mailcrane.instance_is_live(n))
		  AND EXISTS (
			SELECT FROM mailcrane.river_job AS j
			WHERE j.id = $3
			  AND j.state = 'running'
			  AND j.attempt = $6
			  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $4::uuid::text)`

// handover is the point of no return (R3): one transaction, which the caller's
// context cannot cancel, that checks the right to send once more and writes the
// open attempt. It fails if anything has changed since open; then nothing may
// be sent. It also fails when the answer to the commit is lost; then the row may
// be there, and close will close it.
//
// The lock on the message orders it against closers, and each statement sees
// what was committed before it: an attempt accepted meanwhile has set the status.
func (t *try) handover(ctx context.Context, relay string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	t.handoverBegun = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.relay.Lease)
	defer cancel()
	i := t.relay.instance

	batch := &pgx.Batch{}
	batch.Queue(durable)
	batch.Queue(`SELECT FROM mailcrane.message WHERE id = $1 FOR NO KEY UPDATE`, t.messageID)
	inserted := int64(0)
	batch.Queue(openAttempt,
		t.messageID, t.message.Attempt, t.job, i.id, relay, t.jobAttempt, t.allowed).
		Exec(func(tag pgconn.CommandTag) error {
			inserted = tag.RowsAffected()
			return nil
		})
	batch.Queue(`
		UPDATE mailcrane.message AS m
		SET header_message_id = $2, token_hash = coalesce($3::bytea, m.token_hash)
		WHERE m.id = $1
		  AND m.header_message_id IS NULL
		  AND EXISTS (
			SELECT FROM mailcrane.attempt AS a
			WHERE a.message_id = m.id AND a.number = $4 AND a.instance_id = $5 AND a.outcome IS NULL)`,
		t.messageID, t.message.HeaderMessageID, t.tokenHash, t.message.Attempt, i.id)
	if err := t.relay.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("handover of message %s: %w", t.messageID, err)
	}
	if inserted == 0 {
		return fmt.Errorf("handover of message %s: %w", t.messageID, errLostRight)
	}
	if err := i.trusted(); err != nil { // R4
		return fmt.Errorf("handover of message %s: %w", t.messageID, err)
	}
	t.handedOver = true
	return nil
}
