CREATE OR REPLACE FUNCTION mailcrane.find_crowd() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
SET enable_bitmapscan = 'off'
SET enable_hashjoin = 'off'
SET enable_mergejoin = 'off'
SET jit = 'off'
AS $$
DECLARE
    head     timestamptz;
    tail     timestamptz;
    crowding text[];
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

    -- Who wrote when the crowd was not known yet, or comes back, is at the tail. Rows
    -- are locked only if they are to change, as fetches pass over those that are.
    RETURN let_ahead(ARRAY(
        SELECT newest.id
        FROM (VALUES (1), (2)) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT j.id, j.args
            FROM river_job AS j
            WHERE j.state = 'available' AND j.queue = 'default' AND j.priority = p.priority AND j.scheduled_at > clock_timestamp() - interval '2 seconds'
            ORDER BY j.scheduled_at DESC
            LIMIT 5000) AS newest
        JOIN message AS m ON m.id = (newest.args ->> 'message_id')::uuid
        WHERE m.tenant <> ALL (crowding)));
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.let_through() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
SET enable_bitmapscan = 'off'
SET enable_hashjoin = 'off'
SET enable_mergejoin = 'off'
SET jit = 'off'
AS $$
DECLARE
    crowding text[] := ARRAY(SELECT c.tenant FROM crowd AS c);
    n        bigint;
BEGIN
    PERFORM FROM crowd AS c
    WHERE c.cleared_at IS NULL
       OR c.cleared_at < c.since + interval '2 seconds' AND c.since < clock_timestamp() - interval '2 seconds'
       OR c.cleared_at < clock_timestamp() - interval '15 seconds';
    IF NOT FOUND OR NOT pg_try_advisory_xact_lock(hashtextextended('mailcrane.let_through', 0)) THEN
        RETURN 0;
    END IF;
    n := let_ahead(ARRAY(
        SELECT o.id
        FROM river_job AS o
        JOIN message AS m ON m.id = (o.args ->> 'message_id')::uuid
        WHERE o.state = 'available' AND o.queue = 'default' AND o.priority <= 2 AND o.scheduled_at > now() - interval '300 days'
          AND m.tenant <> ALL (crowding)
        LIMIT 1000));
    UPDATE crowd AS c SET cleared_at = clock_timestamp() WHERE c.tenant = ANY (crowding);
    RETURN n;
END
$$;

COMMENT ON FUNCTION mailcrane.let_through() IS 'Lets messages of those through who do not crowd the queue, wherever they are in it. Gives their number. The daemon calls it; it looks at the queue four times a minute, while there is a crowd.';

ALTER TABLE mailcrane.crowd DROP COLUMN cleared_in;

DELETE FROM mailcrane.migration WHERE version = 51;
