-- River, version 2 of its schema: initial schema.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 2;
DELETE FROM mailcrane.river_migration WHERE version = 2;

-- ---- begin of River's text ----
DROP TABLE "mailcrane".river_job;
DROP FUNCTION "mailcrane".river_job_notify;
DROP TYPE "mailcrane".river_job_state;

DROP TABLE "mailcrane".river_leader;
-- ---- end of River's text ----
