-- The promise as a query: no row, as long as it is kept. One statement, so that
-- everything is seen at one moment.

-- Rows are finished and begun about in the order in which they stand on disk, so
-- these cost next to nothing.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX message_finished_at ON mailcrane.message USING brin (finished_at) WITH (pages_per_range = 16, autosummarize = on);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX attempt_began_at ON mailcrane.attempt USING brin (began_at) WITH (pages_per_range = 16, autosummarize = on);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX attempt_was_unknown ON mailcrane.attempt (message_id) WHERE was_unknown;

-- What a job names is a uuid, unless somebody has written to the queue by hand; as
-- text it could not be looked up in an index.
CREATE VIEW mailcrane.live_job AS
    SELECT j.id, j.state, j.scheduled_at, j.attempted_at,
           CASE WHEN j.args ->> 'message_id' ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
                THEN (j.args ->> 'message_id')::uuid END AS message_id,
           j.args ->> 'message_id' AS named,
           j.attempted_by[array_upper(j.attempted_by, 1)] AS owner
    FROM mailcrane.river_job AS j
    WHERE j.kind = 'deliver' AND j.state IN ('available', 'running', 'scheduled', 'retryable', 'pending');

CREATE FUNCTION mailcrane.audit(since interval DEFAULT '24 hours')
RETURNS TABLE (check_name text, severity text, message_id uuid, job_id bigint, detail text)
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
-- Planned for the time that it looks back over, by index, as the latest pages are
-- in memory. A compiler and helpers cost more than they gain.
SET plan_cache_mode = 'force_custom_plan'
SET random_page_cost = 0.2
SET jit = 'off'
SET max_parallel_workers_per_gather = 0
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    -- The queue.
    SELECT 'queued_without_job', 'critical', m.id, m.job_id, 'nothing will bring this message to a worker'
    FROM message AS m
    WHERE m.finished_at IS NULL AND m.status = 'queued'
      AND NOT EXISTS (SELECT FROM live_job AS j WHERE j.id = m.job_id)
      AND NOT EXISTS (SELECT FROM live_job AS j WHERE j.message_id = m.id)
    UNION ALL
    SELECT 'two_live_jobs', 'critical', j.message_id, max(j.id), format('%s jobs bring the same message', count(*))
    FROM live_job AS j
    JOIN message AS m ON m.id = j.message_id
    GROUP BY j.message_id
    HAVING count(*) > 1
    UNION ALL
    SELECT 'job_without_message', 'critical', NULL, j.id, coalesce('there is no message ' || j.named, 'the job names no message')
    FROM live_job AS j
    LEFT JOIN message AS m ON m.id = j.message_id
    WHERE m.id IS NULL
    UNION ALL
    SELECT 'finished_with_job', 'critical', m.id, j.id, format('the message is %s since %s', m.status, m.finished_at)
    FROM live_job AS j
    JOIN message AS m ON m.id = j.message_id
    WHERE m.finished_at < statement_timestamp() - interval '1 minute'  -- its worker may just be about to see that
    UNION ALL
    SELECT 'personal_data_in_job', 'critical', NULL, j.id, 'the arguments hold more than a message_id'
    FROM river_job AS j
    WHERE j.kind = 'deliver' AND j.created_at > statement_timestamp() - since AND j.args - 'message_id' <> '{}'
    -- The ledger.
    UNION ALL
    SELECT 'sent_without_acceptance', 'critical', m.id, m.job_id, 'no attempt was accepted'
    FROM message AS m
    WHERE m.finished_at > statement_timestamp() - since AND m.status = 'sent'
      AND NOT EXISTS (SELECT FROM attempt AS a WHERE a.message_id = m.id AND a.outcome = 'accepted')
    UNION ALL
    SELECT 'accepted_but_not_sent', 'critical', m.id, m.job_id, format('attempt %s was accepted, and the message is %s', a.number, m.status)
    FROM attempt AS a
    JOIN message AS m ON m.id = a.message_id
    WHERE a.began_at > statement_timestamp() - since AND a.outcome = 'accepted' AND m.status <> 'sent'
    UNION ALL
    SELECT 'accepted_too_often', 'critical', a.message_id, max(a.job_id),
           format('%s attempts accepted, %s ever unknown', count(*) FILTER (WHERE a.outcome = 'accepted'), count(*) FILTER (WHERE a.was_unknown))
    FROM attempt AS a
    WHERE a.message_id IN (SELECT r.message_id FROM attempt AS r WHERE r.began_at > statement_timestamp() - since AND r.outcome = 'accepted' AND r.number > 1)
    GROUP BY a.message_id
    HAVING count(*) FILTER (WHERE a.outcome = 'accepted') > 1 + count(*) FILTER (WHERE a.was_unknown)
    UNION ALL
    SELECT CASE a.allowed_unknown WHEN 0 THEN 'repeated_despite_hold' ELSE 'unknown_over_bound' END, 'critical', a.message_id, a.job_id,
           format('attempt %s was begun after %s unknown outcomes, and %s were allowed', a.number, past.unknown, a.allowed_unknown)
    FROM attempt AS a
    CROSS JOIN LATERAL (
        SELECT count(*) AS unknown
        FROM attempt AS u
        WHERE u.message_id = a.message_id AND u.was_unknown AND u.number < a.number
    ) AS past
    WHERE a.began_at > statement_timestamp() - since AND a.number > 1 AND a.relay IS NOT NULL AND past.unknown > a.allowed_unknown
    UNION ALL
    -- Each from the side of which there is less. A transaction that took its time
    -- has an older timestamp than its commit.
    SELECT 'begun_too_late', 'critical', a.message_id, a.job_id, format('attempt %s was begun at %s, after %s', a.number, a.began_at, late.than)
    FROM (
        SELECT m.id, m.expires_at + interval '1 second', 'the message had expired'
        FROM message AS m
        WHERE m.expires_at < statement_timestamp() AND coalesce(m.finished_at > statement_timestamp() - since, true)
        UNION ALL
        SELECT m.id, s.created_at + interval '1 minute', 'the address was suppressed'
        FROM suppression AS s
        JOIN message AS m ON m.tenant = s.tenant AND lower(m.recipient) = s.address
        WHERE coalesce(m.finished_at > statement_timestamp() - since, true)
        UNION ALL
        SELECT m.id, i.finished_at + interval '1 minute', 'the invitation was ' || i.status
        FROM invitation AS i
        JOIN message AS m ON m.invitation_id = i.id
        WHERE i.status <> 'pending' AND coalesce(m.finished_at > statement_timestamp() - since, true)
    ) AS late (message_id, at, than)
    JOIN attempt AS a ON a.message_id = late.message_id AND a.began_at > late.at
    WHERE a.began_at > statement_timestamp() - since
    UNION ALL
    -- Not wrong yet, but worth a look.
    SELECT 'open_attempt_of_dead_daemon', 'warning', a.message_id, a.job_id, format('attempt %s, begun at %s', a.number, a.began_at)
    FROM attempt AS a
    LEFT JOIN instance AS n ON n.id = a.instance_id
    WHERE a.outcome IS NULL
      AND coalesce(n.stopped_at, n.heartbeat_at + n.lease, a.began_at) < statement_timestamp() - interval '1 minute'
    UNION ALL
    SELECT 'job_of_dead_daemon', 'warning', NULL, j.id, 'taken by ' || coalesce(n.name, j.owner, 'nobody')
    FROM live_job AS j
    LEFT JOIN instance AS n ON n.id::text = j.owner
    WHERE j.state = 'running'
      AND coalesce(n.stopped_at, n.heartbeat_at + n.lease, j.attempted_at, '-infinity') < statement_timestamp() - interval '1 minute'
    UNION ALL
    SELECT 'running_too_long', 'warning', NULL, j.id, format('since %s', j.attempted_at)
    FROM live_job AS j
    JOIN instance AS n ON n.id::text = j.owner AND instance_is_live(n)
    WHERE j.state = 'running' AND j.attempted_at < statement_timestamp() - interval '15 minutes'
    UNION ALL
    SELECT 'overdue', 'warning', m.id, j.id, format('due since %s', j.scheduled_at)
    FROM live_job AS j
    JOIN message AS m ON m.id = j.message_id
    WHERE j.state <> 'running' AND j.scheduled_at < statement_timestamp() - interval '10 minutes'
    UNION ALL
    SELECT 'clock_ahead', 'warning', f.message_id, NULL, format('%s of %s is in the future', f.what, f.at)
    FROM (
        SELECT m.id, 'created_at', m.created_at FROM message AS m WHERE m.finished_at IS NULL AND m.created_at > statement_timestamp() + interval '2 seconds'
        UNION ALL
        SELECT a.message_id, 'began_at', a.began_at FROM attempt AS a WHERE a.began_at > statement_timestamp() + interval '2 seconds'
        UNION ALL
        SELECT NULL, 'heartbeat_at', n.heartbeat_at FROM instance AS n WHERE n.heartbeat_at > statement_timestamp() + interval '2 seconds'
    ) AS f (message_id, what, at)
    UNION ALL
    SELECT 'held', 'info', m.id, m.job_id, m.reason
    FROM message AS m
    WHERE m.finished_at IS NULL AND m.status = 'held';
