-- River, version 6 of its schema: bulk unique.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 6;
DELETE FROM mailcrane.river_migration WHERE version = 6;

-- ---- begin of River's text ----

--
-- Drop `river_job.unique_states` and its index.
--

DROP INDEX "mailcrane".river_job_unique_idx;

ALTER TABLE "mailcrane".river_job
    DROP COLUMN unique_states;

CREATE UNIQUE INDEX IF NOT EXISTS river_job_kind_unique_key_idx ON "mailcrane".river_job (kind, unique_key) WHERE unique_key IS NOT NULL;

--
-- Drop `river_job_state_in_bitmask` function.
--
DROP FUNCTION "mailcrane".river_job_state_in_bitmask;
-- ---- end of River's text ----
