-- Events keep their place when the database goes elsewhere. A restored database may
-- count its transactions from the beginning, or once more: whoever adopts it begins
-- an era, in which keys are ahead of the count of transactions, and above every key
-- that the database can have had before. Nobody's place has to be rewritten.

CREATE TABLE mailcrane.event_era (
    first    xid8 PRIMARY KEY,
    ahead    bigint NOT NULL,
    last_xid xid8 NOT NULL,
    last_id  bigint NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO mailcrane.event_era (first, ahead, last_xid, last_id) VALUES ('0', 0, '0', 0);

-- Who reads the events of one tenant does not step over those of the others.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX event_tenant ON mailcrane.event (tenant, xid, id);

ALTER TABLE mailcrane.webhook ADD COLUMN missed_at timestamptz;

CREATE FUNCTION mailcrane.event_key(xid xid8) RETURNS xid8
LANGUAGE sql STABLE
AS $$
    SELECT ($1::text::bigint + (SELECT e.ahead FROM mailcrane.event_era AS e ORDER BY e.first DESC LIMIT 1))::text::xid8
$$;

-- Below this nothing is added any more: all transactions that might are over.
CREATE FUNCTION mailcrane.event_horizon() RETURNS xid8
LANGUAGE sql STABLE
AS $$
    SELECT mailcrane.event_key(pg_snapshot_xmin(pg_current_snapshot()))
$$;

-- Nobody who writes an event may do so under a key of the era before once somebody
-- has read one of the new: hence the lock, which waits for them, and a default, which
-- counts from the commit on, whatever a transaction has for its snapshot.
--
-- Between the restore and the adoption applications may have written events with keys
-- that are too low: they came after all that were there, as their ids show.
CREATE FUNCTION mailcrane.begin_era() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    counted  xid8;
    restored bigint;
    top      record;
    first    bigint;
    ahead    bigint;
BEGIN
    LOCK TABLE event IN ACCESS EXCLUSIVE MODE;
    counted := event_key(pg_snapshot_xmax(pg_current_snapshot()));
    restored := greatest(
        (SELECT max(e.id) FROM event AS e WHERE e.xid >= counted),
        (SELECT f.id FROM event_floor AS f WHERE f.xid >= counted));
    SELECT k.xid, k.id INTO top
    FROM (
        (SELECT e.xid, e.id FROM event AS e ORDER BY e.xid DESC, e.id DESC LIMIT 1)
        UNION ALL
        SELECT f.xid, f.id FROM event_floor AS f
    ) AS k
    ORDER BY k.xid DESC, k.id DESC
    LIMIT 1;
    first := (greatest(counted, top.xid)::text::bigint / 1000000000000 + 1) * 1000000000000;
    ahead := first + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    UPDATE event AS e SET xid = first::text::xid8 WHERE e.xid < counted AND e.id > restored;
    INSERT INTO event_era (first, ahead, last_xid, last_id) VALUES (first::text::xid8, ahead, top.xid, top.id);
    EXECUTE format('ALTER TABLE mailcrane.event ALTER COLUMN xid SET DEFAULT (pg_current_xact_id()::text::bigint + %s)::text::xid8', ahead);
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
    SELECT mailcrane.begin_era();
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
    after_xid xid8 := '0';
    after_id  bigint := 0;
    horizon   xid8 := event_horizon();
    rows      bigint := least(greatest(events.at_most, 1), 1000);
BEGIN
    IF events.after <> '' THEN
        IF events.after !~ '^[0-9]{1,18}-[0-9]{1,18}$' THEN
            RAISE EXCEPTION 'after is not the id of an event'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is not the id of an event"}]',
                      HINT = 'Give the id of the last event that you have, or none.';
        END IF;
        after_xid := split_part(events.after, '-', 1)::xid8;
        after_id := split_part(events.after, '-', 2)::bigint;
        IF after_xid >= event_key(pg_snapshot_xmax(pg_current_snapshot()))
            OR EXISTS (SELECT FROM event_era AS a WHERE after_xid < a.first AND (after_xid, after_id) > (a.last_xid, a.last_id))
        THEN
            RAISE EXCEPTION 'after is the id of an event that this database has not had'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is from a database that has been restored since: begin without it"}]',
                      HINT = 'The database has been restored since. Begin without after.';
        END IF;
        IF EXISTS (SELECT FROM event_floor AS f WHERE (f.xid, f.id) > (after_xid, after_id) AND events.after <> '0-0') THEN
            RAISE EXCEPTION 'events behind this one are deleted already'
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = '[{"item": 0, "field": "after", "problem": "is so old that events behind it are deleted already: begin without it, and know that some are missing"}]',
                      HINT = 'Begin without after. Events are kept for as long as mailcrane.retention says.';
        END IF;
    END IF;
    IF for_tenant IS NULL THEN
        RETURN QUERY
        SELECT e.xid::text || '-' || e.id, e.type, e.tenant, e.invitation_id, e.message_id, i.group_id, e.detail, e.created_at
        FROM event AS e
        LEFT JOIN invitation AS i ON i.id = e.invitation_id
        WHERE (e.xid, e.id) > (after_xid, after_id) AND e.xid < horizon
        ORDER BY e.xid, e.id
        LIMIT rows;
    ELSE
        RETURN QUERY
        SELECT e.xid::text || '-' || e.id, e.type, e.tenant, e.invitation_id, e.message_id, i.group_id, e.detail, e.created_at
        FROM event AS e
        LEFT JOIN invitation AS i ON i.id = e.invitation_id
        WHERE e.tenant = for_tenant AND (e.xid, e.id) > (after_xid, after_id) AND e.xid < horizon
        ORDER BY e.xid, e.id
        LIMIT rows;
    END IF;
END
$$;

-- The place of the last event that can be read now.
CREATE OR REPLACE FUNCTION mailcrane.last_event() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT k.xid || '-' || k.id
    FROM (
        (SELECT e.xid, e.id FROM mailcrane.event AS e WHERE e.xid < (SELECT mailcrane.event_horizon()) ORDER BY e.xid DESC, e.id DESC LIMIT 1)
        UNION ALL
        SELECT f.xid, f.id FROM mailcrane.event_floor AS f
    ) AS k
    ORDER BY k.xid DESC, k.id DESC
    LIMIT 1
$$;

-- Places were between events; now they are those of events, which an era can follow.
UPDATE mailcrane.webhook AS w
SET last_event = (
    SELECT k.xid || '-' || k.id
    FROM (
        (SELECT e.xid, e.id FROM mailcrane.event AS e WHERE e.xid <= split_part(w.last_event, '-', 1)::xid8 ORDER BY e.xid DESC, e.id DESC LIMIT 1)
        UNION ALL
        SELECT f.xid, f.id FROM mailcrane.event_floor AS f
    ) AS k
    ORDER BY k.xid DESC, k.id DESC
    LIMIT 1)
WHERE w.last_event LIKE '%-999999999999999999';

-- How far a webhook has been told.
CREATE FUNCTION mailcrane.told_xid(w mailcrane.webhook) RETURNS xid8
LANGUAGE sql IMMUTABLE
AS $$ SELECT split_part($1.last_event, '-', 1)::xid8 $$;

CREATE FUNCTION mailcrane.told_id(w mailcrane.webhook) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT split_part($1.last_event, '-', 2)::bigint $$;

-- Events go in the order in which they are read, and the floor rises with them. A
-- webhook that has not been told of them will not be: that is noted. What webhooks were
-- told of goes with them.
CREATE OR REPLACE FUNCTION mailcrane.prune_events(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    kept_for interval := (SELECT r.keep FROM retention AS r WHERE r.what = 'event');
    horizon  xid8 := event_horizon();
    floor    record;
    missed   uuid;
    n        bigint;
    webhooks bigint := prune_webhook_messages(at_most);
BEGIN
    IF kept_for IS NULL THEN
        RETURN webhooks;
    END IF;
    SELECT o.xid, o.id INTO floor
    FROM (
        SELECT l.xid, l.id, bool_and(l.created_at < now() - kept_for) OVER (ORDER BY l.xid, l.id) AS is_old
        FROM (SELECT e.xid, e.id, e.created_at FROM event AS e WHERE e.xid < horizon ORDER BY e.xid, e.id LIMIT at_most) AS l
    ) AS o
    WHERE o.is_old
    ORDER BY o.xid DESC, o.id DESC
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN webhooks;
    END IF;
    PERFORM FROM webhook AS w WHERE (w.told_xid, w.told_id) < (floor.xid, floor.id) ORDER BY w.id FOR NO KEY UPDATE;
    FOR missed IN
        UPDATE webhook AS w
        SET last_event = floor.xid || '-' || floor.id,
            missed_at = CASE WHEN EXISTS (
                SELECT FROM event AS e
                WHERE e.tenant = w.tenant AND (e.xid, e.id) > (w.told_xid, w.told_id) AND (e.xid, e.id) <= (floor.xid, floor.id)
            ) THEN now() ELSE w.missed_at END
        WHERE (w.told_xid, w.told_id) < (floor.xid, floor.id)
        RETURNING CASE WHEN w.missed_at = now() THEN w.id END
    LOOP
        IF missed IS NOT NULL THEN
            RAISE WARNING 'events that webhook % was not told of are deleted', missed;
        END IF;
    END LOOP;
    DELETE FROM event AS e WHERE (e.xid, e.id) <= (floor.xid, floor.id);
    GET DIAGNOSTICS n = ROW_COUNT;
    UPDATE event_floor AS f SET xid = floor.xid, id = floor.id;
    RETURN n + webhooks;
END
$$;

-- Which webhooks there is something for.
CREATE FUNCTION mailcrane.webhooks_behind() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
DECLARE
    horizon xid8 := event_horizon();
BEGIN
    RETURN QUERY
    SELECT w.id
    FROM webhook AS w
    CROSS JOIN LATERAL (
        SELECT FROM event AS e
        WHERE e.tenant = w.tenant AND (e.xid, e.id) > (w.told_xid, w.told_id) AND e.xid < horizon
        LIMIT 1) AS news
    WHERE w.disabled_at IS NULL
    ORDER BY w.id;
END
$$;

-- Writes the messages of one webhook for the next events, and remembers how far it has
-- got in the same transaction.
CREATE FUNCTION mailcrane.tell_webhook(webhook_id uuid, at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    w       webhook%ROWTYPE;
    horizon xid8 := event_horizon();
    n       bigint;
    place   text;
    written delivery[];
BEGIN
    SELECT * INTO w FROM webhook AS v WHERE v.id = tell_webhook.webhook_id AND v.disabled_at IS NULL FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    WITH page AS MATERIALIZED (
        SELECT e.xid, e.id, e.type, e.invitation_id, e.message_id, e.detail, e.created_at
        FROM event AS e
        WHERE e.tenant = w.tenant AND (e.xid, e.id) > (told_xid(w), told_id(w)) AND e.xid < horizon
        ORDER BY e.xid, e.id
        LIMIT at_most
    ), wanted AS MATERIALIZED (
        SELECT p.xid || '-' || p.id AS event_id, p.type, p.invitation_id, p.message_id, i.group_id, p.detail, p.created_at
        FROM page AS p
        LEFT JOIN invitation AS i ON i.id = p.invitation_id
        WHERE w.types = '{}' OR p.type = ANY (w.types) OR split_part(p.type, '.', 1) || '.*' = ANY (w.types)
        ORDER BY p.xid, p.id
    ), new AS (
        INSERT INTO message AS m (id, tenant, channel, recipient, template, data, priority, idempotency_key, job_id)
        SELECT uuid_v7(), w.tenant, 'webhook', w.id::text, 'webhook-event',
               jsonb_strip_nulls(jsonb_build_object(
                   'id', e.event_id, 'type', e.type, 'invitation_id', e.invitation_id, 'message_id', e.message_id,
                   'group_id', e.group_id, 'detail', e.detail, 'created_at', e.created_at)),
               3, format('webhook %s %s %s', w.id, e.event_id, w.replays), nextval('river_job_id_seq')
        FROM wanted AS e
        ON CONFLICT DO NOTHING
        RETURNING m.id, m.job_id, m.priority, m.send_after
    )
    SELECT (SELECT count(*) FROM page),
           (SELECT p.xid || '-' || p.id FROM page AS p ORDER BY p.xid DESC, p.id DESC LIMIT 1),
           ARRAY(SELECT ROW (m.job_id, m.id, m.priority, m.send_after)::delivery FROM new AS m ORDER BY m.id)
    INTO n, place, written;
    IF n > 0 THEN
        PERFORM write_jobs(written);
        UPDATE webhook AS v SET last_event = place WHERE v.id = w.id;
    END IF;
    RETURN n;
END
$$;

-- For daemons that know no other. What goes wrong with one webhook is none of the
-- others' business.
CREATE OR REPLACE FUNCTION mailcrane.send_events(at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    behind uuid;
    n      bigint := 0;
BEGIN
    FOR behind IN SELECT b.id FROM webhooks_behind() AS b (id) LOOP
        BEGIN
            n := n + tell_webhook(behind, at_most);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'webhook % could not be told: %', behind, SQLERRM;
        END;
    END LOOP;
    RETURN n;
END
$$;

-- What waits for a webhook that is disabled is held, when its turn comes, and queued
-- again when the webhook is enabled.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX message_webhook ON mailcrane.message (finished_at) WHERE channel = 'webhook';

CREATE FUNCTION mailcrane.webhook_of(recipient text) RETURNS uuid
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN $1 ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN $1::uuid END
$$;

CREATE OR REPLACE FUNCTION mailcrane.enable_webhook(webhook_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    waiting uuid[];
BEGIN
    PERFORM require_webhook(webhook_id);
    UPDATE webhook AS w SET disabled_at = NULL, disabled_because = NULL WHERE w.id = webhook_id AND w.disabled_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    waiting := ARRAY(
        SELECT m.id
        FROM message AS m
        WHERE m.channel = 'webhook' AND m.finished_at IS NULL AND m.recipient = webhook_id::text
        ORDER BY m.id
        FOR NO KEY UPDATE);
    -- They are tried for as long as new ones, from now on.
    UPDATE message AS m SET retried_at = clock_timestamp() WHERE m.id = ANY (waiting);
    PERFORM requeue(ARRAY(SELECT m.id FROM message AS m WHERE m.id = ANY (waiting) AND m.held_by = 'webhook' ORDER BY m.id));
END
$$;

-- A secret is good for a day after the rotation that replaces it, and there are two at
-- a time: the next rotation waits for that day.
CREATE OR REPLACE FUNCTION mailcrane.rotate_webhook(webhook_id uuid) RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    n     integer;
    again timestamptz;
BEGIN
    PERFORM require_webhook(webhook_id);
    SELECT w.rotated_at + interval '1 day' INTO again FROM webhook AS w WHERE w.id = webhook_id;
    IF again > clock_timestamp() THEN
        RAISE EXCEPTION 'the secret before the present one is good for a day after the rotation: wait % seconds',
            ceil(extract(epoch FROM again - clock_timestamp()))
            USING ERRCODE = '53400', HINT = 'Nothing was written. Whoever still uses that secret would be refused.';
    END IF;
    UPDATE webhook AS w SET generation = w.generation + 1, rotated_at = clock_timestamp() WHERE w.id = webhook_id RETURNING w.generation INTO n;
    RETURN n;
END
$$;

-- Back only: what is ahead has not been told yet.
CREATE OR REPLACE FUNCTION mailcrane.replay_webhook(webhook_id uuid, after text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    place text := coalesce(nullif(after, ''), (SELECT f.xid || '-' || f.id FROM event_floor AS f));
BEGIN
    PERFORM require_webhook(webhook_id);
    PERFORM FROM events(after, 1);  -- fails if it is not the id of an event
    IF EXISTS (
        SELECT FROM webhook AS w
        WHERE w.id = webhook_id AND (split_part(place, '-', 1)::xid8, split_part(place, '-', 2)::bigint) > (w.told_xid, w.told_id))
    THEN
        PERFORM refuse('replay', '[{"item": 0, "field": "after", "problem": "is an event that the webhook has not been told of yet: give one before it"}]', 1);
    END IF;
    UPDATE webhook AS w SET last_event = place, replays = w.replays + 1 WHERE w.id = webhook_id;
END
$$;

-- Messages to webhooks are many, and what they say is in the events.
ALTER TABLE mailcrane.retention DROP CONSTRAINT retention_what_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE mailcrane.retention ADD CONSTRAINT retention_what_check CHECK (what IN ('data', 'attempt', 'message', 'bounce', 'event', 'webhook'));
INSERT INTO mailcrane.retention (what, keep) VALUES ('webhook', '30 days');

CREATE FUNCTION mailcrane.prune_webhook_messages(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    kept_for interval := (SELECT r.keep FROM retention AS r WHERE r.what = 'webhook');
    over     uuid[] := ARRAY(
        SELECT m.id
        FROM message AS m
        WHERE m.channel = 'webhook' AND m.finished_at < now() - kept_for
        ORDER BY m.finished_at
        LIMIT at_most
        FOR UPDATE SKIP LOCKED);
    n        bigint;
BEGIN
    DELETE FROM attempt AS a WHERE a.message_id = ANY (over);
    DELETE FROM message AS m WHERE m.id = ANY (over);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

-- Transactions of all databases have numbers of the same row, and the horizon waits
-- for the oldest, wherever that is.
CREATE VIEW mailcrane.oldest_writer AS
    SELECT 'transaction' AS kind, a.pid::text AS name, concat_ws(' ', a.datname, a.usename, a.application_name, a.state) AS detail, a.xact_start AS since
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.backend_xid = pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid
    UNION ALL
    SELECT 'prepared transaction', p.gid, concat_ws(' ', p.database, p.owner), p.prepared
    FROM pg_catalog.pg_prepared_xacts AS p
    WHERE p.transaction = pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid;

COMMENT ON TABLE mailcrane.event_era IS 'One row is a time since which this copy of the database is the one that sends. Keys of events are ahead of the numbers of transactions by ahead, from first on.';
COMMENT ON COLUMN mailcrane.event_era.last_xid IS 'With last_id, the last event of the era before. What comes between it and first, this database has not had.';
COMMENT ON COLUMN mailcrane.event.xid IS 'The transaction that caused it, by its number and the era: see mailcrane.event_era. With id, the order in which events are read.';
COMMENT ON COLUMN mailcrane.webhook.missed_at IS 'When events were deleted last that it had not been told of: see mailcrane.retention. NULL: never.';
COMMENT ON VIEW mailcrane.oldest_writer IS 'The oldest transaction that has written, in any database of the server, and is not over. Events of later ones wait for it.';
COMMENT ON FUNCTION mailcrane.event_key(xid8) IS 'What the number of a transaction is in the order of events.';
COMMENT ON FUNCTION mailcrane.event_horizon() IS 'Below this, no event is added any more.';
COMMENT ON FUNCTION mailcrane.begin_era() IS 'From now on the keys of events are above all that this database can have had.';
COMMENT ON FUNCTION mailcrane.last_event() IS 'The id of the last event that can be read now.';
COMMENT ON FUNCTION mailcrane.told_xid(mailcrane.webhook) IS 'The first part of webhook.last_event.';
COMMENT ON FUNCTION mailcrane.told_id(mailcrane.webhook) IS 'The second part of webhook.last_event.';
COMMENT ON FUNCTION mailcrane.webhooks_behind() IS 'The webhooks that there are events for.';
COMMENT ON FUNCTION mailcrane.tell_webhook(uuid, integer) IS 'Writes messages for the next events that a webhook waits for. Gives the number of events. The daemon calls it.';
COMMENT ON COLUMN mailcrane.message.held_by IS 'Why it is held: unknown (outcomes), poison (daemons died over it), hold (of its tenant or template), relay (none took it in time), webhook (is disabled).';
COMMENT ON FUNCTION mailcrane.webhook_of(text) IS 'The webhook that a message of the channel webhook is for, or NULL.';
COMMENT ON FUNCTION mailcrane.disable_webhook(uuid, text) IS 'Tells an endpoint nothing more until it is enabled. What waits for it is held.';
COMMENT ON FUNCTION mailcrane.enable_webhook(uuid) IS 'Tells an endpoint again what happens, from where it was disabled, and what was held for it.';
COMMENT ON FUNCTION mailcrane.rotate_webhook(uuid) IS 'Gives an endpoint another secret. For a day both are good, and it gets no third. Gives the generation. SQLSTATE 53400: the last time is less than a day ago.';
COMMENT ON FUNCTION mailcrane.replay_webhook(uuid, text) IS 'Tells an endpoint again what has happened since an event, or from the first. A receiver knows copies by their webhook-id. SQLSTATE 22023: not the id of an event, or of one that it has not been told of yet.';
COMMENT ON TABLE mailcrane.retention IS 'One row says how long something is kept: data (values and links of what is over), attempt (what relays said), message (with invitations and attempts), bounce, event, webhook (messages to webhooks, with attempts). Without a row it is kept for ever.';
COMMENT ON FUNCTION mailcrane.prune_events(integer) IS 'Deletes so many events, and so many messages to webhooks, that mailcrane.retention does not keep.';
COMMENT ON FUNCTION mailcrane.prune_webhook_messages(integer) IS 'Deletes so many messages to webhooks that mailcrane.retention does not keep.';
COMMENT ON FUNCTION mailcrane.send_events(integer) IS 'mailcrane.tell_webhook() for all webhooks.';

INSERT INTO mailcrane.migration (version) VALUES (46);