END
$$;

-- Brings the queue back into line with the messages, and a message with its
-- ledger. Nothing that it does can send a mail twice: the ledger is not touched.
CREATE FUNCTION mailcrane.repair() RETURNS TABLE (check_name text, repaired bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    n   bigint;
    ids uuid[];
BEGIN
    WITH changed AS (
        UPDATE message AS m
        SET status = 'sent', reason = NULL, held_by = NULL, finished_at = coalesce(m.finished_at, clock_timestamp())
        WHERE m.status <> 'sent'
          AND EXISTS (SELECT FROM attempt AS a WHERE a.message_id = m.id AND a.outcome = 'accepted')
        RETURNING 1
    )
    SELECT count(*) INTO n FROM changed;
    RETURN QUERY SELECT 'accepted_but_not_sent', n WHERE n > 0;

    UPDATE river_job AS j
    SET args = jsonb_build_object('message_id', j.args -> 'message_id')
    WHERE j.kind = 'deliver' AND j.args - 'message_id' <> '{}';
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN QUERY SELECT 'personal_data_in_job', n WHERE n > 0;

    -- Of several jobs the one that the message names stays; then the newest.
    WITH stays AS (
        SELECT DISTINCT ON (j.message_id) j.id
        FROM live_job AS j
        JOIN message AS m ON m.id = j.message_id AND m.finished_at IS NULL
        ORDER BY j.message_id, j.id = m.job_id DESC, j.id DESC
    )
    UPDATE river_job AS j
    SET state = 'cancelled', finalized_at = clock_timestamp()
    FROM live_job AS l
    WHERE l.id = j.id AND l.id NOT IN (SELECT s.id FROM stays AS s);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN QUERY SELECT 'superfluous_job', n WHERE n > 0;

    WITH changed AS (
        UPDATE message AS m
        SET job_id = nextval('river_job_id_seq')
        WHERE m.finished_at IS NULL AND m.status = 'queued'
          AND NOT EXISTS (SELECT FROM live_job AS j WHERE j.id = m.job_id)
          AND NOT EXISTS (SELECT FROM live_job AS j WHERE j.message_id = m.id)
        RETURNING m.id
    )
    SELECT array_agg(id ORDER BY id), count(*) INTO ids, n FROM changed;
    PERFORM queue_jobs(ids);
    RETURN QUERY SELECT 'queued_without_job', n WHERE n > 0;
END
$$;

COMMENT ON VIEW mailcrane.live_job IS 'The delivery jobs that are not over, with the message and the daemon they name.';
COMMENT ON FUNCTION mailcrane.audit(interval) IS 'Everything that contradicts the promise, or will: critical, warning or info. Looks at what is unfinished, and at what happened in the given time. No row: all is well.';
COMMENT ON FUNCTION mailcrane.repair() IS 'Gives messages the jobs they lack, ends jobs that should not be, and believes the ledger. Says what it did.';

INSERT INTO mailcrane.migration (version) VALUES (23);
