-- River, version 8 of its schema: job id autoincrement.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

-- ---- begin of River's text ----
-- No-op. Postgres sequences already prevent automatically generated job IDs
-- from being reused.
SELECT 1;
-- ---- end of River's text ----

INSERT INTO mailcrane.river_migration (line, version) VALUES ('main', 8);
INSERT INTO mailcrane.migration (version) VALUES (8);
