-- Identifiers that sort by time of creation (RFC 9562, version 7), made in the
-- database so that writing a row and knowing its id is one round trip.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'Mailcrane needs a database with encoding UTF8, this one has %', pg_catalog.current_setting('server_encoding')
            USING HINT = 'Create the database with CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
END
$$;

-- The random 122 bits come from a version 4 UUID; the first 48 bits become the
-- time in milliseconds and two bits turn version 4 (0100) into version 7 (0111).
CREATE FUNCTION mailcrane.uuid_v7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT pg_catalog.encode(
        pg_catalog.set_bit(pg_catalog.set_bit(
            pg_catalog.overlay(
                pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
                pg_catalog.substring(pg_catalog.int8send(
                    (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000)::bigint), 3),
                1, 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

COMMENT ON FUNCTION mailcrane.uuid_v7() IS 'A new UUID of version 7: sorts by time of creation.';

INSERT INTO mailcrane.migration (version) VALUES (9);
