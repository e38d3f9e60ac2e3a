-- For a high rate: what a message costs on its way through the queue.

-- What was offered, and under which Message-ID, is known when an attempt is
-- begun: it belongs to the attempt, and saves a second version of the message.
ALTER TABLE mailcrane.attempt
    ADD COLUMN header_message_id text;

ALTER TABLE mailcrane.attempt
    ADD COLUMN token_hash bytea;

UPDATE mailcrane.attempt AS a
SET header_message_id = m.header_message_id, token_hash = m.token_hash
FROM mailcrane.message AS m
WHERE m.id = a.message_id;

-- squawk-ignore ban-drop-column
ALTER TABLE mailcrane.message DROP COLUMN header_message_id;

-- squawk-ignore ban-drop-column
ALTER TABLE mailcrane.message DROP COLUMN token_hash;

-- Nobody searches by them, and every change of a job's state paid for them: all
-- our jobs are of one kind, and say nothing but which message they bring.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX mailcrane.river_job_args_index;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX mailcrane.river_job_metadata_index;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX mailcrane.river_job_kind;

-- Jobs that are done are not in the index by which the next one is found.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX mailcrane.river_job_prioritized_fetching_index;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX river_job_live ON mailcrane.river_job (state, queue, priority, scheduled_at, id)
    WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled');

-- A job's row has four versions in its life: clean up by rows, not by a share of
-- what may be a large table, and without pauses.
ALTER TABLE mailcrane.river_job SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_limit = 2000
);
ALTER TABLE mailcrane.message SET (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE mailcrane.attempt SET (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_limit = 2000);

-- To compare JSON takes time, and nothing is planned by it.
ALTER TABLE mailcrane.river_job ALTER COLUMN args SET STATISTICS 0;
ALTER TABLE mailcrane.river_job ALTER COLUMN metadata SET STATISTICS 0;
ALTER TABLE mailcrane.river_job ALTER COLUMN errors SET STATISTICS 0;
ALTER TABLE mailcrane.message ALTER COLUMN data SET STATISTICS 0;
ALTER TABLE mailcrane.invitation ALTER COLUMN data SET STATISTICS 0;

-- In a form that the planner makes part of the query. A function that it calls has
-- its text parsed and planned each time.
DROP FUNCTION mailcrane.policy_for(text, text);

CREATE FUNCTION mailcrane.policy_for(tenant text, template text) RETURNS SETOF mailcrane.policy
LANGUAGE sql STABLE
AS $$
    SELECT c.tenant, c.template, c.on_unknown, c.max_unknown, c.give_up_after
    FROM (
        SELECT 1 AS rank, p.tenant, p.template, p.on_unknown, p.max_unknown, p.give_up_after
        FROM mailcrane.policy AS p
        WHERE p.tenant IN ($1, '*') AND p.template IN ($2, '*')
        UNION ALL
        SELECT 2, '*', '*', 'repeat', 2, interval '5 days'  -- should somebody delete the row for everything
    ) AS c
    ORDER BY c.template <> '*' DESC, c.tenant <> '*' DESC, c.rank
    LIMIT 1
$$;

CREATE FUNCTION mailcrane.hold_for(tenant text, template text) RETURNS SETOF mailcrane.hold
LANGUAGE sql STABLE
AS $$
    SELECT h.tenant, h.template, h.reason, h.created_at
    FROM mailcrane.hold AS h
    WHERE h.tenant IN ($1, '*') AND h.template IN ($2, '*')
    ORDER BY h.created_at
    LIMIT 1
$$;

-- Whoever keeps PostgreSQL from cleaning up: each fetch then has to step over all
-- the jobs that are done.
CREATE VIEW mailcrane.old_snapshot AS
    SELECT 'transaction' AS kind, a.pid::text AS name, concat_ws(' ', a.usename, a.application_name, a.state) AS detail, a.xact_start AS since
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.datname = pg_catalog.current_database() AND a.backend_xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction', p.gid, p.owner::text, p.prepared
    FROM pg_catalog.pg_prepared_xacts AS p
    WHERE p.database = pg_catalog.current_database()
    UNION ALL
    SELECT 'replication slot', s.slot_name::text, concat_ws(' ', s.slot_type, CASE WHEN s.active THEN 'active' ELSE 'inactive' END), NULL
    FROM pg_catalog.pg_replication_slots AS s
    WHERE pg_catalog.age(s.xmin) > 1000000;

COMMENT ON FUNCTION mailcrane.policy_for(text, text) IS 'The policy that counts for a template of a tenant.';
COMMENT ON FUNCTION mailcrane.hold_for(text, text) IS 'The oldest hold that keeps a template of a tenant back, if there is one.';
COMMENT ON COLUMN mailcrane.attempt.header_message_id IS 'The Message-ID header field without angle brackets, the same on every attempt. NULL: never handed over.';
COMMENT ON COLUMN mailcrane.attempt.token_hash IS 'SHA-256 of the token in the link that was mailed. The token itself is stored nowhere.';
COMMENT ON VIEW mailcrane.old_snapshot IS 'What keeps PostgreSQL from removing old versions of rows, and the queue from staying fast, if it lasts.';

INSERT INTO mailcrane.migration (version) VALUES (24);
