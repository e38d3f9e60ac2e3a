-- River, version 1 of its schema: create river migration.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

CREATE SCHEMA IF NOT EXISTS mailcrane;

CREATE TABLE mailcrane.migration (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON SCHEMA mailcrane IS 'The transactional outbox: everything of Mailcrane, and the River queue that it uses. DROP SCHEMA mailcrane CASCADE uninstalls it.';
COMMENT ON TABLE mailcrane.migration IS 'One row is a migration file that was applied. The daemon starts only on the versions that it knows, all of them.';

-- ---- begin of River's text ----
CREATE TABLE "mailcrane".river_migration(
  id bigserial PRIMARY KEY,
  created_at timestamptz NOT NULL DEFAULT NOW(),
  version bigint NOT NULL,
  CONSTRAINT version CHECK (version >= 1)
);

CREATE UNIQUE INDEX ON "mailcrane".river_migration USING btree(version);
-- ---- end of River's text ----

INSERT INTO mailcrane.river_migration (version) VALUES (1);
INSERT INTO mailcrane.migration (version) VALUES (1);
