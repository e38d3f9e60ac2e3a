-- River, version 4 of its schema: pending and more.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

DELETE FROM mailcrane.migration WHERE version = 4;
DELETE FROM mailcrane.river_migration WHERE version = 4;

-- ---- begin of River's text ----
ALTER TABLE "mailcrane".river_job ALTER COLUMN args DROP NOT NULL;

ALTER TABLE "mailcrane".river_job ALTER COLUMN metadata DROP NOT NULL;
ALTER TABLE "mailcrane".river_job ALTER COLUMN metadata DROP DEFAULT;

-- It is not possible to safely remove 'pending' from the river_job_state enum,
-- so leave it in place.

ALTER TABLE "mailcrane".river_job DROP CONSTRAINT finalized_or_finalized_at_null;
ALTER TABLE "mailcrane".river_job ADD CONSTRAINT finalized_or_finalized_at_null CHECK (
  (state IN ('cancelled', 'completed', 'discarded') AND finalized_at IS NOT NULL) OR finalized_at IS NULL
);

CREATE OR REPLACE FUNCTION "mailcrane".river_job_notify()
  RETURNS TRIGGER
  AS $$
DECLARE
  payload json;
BEGIN
  IF NEW.state = 'available' THEN
    -- Notify will coalesce duplicate notifications within a transaction, so
    -- keep these payloads generalized:
    payload = json_build_object('queue', NEW.queue);
    PERFORM
      pg_notify('river_insert', payload::text);
  END IF;
  RETURN NULL;
END;
$$
LANGUAGE plpgsql;

CREATE TRIGGER river_notify
  AFTER INSERT ON "mailcrane".river_job
  FOR EACH ROW
  EXECUTE PROCEDURE "mailcrane".river_job_notify();

DROP TABLE "mailcrane".river_queue;

ALTER TABLE "mailcrane".river_leader
    ALTER COLUMN name DROP DEFAULT,
    DROP CONSTRAINT name_length,
    ADD CONSTRAINT name_length CHECK (char_length(name) > 0 AND char_length(name) < 128);
-- ---- end of River's text ----
