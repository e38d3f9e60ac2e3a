-- The keys of events go back to what this server counts. What all webhooks have been
-- told stays behind them; some may be told a few events again, under other ids.
ALTER TABLE mailcrane.event ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
WITH told AS (
    SELECT min(mailcrane.told_xid(w)::text::numeric * 1000000000000000000 + mailcrane.told_id(w)) AS place FROM mailcrane.webhook AS w
)
UPDATE mailcrane.event AS e
SET xid = CASE WHEN e.xid::text::numeric * 1000000000000000000 + e.id <= t.place
               THEN (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8
               ELSE pg_current_xact_id() END
FROM told AS t
WHERE e.xid >= pg_snapshot_xmax(pg_current_snapshot());
UPDATE mailcrane.webhook AS w
SET last_event = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) || '-999999999999999999'
WHERE mailcrane.told_xid(w) >= pg_snapshot_xmax(pg_current_snapshot());
-- So that mailcrane.release() queues them.
UPDATE mailcrane.message SET held_by = 'hold' WHERE status = 'held' AND held_by = 'webhook';
UPDATE mailcrane.event_floor SET xid = '0', id = 0 WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());

CREATE OR REPLACE FUNCTION mailcrane.send_events(at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    w     webhook%ROWTYPE;
    e     record;
    n     bigint := 0;
    place text;
BEGIN
    FOR w IN SELECT * FROM webhook AS v WHERE v.disabled_at IS NULL ORDER BY v.id FOR NO KEY UPDATE SKIP LOCKED LOOP
        place := w.last_event;
        BEGIN
            FOR e IN SELECT * FROM events(w.last_event, at_most, w.tenant) LOOP
                place := e.id;
                n := n + 1;
                IF w.types = '{}' OR e.type = ANY (w.types) OR split_part(e.type, '.', 1) || '.*' = ANY (w.types) THEN
                    PERFORM enqueue(
                        recipient => w.id::text, template => 'webhook-event', channel => 'webhook', priority => 3, tenant => w.tenant,
                        data => jsonb_strip_nulls(jsonb_build_object(
                            'id', e.id, 'type', e.type, 'invitation_id', e.invitation_id, 'message_id', e.message_id,
                            'group_id', e.group_id, 'detail', e.detail, 'created_at', e.created_at)),
                        idempotency_key => format('webhook %s %s %s', w.id, e.id, w.replays));
                END IF;
            END LOOP;
        EXCEPTION WHEN invalid_parameter_value THEN
            place := last_event();  -- the database was restored, and counts anew
        END;
        IF place <> w.last_event THEN
            UPDATE webhook AS v SET last_event = place WHERE v.id = w.id;
        END IF;
    END LOOP;
    RETURN n;
END
$$;

DROP FUNCTION mailcrane.tell_webhook(uuid, integer);
DROP FUNCTION mailcrane.webhooks_behind();

CREATE OR REPLACE FUNCTION mailcrane.last_event() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) || '-999999999999999999'
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

CREATE OR REPLACE FUNCTION mailcrane.prune_events(at_most integer) RETURNS bigint
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

CREATE OR REPLACE FUNCTION mailcrane.adopt(name text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE
AS $$
    INSERT INTO mailcrane.installation (name, system_identifier, database_id, timeline)
    SELECT $1, w.system_identifier, w.database_id, w.timeline
    FROM mailcrane.whereabouts() AS w
    ON CONFLICT (one) DO UPDATE
    SET name = excluded.name,
        system_identifier = excluded.system_identifier,
        database_id = excluded.database_id,
        timeline = excluded.timeline,
        adopted_at = clock_timestamp();
    DELETE FROM mailcrane.hold WHERE tenant = '*' AND template = '*' AND reason LIKE 'the database went back in time%';
    UPDATE mailcrane.event SET xid = pg_current_xact_id() WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());
$$;

CREATE OR REPLACE FUNCTION mailcrane.enable_webhook(webhook_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    UPDATE webhook AS w SET disabled_at = NULL, disabled_because = NULL WHERE w.id = webhook_id;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.rotate_webhook(webhook_id uuid) RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    PERFORM require_webhook(webhook_id);
    UPDATE webhook AS w SET generation = w.generation + 1, rotated_at = clock_timestamp() WHERE w.id = webhook_id RETURNING w.generation INTO n;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.replay_webhook(webhook_id uuid, after text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    PERFORM FROM events(after, 1);  -- fails if it is not the id of an event
    UPDATE webhook AS w SET last_event = coalesce(nullif(after, ''), '0-0'), replays = w.replays + 1 WHERE w.id = webhook_id;
END
$$;

DROP FUNCTION mailcrane.prune_webhook_messages(integer);
DROP FUNCTION mailcrane.webhook_of(text);
DROP FUNCTION mailcrane.told_id(mailcrane.webhook);
DROP FUNCTION mailcrane.told_xid(mailcrane.webhook);
DROP FUNCTION mailcrane.begin_era();
DROP FUNCTION mailcrane.event_horizon();
DROP FUNCTION mailcrane.event_key(xid8);
ALTER TABLE mailcrane.webhook DROP COLUMN missed_at;
DROP INDEX mailcrane.event_tenant;
DROP INDEX mailcrane.message_webhook;
DROP TABLE mailcrane.event_era;
DROP VIEW mailcrane.oldest_writer;
DELETE FROM mailcrane.retention WHERE what = 'webhook';
ALTER TABLE mailcrane.retention
    DROP CONSTRAINT retention_what_check,
    ADD CONSTRAINT retention_what_check CHECK (what IN ('data', 'attempt', 'message', 'bounce', 'event'));

COMMENT ON COLUMN mailcrane.event.xid IS 'The transaction that caused it. With id, the order in which events are read.';
COMMENT ON COLUMN mailcrane.message.held_by IS 'Why it is held: unknown (outcomes), poison (daemons died over it), hold (of its tenant or template), relay (none took it in time).';
COMMENT ON FUNCTION mailcrane.disable_webhook(uuid, text) IS 'Tells an endpoint nothing more until it is enabled.';
COMMENT ON FUNCTION mailcrane.enable_webhook(uuid) IS 'Tells an endpoint again what happens, from where it was disabled.';
COMMENT ON TABLE mailcrane.retention IS 'One row says how long something is kept: data (values and links of what is over), attempt (what relays said), message (with invitations and attempts), bounce, event. Without a row it is kept for ever.';
COMMENT ON FUNCTION mailcrane.prune_events(integer) IS 'Deletes so many events that mailcrane.retention does not keep.';
COMMENT ON FUNCTION mailcrane.rotate_webhook(uuid) IS 'Gives an endpoint another secret. For a day both are good. Gives the generation.';
COMMENT ON FUNCTION mailcrane.replay_webhook(uuid, text) IS 'Tells an endpoint again what has happened since an event, or from the first. A receiver knows copies by their webhook-id. SQLSTATE 22023: not the id of an event.';
COMMENT ON FUNCTION mailcrane.last_event() IS 'A place in the order of events behind those that can be read now.';
COMMENT ON FUNCTION mailcrane.send_events(integer) IS 'Writes messages for events that webhooks wait for. Gives the number of events. The daemon calls it.';

DELETE FROM mailcrane.migration WHERE version = 46;
