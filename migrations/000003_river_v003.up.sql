-- River, version 3 of its schema: river job tags non null.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

-- ---- begin of River's text ----
ALTER TABLE "mailcrane".river_job ALTER COLUMN tags SET DEFAULT '{}';
UPDATE "mailcrane".river_job SET tags = '{}' WHERE tags IS NULL;
ALTER TABLE "mailcrane".river_job ALTER COLUMN tags SET NOT NULL;
-- ---- end of River's text ----

INSERT INTO mailcrane.river_migration (version) VALUES (3);
INSERT INTO mailcrane.migration (version) VALUES (3);
