-- What happens to invitations and messages, for programs that want to know: rows
-- that are only ever added, in the transaction that causes them. Triggers write
-- them, so that no way of changing a status leaves its event out.

CREATE TABLE mailcrane.event (
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id            bigint NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 32),
    tenant        text NOT NULL,
    type          text NOT NULL,
    invitation_id uuid,
    message_id    uuid,
    detail        text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (xid, id)
);

CREATE FUNCTION mailcrane.record_created() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id)
    SELECT n.tenant, 'invitation.created', n.id FROM new_rows AS n;
    RETURN NULL;
END
$$;

-- Statements change many rows: what they were before is found by hashing.
CREATE FUNCTION mailcrane.record_invitations() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
SET enable_hashjoin = 'on'
SET enable_nestloop = 'off'
SET enable_mergejoin = 'off'
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id)
    SELECT n.tenant, 'invitation.' || n.status, n.id
    FROM new_rows AS n
    JOIN old_rows AS o ON o.id = n.id
    WHERE o.status <> n.status;
    RETURN NULL;
END
$$;

CREATE FUNCTION mailcrane.record_messages() RETURNS trigger
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

-- A message that was suppressed as it was written.
CREATE FUNCTION mailcrane.record_message() RETURNS trigger
LANGUAGE plpgsql
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    INSERT INTO event (tenant, type, invitation_id, message_id, detail)
    VALUES (new.tenant, 'message.' || new.status, new.invitation_id, new.id, new.reason);
    RETURN NULL;
END
$$;

-- An attempt that did not get through, and is not the last.
CREATE FUNCTION mailcrane.record_attempt() RETURNS trigger
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

CREATE TRIGGER record_created AFTER INSERT ON mailcrane.invitation
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mailcrane.record_created();
CREATE TRIGGER record_status AFTER UPDATE ON mailcrane.invitation
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mailcrane.record_invitations();
CREATE TRIGGER record_status AFTER UPDATE ON mailcrane.message
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mailcrane.record_messages();
CREATE TRIGGER record_new AFTER INSERT ON mailcrane.message
    FOR EACH ROW WHEN (new.status <> 'queued') EXECUTE FUNCTION mailcrane.record_message();
CREATE TRIGGER record_outcome AFTER UPDATE ON mailcrane.attempt
    FOR EACH ROW WHEN (old.outcome IS NULL AND new.outcome IN ('deferred', 'unknown')) EXECUTE FUNCTION mailcrane.record_attempt();
CREATE TRIGGER record_new AFTER INSERT ON mailcrane.attempt
    FOR EACH ROW WHEN (new.outcome IN ('deferred', 'unknown')) EXECUTE FUNCTION mailcrane.record_attempt();

-- Events in an order that stands: those of transactions that are over, by the
-- number of the transaction. Below the oldest that still runs, nothing is added any
-- more.
CREATE FUNCTION mailcrane.events(after text DEFAULT NULL, at_most integer DEFAULT 100, for_tenant text DEFAULT NULL)
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

-- A dump comes from a server that may have counted its transactions further than
-- this one.
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

COMMENT ON TABLE mailcrane.event IS 'One row is something that happened to an invitation or a message. Rows are only added. Read them with mailcrane.events().';
COMMENT ON COLUMN mailcrane.event.xid IS 'The transaction that caused it. With id, the order in which events are read.';
COMMENT ON COLUMN mailcrane.event.type IS 'invitation.created, .accepted, .declined, .revoked, .expired; message.sent, .failed, .held, .suppressed, .cancelled, .queued (again), .deferred, .unknown.';
COMMENT ON COLUMN mailcrane.event.detail IS 'Why, if there is more to say. Never an address.';
COMMENT ON FUNCTION mailcrane.events(text, integer, text) IS 'The events after the one with the given id, oldest first, at most 1,000. Whoever goes on with the id of the last misses none and gets none twice. An event is there once no older transaction that writes is still running on the server. SQLSTATE 22023: not the id of an event.';
COMMENT ON FUNCTION mailcrane.record_created() IS 'Writes the events of new invitations.';
COMMENT ON FUNCTION mailcrane.record_invitations() IS 'Writes the events of invitations whose status has changed.';
COMMENT ON FUNCTION mailcrane.record_messages() IS 'Writes the events of messages whose status has changed.';
COMMENT ON FUNCTION mailcrane.record_message() IS 'Writes the event of a new message that is not queued.';
COMMENT ON FUNCTION mailcrane.record_attempt() IS 'Writes the event of an attempt that was in vain.';

INSERT INTO mailcrane.migration (version) VALUES (27);
