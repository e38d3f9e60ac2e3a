-- River, version 7 of its schema: notification outbox sqlite jsonb and sql cleanup.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- `go test ./migrations -run River -update`: do not edit it.

-- ---- begin of River's text ----
--
-- Notification outbox.
--

CREATE TABLE "mailcrane".river_notification (
    id bigserial PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    payload text NOT NULL,
    topic text NOT NULL,
    CONSTRAINT topic_length CHECK (length(topic) > 0 AND length(topic) < 128)
);

CREATE INDEX river_notification_created_at_idx ON "mailcrane".river_notification (created_at);
CREATE INDEX river_notification_topic_id_idx ON "mailcrane".river_notification (topic, id);

--
-- SQLite JSONB conversion.
--
-- No-op. Postgres already stores River JSON columns as jsonb.

--
-- SQL cleanup.
--

--
-- Drop unused tables `river_client` and `river_client_queue`.
--

DROP TABLE "mailcrane".river_client_queue;
DROP TABLE "mailcrane".river_client;

--
-- Adds `DEFAULT 25` to `river_job.max_attempts`.
--

ALTER TABLE "mailcrane".river_job
    ALTER COLUMN max_attempts SET DEFAULT 25;

--
-- Changes `river_queue.updated_at` to have a default of `CURRENT_TIMESTAMP`.
--

ALTER TABLE "mailcrane".river_queue
    ALTER COLUMN updated_at SET DEFAULT CURRENT_TIMESTAMP;
-- ---- end of River's text ----

INSERT INTO mailcrane.river_migration (line, version) VALUES ('main', 7);
INSERT INTO mailcrane.migration (version) VALUES (7);
