DROP FUNCTION mailcrane.share_queue();

CREATE OR REPLACE FUNCTION mailcrane.write_jobs(deliveries mailcrane.delivery[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    due boolean;
BEGIN
    INSERT INTO mailcrane.river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
    SELECT d.job_id,
           jsonb_build_object('message_id', d.message_id),
           'deliver',
           32767,  -- the ceiling: when to give up is decided by the message, not by the queue
           d.priority,
           'default',
           greatest(d.send_after, now()),
           CASE WHEN d.send_after > now() THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
           '{}'
    FROM unnest(deliveries) AS d;

    due := cardinality(deliveries) > 0 AND coalesce((deliveries[1]).send_after <= now(), true);
    IF NOT due THEN
        due := EXISTS (SELECT FROM unnest(deliveries) AS d WHERE d.send_after <= now() OR d.send_after IS NULL);
    END IF;

    -- NOTIFY holds a lock over the whole server until the commit is flushed, so
    -- at most one writer at a time takes the trouble; the relay's poll finds the
    -- jobs of the others.
    IF due AND pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;



COMMENT ON FUNCTION mailcrane.write_jobs(mailcrane.delivery[]) IS NULL;

-- Those that were let through have their place by now.
DROP TABLE mailcrane.crowd;

DELETE FROM mailcrane.migration WHERE version = 33;
