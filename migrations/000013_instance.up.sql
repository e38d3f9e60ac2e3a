-- Who is alive. A heartbeat by the database's clock is the only proof of life:
-- sessions and advisory locks outlive a killed or stopped daemon.

CREATE TABLE mailcrane.instance (
    id           uuid PRIMARY KEY,
    name         text NOT NULL,
    version      text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease        interval NOT NULL CHECK (lease > interval '0'),
    stopped_at   timestamptz
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500
);

CREATE FUNCTION mailcrane.instance_is_live(mailcrane.instance) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT $1.stopped_at IS NULL AND $1.heartbeat_at > pg_catalog.clock_timestamp() - $1.lease
$$;

COMMENT ON TABLE mailcrane.instance IS 'One row is one running daemon, or one that ran. It is live while its heartbeat is younger than its lease.';
COMMENT ON COLUMN mailcrane.instance.name IS 'host:pid, for people.';
COMMENT ON COLUMN mailcrane.instance.stopped_at IS 'When it said good-bye. NULL after a crash.';
COMMENT ON FUNCTION mailcrane.instance_is_live(mailcrane.instance) IS 'Whether a daemon still holds its lease, by the database''s clock.';

INSERT INTO mailcrane.migration (version) VALUES (13);
