-- Which copy of this database may send. A restored backup or a staging copy has
-- the same queue as the original; it must not mail the same people.

CREATE TABLE mailcrane.installation (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    name              text,
    system_identifier text NOT NULL,
    database_id       oid NOT NULL,
    timeline          text NOT NULL,
    adopted_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

ALTER TABLE mailcrane.instance
    ADD COLUMN beats bigint NOT NULL DEFAULT 1;

-- Where we are: initdb made the first, CREATE DATABASE the second, and the third
-- grows whenever a standby is promoted or a backup restored.
CREATE FUNCTION mailcrane.whereabouts(OUT system_identifier text, OUT database_id oid, OUT timeline text)
LANGUAGE sql STABLE
AS $$
    SELECT (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c),
           (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()),
           left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8)
$$;

-- The first daemon of all takes possession. Later ones must find the place as it
-- was left. Only who was there all the time can tell a standby's promotion, which
-- is fine, from a restored backup, which is not.
CREATE FUNCTION mailcrane.guard(name text, was_there boolean) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    here  record;
    known installation%ROWTYPE;
BEGIN
    SELECT * INTO here FROM whereabouts();
    SELECT * INTO known FROM installation;
    IF NOT FOUND THEN
        INSERT INTO installation (name, system_identifier, database_id, timeline)
        VALUES (guard.name, here.system_identifier, here.database_id, here.timeline)
        ON CONFLICT DO NOTHING;
        SELECT * INTO STRICT known FROM installation;
    END IF;
    IF known.name IS DISTINCT FROM guard.name THEN
        RETURN format('the database belongs to the installation %s, and this daemon to %s',
            coalesce(quote_literal(known.name), 'without a name'), coalesce(quote_literal(guard.name), 'the one without a name'));
    END IF;
    IF known.system_identifier <> here.system_identifier OR known.database_id <> here.database_id THEN
        RETURN 'the database is a copy, or was restored from a dump';
    END IF;
    IF known.timeline <> here.timeline THEN
        IF NOT was_there THEN
            RETURN 'the database was restored from a backup, or a standby was promoted while no daemon ran';
        END IF;
        UPDATE installation SET timeline = here.timeline;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION mailcrane.adopt(name text DEFAULT NULL) RETURNS void
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
$$;

COMMENT ON TABLE mailcrane.installation IS 'The one copy of this database that may send. Elsewhere daemons wait for mailcrane.adopt().';
COMMENT ON COLUMN mailcrane.installation.name IS 'MAILCRANE_INSTALLATION of its daemons, NULL if they have none.';
COMMENT ON COLUMN mailcrane.instance.beats IS 'Heartbeats so far. A daemon that finds fewer than it was told of knows that committed data were lost.';
COMMENT ON FUNCTION mailcrane.whereabouts() IS 'What tells this database from a copy of it.';
COMMENT ON FUNCTION mailcrane.guard(text, boolean) IS 'Why a daemon of the named installation must not send from this database, or NULL.';
COMMENT ON FUNCTION mailcrane.adopt(text) IS 'Makes this copy of the database the one that sends, for daemons with the given MAILCRANE_INSTALLATION.';

INSERT INTO mailcrane.migration (version) VALUES (22);
