DROP FUNCTION mailcrane.send_events(integer);
DROP FUNCTION mailcrane.replay_webhook(uuid, text);
DROP FUNCTION mailcrane.enable_webhook(uuid);
DROP FUNCTION mailcrane.disable_webhook(uuid, text);
DROP FUNCTION mailcrane.rotate_webhook(uuid);
DROP FUNCTION mailcrane.delete_webhook(uuid);
DROP FUNCTION mailcrane.require_webhook(uuid);
DROP FUNCTION mailcrane.create_webhook(text, text[], text);
DROP FUNCTION mailcrane.last_event();

-- Nobody is there any more to send them to.
UPDATE mailcrane.message SET status = 'cancelled', finished_at = now() WHERE channel = 'webhook' AND finished_at IS NULL;
DELETE FROM mailcrane.policy WHERE template = 'webhook-event';

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
    WHERE o.status <> n.status;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.record_message() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id, message_id, detail)
    VALUES (new.tenant, 'message.' || new.status, new.invitation_id, new.id, new.reason);
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
    WHERE m.id = new.message_id;
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
    END
$$;

COMMENT ON FUNCTION mailcrane.tenant_of(text, uuid) IS 'The tenant of one of the invitations, messages or keys, or NULL.';

DROP TABLE mailcrane.webhook;

DELETE FROM mailcrane.migration WHERE version = 36;
