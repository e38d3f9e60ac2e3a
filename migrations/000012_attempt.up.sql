-- The ledger of what was tried. A row is written open just before the point of
-- no return and closed with what is known afterwards, so a crash in between
-- leaves the truth behind: nobody knows.

CREATE TABLE mailcrane.attempt (
    message_id    uuid NOT NULL REFERENCES mailcrane.message (id) ON DELETE CASCADE,
    number        integer NOT NULL CHECK (number > 0),
    job_id        bigint NOT NULL,
    instance_id   uuid NOT NULL,
    outcome       text CHECK (outcome IN ('accepted', 'deferred', 'rejected', 'unknown')),
    was_unknown   boolean NOT NULL DEFAULT false,
    relay         text,
    code          integer,
    enhanced_code text,
    reply         text,
    began_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    PRIMARY KEY (message_id, number),
    CHECK ((outcome IS NULL) = (finished_at IS NULL)),
    CHECK (outcome IS DISTINCT FROM 'unknown' OR was_unknown)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000
);

-- Two workers can never both stand before the final dot of one message.
CREATE UNIQUE INDEX attempt_one_open
    ON mailcrane.attempt (message_id)
    WHERE outcome IS NULL;

COMMENT ON TABLE mailcrane.attempt IS 'One row is one try to hand a message to the next hop. At most one is open per message.';
COMMENT ON COLUMN mailcrane.attempt.number IS 'From 1, without gaps. Ours, because the queue gives its own attempt numbers back.';
COMMENT ON COLUMN mailcrane.attempt.instance_id IS 'The daemon that made it, a row of mailcrane.instance while that is kept.';
COMMENT ON COLUMN mailcrane.attempt.outcome IS 'NULL: open, at or past the point of no return · accepted · deferred: not handed over, tried again · rejected: not handed over, for good · unknown: handed over or not, nobody can say';
COMMENT ON COLUMN mailcrane.attempt.was_unknown IS 'Was ever on record as unknown, even if the answer came in later. Every extra copy of a mail is preceded by one.';
COMMENT ON COLUMN mailcrane.attempt.relay IS 'host:port of the next hop. NULL: none was reached.';
COMMENT ON COLUMN mailcrane.attempt.reply IS 'What the next hop said, cleaned and with addresses masked, or why it was not reached.';

INSERT INTO mailcrane.migration (version) VALUES (12);
