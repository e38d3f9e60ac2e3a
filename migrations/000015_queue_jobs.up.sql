-- The one place that knows what a row of River's queue looks like. A test
-- compares it, column by column, with the row that River itself inserts.

CREATE FUNCTION mailcrane.queue_jobs(message_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    due boolean;
BEGIN
    WITH job AS (
        INSERT INTO river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
        SELECT m.job_id,
               jsonb_build_object('message_id', m.id),
               'deliver',
               32767,  -- the ceiling: when to give up is decided by the message, not by the queue
               m.priority,
               'default',
               greatest(m.send_after, now()),
               CASE WHEN m.send_after > now() THEN 'scheduled' ELSE 'available' END::river_job_state,
               '{}'
        FROM unnest(message_ids) WITH ORDINALITY AS given (id, n)
        JOIN message AS m ON m.id = given.id
        WHERE m.status = 'queued'
        ORDER BY given.n
        RETURNING state
    )
    SELECT bool_or(state = 'available') INTO due FROM job;

    -- NOTIFY holds a lock over the whole server until the commit is flushed, so
    -- at most one writer at a time takes the trouble; the relay's poll finds the
    -- jobs of the others.
    IF due AND pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;

COMMENT ON FUNCTION mailcrane.queue_jobs(uuid[]) IS 'Writes the delivery jobs of queued messages, under the job_id they already carry, and wakes the relay on commit.';

INSERT INTO mailcrane.migration (version) VALUES (15);
