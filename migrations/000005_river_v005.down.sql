-- River, version 5 of its schema: migration unique client.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 5;
DELETE FROM mailcrane.river_migration WHERE version = 5;

-- ---- begin of River's text ----
--
-- Revert to migration table based only on `(version)`.
--
-- If any non-main migrations are present, 005 is considered irreversible.
--

DO
$body$
BEGIN
    -- Tolerate users who may be using their own migration system rather than
    -- River's. If they are, they will have skipped version 001 containing
    -- `CREATE TABLE river_migration`, so this table won't exist.
    IF (SELECT to_regclass('"mailcrane".river_migration') IS NOT NULL) THEN
        IF EXISTS (
            SELECT *
            FROM "mailcrane".river_migration
            WHERE line <> 'main'
        ) THEN
            RAISE EXCEPTION 'Found non-main migration lines in the database; version 005 migration is irreversible because it would result in loss of migration information.';
        END IF;

        ALTER TABLE "mailcrane".river_migration
            RENAME TO river_migration_old;

        CREATE TABLE "mailcrane".river_migration(
            id bigserial PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT NOW(),
            version bigint NOT NULL,
            CONSTRAINT version CHECK (version >= 1)
        );

        CREATE UNIQUE INDEX ON "mailcrane".river_migration USING btree(version);

        INSERT INTO "mailcrane".river_migration
            (created_at, version)
        SELECT created_at, version
        FROM "mailcrane".river_migration_old;

        DROP TABLE "mailcrane".river_migration_old;
    END IF;
END;
$body$
LANGUAGE 'plpgsql'; 

--
-- Drop `river_job.unique_key`.
--

ALTER TABLE "mailcrane".river_job
    DROP COLUMN unique_key;

--
-- Drop `river_client` and derivative.
--

DROP TABLE "mailcrane".river_client_queue;
DROP TABLE "mailcrane".river_client;
-- ---- end of River's text ----
