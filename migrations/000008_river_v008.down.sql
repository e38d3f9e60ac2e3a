-- River, version 8 of its schema: job id autoincrement.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 8;
DELETE FROM mailcrane.river_migration WHERE version = 8;

-- ---- begin of River's text ----
-- No-op. Postgres sequences already prevent automatically generated job IDs
-- from being reused.
SELECT 1;
-- ---- end of River's text ----
