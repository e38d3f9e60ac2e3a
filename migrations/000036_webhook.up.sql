-- Events on their way to programs elsewhere: each becomes a message of the channel
-- "webhook" to an endpoint, and goes through the same outbox as mail does.

CREATE TABLE mailcrane.webhook (
    id               uuid PRIMARY KEY,
    tenant           text NOT NULL,
    url              text NOT NULL,
    types            text[] NOT NULL DEFAULT '{}',
    last_event       text NOT NULL,
    replays          integer NOT NULL DEFAULT 0,
    generation       integer NOT NULL DEFAULT 1,
    rotated_at       timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    disabled_at      timestamptz,
    disabled_because text,
    CHECK ((disabled_at IS NULL) = (disabled_because IS NULL))
);

-- A day is enough; a receiver tells copies by their id, so what is unknown is repeated.
INSERT INTO mailcrane.policy (template, on_unknown, max_unknown, give_up_after) VALUES ('webhook-event', 'repeat', 100, '24 hours');

-- The place behind everything that is there now.
CREATE FUNCTION mailcrane.last_event() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1) || '-999999999999999999'
$$;

CREATE FUNCTION mailcrane.create_webhook(url text, types text[] DEFAULT '{}', tenant text DEFAULT 'default') RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    problems jsonb;
    made     uuid := uuid_v7();
BEGIN
    SELECT jsonb_agg(jsonb_build_object('item', 0, 'field', v.field, 'problem', v.problem))
    INTO problems
    FROM (VALUES
        ('url', CASE WHEN create_webhook.url IS NULL THEN 'is missing' ELSE link_problem(create_webhook.url) END),
        ('types', CASE WHEN cardinality(create_webhook.types) > 50 OR array_position(create_webhook.types, NULL) IS NOT NULL
                         OR EXISTS (SELECT FROM unnest(create_webhook.types) AS u (type) WHERE u.type !~ '^(invitation|message)\.([a-z]{1,20}|\*)$')
                       THEN 'is not a list of types such as invitation.accepted or message.*' END),
        ('tenant', key_problem(create_webhook.tenant))
    ) AS v (field, problem)
    WHERE v.problem IS NOT NULL;
    IF problems IS NULL AND (SELECT count(*) FROM webhook AS w WHERE w.tenant = create_webhook.tenant) >= 100 THEN
        problems := '[{"item": 0, "field": "url", "problem": "is one too many: a tenant can have 100"}]';
    END IF;
    IF problems IS NOT NULL THEN
        PERFORM refuse('webhook', problems, 1);
    END IF;
    INSERT INTO webhook (id, tenant, url, types, last_event)
    VALUES (made, create_webhook.tenant, create_webhook.url, coalesce(create_webhook.types, '{}'), last_event());
    RETURN made;
END
$$;

-- Locks a webhook, or fails.
CREATE FUNCTION mailcrane.require_webhook(webhook_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM FROM webhook AS w WHERE w.id = webhook_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no webhook %', webhook_id USING ERRCODE = 'P0002';
    END IF;
END
$$;

CREATE FUNCTION mailcrane.delete_webhook(webhook_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE m.channel = 'webhook' AND m.recipient = webhook_id::text AND m.finished_at IS NULL),
        'the webhook was deleted');
    DELETE FROM webhook AS w WHERE w.id = webhook_id;
END
$$;

CREATE FUNCTION mailcrane.rotate_webhook(webhook_id uuid) RETURNS integer
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

CREATE FUNCTION mailcrane.disable_webhook(webhook_id uuid, because text DEFAULT 'disabled by an operator') RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    UPDATE webhook AS w SET disabled_at = clock_timestamp(), disabled_because = because WHERE w.id = webhook_id AND w.disabled_at IS NULL;
END
$$;

