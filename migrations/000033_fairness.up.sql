-- Who has much in the queue does not keep others waiting: single messages go before
-- batches, and those of other tenants before the rest of a crowd. The queue is read
-- in the order of priority and scheduled_at, which is not changed: a message that
-- should not wait is written with a place at its head.

CREATE TABLE mailcrane.crowd (
    tenant     text PRIMARY KEY,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    cleared_at timestamptz
);

-- This sets no search_path, as that costs: whoever calls it has.
CREATE OR REPLACE FUNCTION mailcrane.write_jobs(deliveries mailcrane.delivery[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    due     boolean;
    several boolean := cardinality(deliveries) > 1;
    ahead   uuid[] := '{}';
BEGIN
    IF EXISTS (SELECT FROM mailcrane.crowd) THEN
        ahead := ARRAY(
            SELECT m.id
            FROM mailcrane.message AS m
            WHERE m.id = ANY (ARRAY(SELECT d.message_id FROM unnest(deliveries) AS d WHERE NOT several))
              AND NOT EXISTS (SELECT FROM mailcrane.crowd AS c WHERE c.tenant = m.tenant));
    END IF;

    INSERT INTO mailcrane.river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
    SELECT d.job_id,
           jsonb_build_object('message_id', d.message_id),
           'deliver',
           32767,  -- the ceiling: when to give up is decided by the message, not by the queue
           CASE WHEN d.message_id = ANY (ahead) THEN 1 WHEN several AND d.priority = 2 THEN 3 ELSE d.priority END,
           'default',
           CASE WHEN d.message_id = ANY (ahead) AND coalesce(d.send_after <= now(), true) THEN now() - interval '1 year'
                ELSE greatest(d.send_after, now()) END,
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

-- Finds out who makes up the crowd by looking at 20 places of the queue, and lets the
-- others through who were there before that was known. Costs little: the queue is
-- read as a whole only while there is a crowd, and once in five seconds.
CREATE FUNCTION mailcrane.share_queue() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
SET enable_bitmapscan = 'off'
SET enable_hashjoin = 'off'
SET enable_mergejoin = 'off'
AS $$
DECLARE
    head     timestamptz;
    tail     timestamptz;
    crowding text[];
    n        bigint;
BEGIN
    -- Fewer than that are nobody's trouble.
    PERFORM FROM river_job AS j WHERE j.state = 'available' AND j.queue = 'default' AND j.priority <= 2 OFFSET 199 LIMIT 1;
    IF NOT FOUND THEN
        DELETE FROM crowd;
        RETURN 0;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('mailcrane.share_queue', 0)) THEN
        RETURN 0;
    END IF;

    SELECT min(ends.head), max(ends.tail) INTO head, tail
    FROM (VALUES (1), (2)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT (SELECT j.scheduled_at FROM river_job AS j
                WHERE j.state = 'available' AND j.queue = 'default' AND j.priority = p.priority AND j.scheduled_at > now() - interval '300 days'
                ORDER BY j.scheduled_at LIMIT 1) AS head,
               (SELECT j.scheduled_at FROM river_job AS j
                WHERE j.state = 'available' AND j.queue = 'default' AND j.priority = p.priority AND j.scheduled_at > now() - interval '300 days'
                ORDER BY j.scheduled_at DESC LIMIT 1) AS tail) AS ends;
    crowding := ARRAY(
        SELECT m.tenant
        FROM generate_series(0, 19) AS place (n)
        CROSS JOIN (VALUES (1), (2)) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT j.id, j.args
            FROM river_job AS j
            WHERE j.state = 'available' AND j.queue = 'default' AND j.priority = p.priority AND j.scheduled_at >= head + (tail - head) * place.n / 20
            ORDER BY j.scheduled_at
            LIMIT 30) AS found
        JOIN message AS m ON m.id = (found.args ->> 'message_id')::uuid
        GROUP BY m.tenant
        HAVING count(DISTINCT found.id) >= 20);
    DELETE FROM crowd AS c WHERE c.tenant <> ALL (crowding);
    INSERT INTO crowd (tenant) SELECT u.tenant FROM unnest(crowding) AS u (tenant) ON CONFLICT DO NOTHING;

    -- Who wrote when the crowd was not known yet is let through. So is, later, whoever
    -- was not committed then.
    PERFORM FROM crowd AS c
    WHERE coalesce(c.cleared_at < c.since + interval '2 seconds' OR c.cleared_at < clock_timestamp() - interval '5 seconds', true);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    UPDATE river_job AS j
    SET priority = 1, scheduled_at = now() - interval '1 year'
    WHERE j.id = ANY (ARRAY(
        SELECT o.id
        FROM river_job AS o
        JOIN message AS m ON m.id = (o.args ->> 'message_id')::uuid
        WHERE o.state = 'available' AND o.queue = 'default' AND o.priority <= 2 AND o.scheduled_at > now() - interval '300 days'
          AND m.tenant <> ALL (crowding)
        LIMIT 1000
        FOR UPDATE OF o SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    UPDATE crowd AS c SET cleared_at = clock_timestamp() WHERE c.tenant = ANY (crowding);
    RETURN n;
END
$$;

COMMENT ON TABLE mailcrane.crowd IS 'One row is a tenant that has so much in the queue that messages of others go before its own. Empty most of the time.';
COMMENT ON COLUMN mailcrane.crowd.cleared_at IS 'When those of others were last let through that were in the queue already.';
COMMENT ON FUNCTION mailcrane.write_jobs(mailcrane.delivery[]) IS 'Writes the jobs of new messages, and wakes a daemon. In a call for several, a message of the usual priority, 2, waits for single ones: it gets 3. While there is a crowd, a single message of a tenant that is not in it goes first.';
COMMENT ON FUNCTION mailcrane.share_queue() IS 'Finds out which tenants crowd the queue, and lets those of others through. Gives their number. The daemon calls it twice a second.';

INSERT INTO mailcrane.migration (version) VALUES (33);
