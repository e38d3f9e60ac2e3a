DROP VIEW mailcrane.old_snapshot;

ALTER TABLE mailcrane.invitation ALTER COLUMN data SET STATISTICS -1;
ALTER TABLE mailcrane.message ALTER COLUMN data SET STATISTICS -1;
ALTER TABLE mailcrane.river_job ALTER COLUMN errors SET STATISTICS -1;
ALTER TABLE mailcrane.river_job ALTER COLUMN metadata SET STATISTICS -1;
ALTER TABLE mailcrane.river_job ALTER COLUMN args SET STATISTICS -1;

DROP FUNCTION mailcrane.hold_for(text, text);
DROP FUNCTION mailcrane.policy_for(text, text);

CREATE FUNCTION mailcrane.policy_for(tenant text, template text) RETURNS mailcrane.policy
LANGUAGE sql STABLE
AS $$
    SELECT ROW (c.tenant, c.template, c.on_unknown, c.max_unknown, c.give_up_after)::mailcrane.policy
    FROM (
        SELECT 1 AS rank, p.*
        FROM mailcrane.policy AS p
        WHERE p.tenant IN ($1, '*') AND p.template IN ($2, '*')
        UNION ALL
        SELECT 2, '*', '*', 'repeat', 2, interval '5 days'  -- should somebody delete the row for everything
    ) AS c
    ORDER BY c.template <> '*' DESC, c.tenant <> '*' DESC, c.rank
    LIMIT 1
$$;

COMMENT ON FUNCTION mailcrane.policy_for(text, text) IS 'The policy that counts for a template of a tenant.';

DROP INDEX mailcrane.river_job_live;
CREATE INDEX river_job_prioritized_fetching_index ON mailcrane.river_job USING btree (state, queue, priority, scheduled_at, id);
CREATE INDEX river_job_kind ON mailcrane.river_job USING btree (kind);
CREATE INDEX river_job_args_index ON mailcrane.river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON mailcrane.river_job USING gin (metadata);

ALTER TABLE mailcrane.attempt SET (autovacuum_vacuum_threshold = 1000);
ALTER TABLE mailcrane.attempt RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE mailcrane.message SET (autovacuum_vacuum_threshold = 1000);
ALTER TABLE mailcrane.message RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE mailcrane.river_job RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_limit);

ALTER TABLE mailcrane.message ADD COLUMN header_message_id text;
ALTER TABLE mailcrane.message ADD COLUMN token_hash bytea;

UPDATE mailcrane.message AS m
SET header_message_id = a.header_message_id, token_hash = a.token_hash
FROM mailcrane.attempt AS a
WHERE a.message_id = m.id AND a.header_message_id IS NOT NULL;

COMMENT ON COLUMN mailcrane.message.header_message_id IS 'The Message-ID header field without angle brackets, fixed by the first handover, the same on every attempt.';
COMMENT ON COLUMN mailcrane.message.token_hash IS 'SHA-256 of the token in the link that was mailed. The token itself is stored nowhere.';

ALTER TABLE mailcrane.attempt DROP COLUMN token_hash;
ALTER TABLE mailcrane.attempt DROP COLUMN header_message_id;

DELETE FROM mailcrane.migration WHERE version = 24;
