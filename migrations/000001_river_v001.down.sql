-- River, version 1 of its schema: create river migration.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 1;
DELETE FROM mailcrane.river_migration WHERE version = 1;

-- ---- begin of River's text ----
DROP TABLE "mailcrane".river_migration;
-- ---- end of River's text ----

DROP TABLE mailcrane.migration;
DROP SCHEMA mailcrane;
