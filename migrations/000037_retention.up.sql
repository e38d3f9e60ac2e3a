-- What is kept, and for how long. Nothing is deleted that somebody would miss unless
-- a row here says so; events, which only grow, are kept for 90 days.

CREATE TABLE mailcrane.retention (
    what  text PRIMARY KEY CHECK (what IN ('data', 'attempt', 'message', 'bounce', 'event')),
    keep  interval NOT NULL CHECK (keep >= interval '1 day'),
    place uuid
);

INSERT INTO mailcrane.retention (what, keep) VALUES ('event', '90 days');

-- Up to where events are deleted.
CREATE TABLE mailcrane.event_floor (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    xid xid8 NOT NULL DEFAULT '0',
    id  bigint NOT NULL DEFAULT 0
);

INSERT INTO mailcrane.event_floor DEFAULT VALUES;

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX quota_use_day ON mailcrane.quota_use (day);

-- The ids of rows made before a moment are below this.
CREATE FUNCTION mailcrane.uuid_v7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

-- Walks through the messages in the order of their ids, and through those that are
-- over for long does what the rows of retention say. At the end it begins anew, as
-- what was not over then may be so now. Gives how many it has changed.
CREATE FUNCTION mailcrane.prune_messages(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    rule retention%ROWTYPE;
    seen uuid[];
    over uuid[];
    more uuid[];
    n    bigint := 0;
    k    bigint;
BEGIN
    FOR rule IN SELECT * FROM retention AS r WHERE r.what IN ('data', 'attempt', 'message') ORDER BY r.what FOR UPDATE LOOP
        seen := ARRAY(
            SELECT m.id
            FROM message AS m
            WHERE m.id > coalesce(rule.place, '00000000-0000-0000-0000-000000000000') AND m.id < uuid_v7_floor(now() - rule.keep)
            ORDER BY m.id
            LIMIT at_most);
        UPDATE retention AS r
        SET place = CASE WHEN cardinality(seen) = at_most THEN seen[at_most] END
        WHERE r.what = rule.what AND r.place IS DISTINCT FROM CASE WHEN cardinality(seen) = at_most THEN seen[at_most] END;
        over := ARRAY(
            SELECT m.id
            FROM message AS m
            LEFT JOIN invitation AS i ON i.id = m.invitation_id
            WHERE m.id = ANY (seen) AND m.finished_at < now() - rule.keep
              AND (i.id IS NULL OR i.finished_at < now() - rule.keep)
            FOR UPDATE OF m SKIP LOCKED);
        CASE rule.what
        WHEN 'data' THEN
            UPDATE invitation AS i SET data = '{}', link = NULL
            WHERE i.id = ANY (ARRAY(SELECT m.invitation_id FROM message AS m WHERE m.id = ANY (over))) AND (i.data <> '{}' OR i.link IS NOT NULL);
            GET DIAGNOSTICS k = ROW_COUNT;
            n := n + k;
            UPDATE message AS m SET data = '{}' WHERE m.id = ANY (over) AND m.data <> '{}';
        WHEN 'attempt' THEN
            UPDATE attempt AS a SET reply = NULL WHERE a.message_id = ANY (over) AND a.reply IS NOT NULL AND a.outcome IS NOT NULL;
        WHEN 'message' THEN
            more := ARRAY(SELECT DISTINCT m.invitation_id FROM message AS m WHERE m.id = ANY (over) AND m.invitation_id IS NOT NULL);
            DELETE FROM attempt AS a WHERE a.message_id = ANY (over);
            DELETE FROM message AS m WHERE m.id = ANY (over);
            GET DIAGNOSTICS k = ROW_COUNT;
            n := n + k;
            DELETE FROM invitation AS i
            WHERE i.id = ANY (more) AND NOT EXISTS (SELECT FROM message AS m WHERE m.invitation_id = i.id);
        END CASE;
        GET DIAGNOSTICS k = ROW_COUNT;
        n := n + k;
    END LOOP;
    RETURN n;
END
$$;

-- Events go in the order in which they are read, and the floor rises with them.
CREATE FUNCTION mailcrane.prune_events(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    kept_for interval := (SELECT r.keep FROM retention AS r WHERE r.what = 'event');
    n        bigint;
BEGIN
    IF kept_for IS NULL THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM event AS e
        USING (
            SELECT o.xid, o.id, o.created_at
            FROM event AS o
            WHERE o.xid < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY o.xid, o.id
            LIMIT at_most
        ) AS first
        WHERE e.xid = first.xid AND e.id = first.id AND first.created_at < now() - kept_for
        RETURNING e.xid, e.id
    ), last AS (
        SELECT g.xid, g.id FROM gone AS g ORDER BY g.xid DESC, g.id DESC LIMIT 1
    )
    UPDATE event_floor AS f
    SET xid = l.xid, id = l.id
    FROM last AS l
    RETURNING (SELECT count(*) FROM gone) INTO n;
    RETURN coalesce(n, 0);
END
$$;

CREATE FUNCTION mailcrane.prune(at_most integer DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
DECLARE
    n bigint := 0;
    k bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('mailcrane.prune', 0)) THEN
        RETURN 0;
    END IF;
    n := prune_messages(at_most) + prune_events(at_most);
    DELETE FROM bounce AS b
    WHERE b.id = ANY (ARRAY(
        SELECT o.id
        FROM bounce AS o
        WHERE o.id < uuid_v7_floor(now() - (SELECT r.keep FROM retention AS r WHERE r.what = 'bounce'))
        ORDER BY o.id
        LIMIT at_most));
    GET DIAGNOSTICS k = ROW_COUNT;
    n := n + k;
    DELETE FROM quota_use AS u WHERE u.day < current_date - 2;
    GET DIAGNOSTICS k = ROW_COUNT;
    RETURN n + k;
END
$$;

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
        IF EXISTS (SELECT FROM event_floor AS f WHERE (f.xid, f.id) > (last_xid, last_id) AND events.after <> '0-0') THEN
            RAISE EXCEPTION 'events behind this one are deleted already'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is so old that events behind it are deleted already: begin without it, and know that some are missing"}]',
                      HINT = 'Begin without after. Events are kept for as long as mailcrane.retention says.';
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

COMMENT ON TABLE mailcrane.retention IS 'One row says how long something is kept: data (values and links of what is over), attempt (what relays said), message (with invitations and attempts), bounce, event. Without a row it is kept for ever.';
COMMENT ON COLUMN mailcrane.retention.keep IS 'Since it was over. A day at least, as requests can be repeated for that long.';
COMMENT ON COLUMN mailcrane.retention.place IS 'The last message that was looked at.';
COMMENT ON TABLE mailcrane.event_floor IS 'The last event that was deleted.';
COMMENT ON FUNCTION mailcrane.uuid_v7_floor(timestamptz) IS 'A uuid below those that mailcrane.uuid_v7() gives from a moment on.';
COMMENT ON FUNCTION mailcrane.prune_messages(integer) IS 'Deletes what mailcrane.retention does not keep about so many messages.';
COMMENT ON FUNCTION mailcrane.prune_events(integer) IS 'Deletes so many events that mailcrane.retention does not keep.';
COMMENT ON FUNCTION mailcrane.prune(integer) IS 'Deletes what mailcrane.retention does not keep, so many rows of a kind. The daemon calls it.';

INSERT INTO mailcrane.migration (version) VALUES (37);
