-- River, version 3 of its schema: river job tags non null.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 3;
DELETE FROM mailcrane.river_migration WHERE version = 3;

-- ---- begin of River's text ----
ALTER TABLE "mailcrane".river_job
    ALTER COLUMN tags DROP NOT NULL,
    ALTER COLUMN tags DROP DEFAULT;
-- ---- end of River's text ----
