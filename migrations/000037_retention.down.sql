CREATE OR REPLACE FUNCTION mailcrane.events(after text DEFAULT NULL, at_most integer DEFAULT 100, for_tenant text DEFAULT NULL)
RETURNS TABLE (
    id text, type text, tenant text, invitation_id uuid, message_id uuid, group_id text, detail text, created_at timestamptz
)
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    last_xid xid8 := '0';
    last_id  bigint := 0;
BEGIN
    IF events.after <> '' THEN
        IF events.after !~ '^[0-9]{1,18}-[0-9]{1,18}$' THEN
            RAISE EXCEPTION 'after is not the id of an event'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is not the id of an event"}]',
                      HINT = 'Give the id of the last event that you have, or none.';
        END IF;
        last_xid := split_part(events.after, '-', 1)::xid8;
        last_id := split_part(events.after, '-', 2)::bigint;
        IF last_xid >= pg_snapshot_xmax(pg_current_snapshot()) THEN
            RAISE EXCEPTION 'after is the id of an event that this database has not had'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is from a database that has been restored since: begin without it"}]',
                      HINT = 'The database has been restored since. Begin without after.';
        END IF;
    END IF;
    RETURN QUERY
    SELECT e.xid::text || '-' || e.id, e.type, e.tenant, e.invitation_id, e.message_id, i.group_id, e.detail, e.created_at
    FROM event AS e
    LEFT JOIN invitation AS i ON i.id = e.invitation_id
    WHERE (e.xid, e.id) > (last_xid, last_id)
      AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
      AND (for_tenant IS NULL OR e.tenant = for_tenant)
    ORDER BY e.xid, e.id
    LIMIT least(greatest(events.at_most, 1), 1000);
END
$$;

DROP FUNCTION mailcrane.prune(integer);
DROP FUNCTION mailcrane.prune_events(integer);
DROP FUNCTION mailcrane.prune_messages(integer);
DROP FUNCTION mailcrane.uuid_v7_floor(timestamptz);
DROP INDEX mailcrane.quota_use_day;
DROP TABLE mailcrane.event_floor;
DROP TABLE mailcrane.retention;

DELETE FROM mailcrane.migration WHERE version = 37;