CREATE FUNCTION mailcrane.enable_webhook(webhook_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    UPDATE webhook AS w SET disabled_at = NULL, disabled_because = NULL WHERE w.id = webhook_id;
END
$$;

CREATE FUNCTION mailcrane.replay_webhook(webhook_id uuid, after text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_webhook(webhook_id);
    PERFORM FROM events(after, 1);  -- fails if it is not the id of an event
    UPDATE webhook AS w SET last_event = coalesce(nullif(after, ''), '0-0'), replays = w.replays + 1 WHERE w.id = webhook_id;
END
$$;

-- Writes a message for each event that a webhook waits for, and remembers how far it
-- has got in the same transaction.
CREATE FUNCTION mailcrane.send_events(at_most integer DEFAULT 1000) RETURNS bigint
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

-- What happens to messages to webhooks is not told to webhooks.
CREATE OR REPLACE FUNCTION mailcrane.record_messages() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
SET enable_hashjoin = 'on'
SET enable_nestloop = 'off'
SET enable_mergejoin = 'off'
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id, message_id, detail)
    SELECT n.tenant, 'message.' || n.status, n.invitation_id, n.id, n.reason
    FROM new_rows AS n
    JOIN old_rows AS o ON o.id = n.id
    WHERE o.status <> n.status AND n.channel <> 'webhook';
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.record_message() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    IF new.channel <> 'webhook' THEN
        INSERT INTO event (tenant, type, invitation_id, message_id, detail)
        VALUES (new.tenant, 'message.' || new.status, new.invitation_id, new.id, new.reason);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.record_attempt() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id, message_id, detail)
    SELECT m.tenant, 'message.' || new.outcome, m.invitation_id, m.id, new.reply
    FROM message AS m
    WHERE m.id = new.message_id AND m.channel <> 'webhook';
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.tenant_of(kind text, id uuid) RETURNS text
LANGUAGE sql STABLE
SET search_path = mailcrane, pg_temp
AS $$
    SELECT CASE tenant_of.kind
        WHEN 'invitations' THEN (SELECT i.tenant FROM invitation AS i WHERE i.id = tenant_of.id)
        WHEN 'messages' THEN (SELECT m.tenant FROM message AS m WHERE m.id = tenant_of.id)
        WHEN 'keys' THEN (SELECT k.tenant FROM api_key AS k WHERE k.id = tenant_of.id)
        WHEN 'webhooks' THEN (SELECT w.tenant FROM webhook AS w WHERE w.id = tenant_of.id)
    END
$$;

COMMENT ON TABLE mailcrane.webhook IS 'One row is an endpoint elsewhere that is told what happens. Its messages have the channel webhook, and its id for a recipient. Its secret is made from MAILCRANE_SECRET, and stored nowhere.';
COMMENT ON COLUMN mailcrane.webhook.types IS 'What it is told: such as invitation.accepted or message.*; empty: everything.';
COMMENT ON COLUMN mailcrane.webhook.last_event IS 'The id of the last event that there is a message for.';
COMMENT ON COLUMN mailcrane.webhook.generation IS 'Of the secret. The one before it is good for a day after rotated_at.';
COMMENT ON FUNCTION mailcrane.last_event() IS 'A place in the order of events behind those that can be read now.';
COMMENT ON FUNCTION mailcrane.create_webhook(text, text[], text) IS 'Makes an endpoint that is told what happens from now on. Gives its id. SQLSTATE 22023: bad input.';
COMMENT ON FUNCTION mailcrane.delete_webhook(uuid) IS 'Removes an endpoint, and withdraws what waits for it. SQLSTATE P0002: no such webhook.';
COMMENT ON FUNCTION mailcrane.rotate_webhook(uuid) IS 'Gives an endpoint another secret. For a day both are good. Gives the generation.';
COMMENT ON FUNCTION mailcrane.disable_webhook(uuid, text) IS 'Tells an endpoint nothing more until it is enabled.';
COMMENT ON FUNCTION mailcrane.enable_webhook(uuid) IS 'Tells an endpoint again what happens, from where it was disabled.';
COMMENT ON FUNCTION mailcrane.replay_webhook(uuid, text) IS 'Tells an endpoint again what has happened since an event, or from the first. A receiver knows copies by their webhook-id. SQLSTATE 22023: not the id of an event.';
COMMENT ON FUNCTION mailcrane.require_webhook(uuid) IS 'Locks a webhook, or fails.';
COMMENT ON FUNCTION mailcrane.send_events(integer) IS 'Writes messages for events that webhooks wait for. Gives the number of events. The daemon calls it.';
COMMENT ON FUNCTION mailcrane.tenant_of(text, uuid) IS 'The tenant of one of the invitations, messages, keys or webhooks, or NULL.';

INSERT INTO mailcrane.migration (version) VALUES (36);
