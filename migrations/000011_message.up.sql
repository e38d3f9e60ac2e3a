-- The outbox. This row, not the job, is the truth about a message: the job only
-- brings it to a worker's attention.

CREATE TABLE mailcrane.message (
    id                uuid PRIMARY KEY DEFAULT mailcrane.uuid_v7(),
    tenant            text NOT NULL DEFAULT 'default',
    invitation_id     uuid REFERENCES mailcrane.invitation (id),
    channel           text NOT NULL DEFAULT 'email',
    recipient         text NOT NULL,
    template          text NOT NULL,
    locale            text NOT NULL DEFAULT 'en',
    data              jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    status            text NOT NULL DEFAULT 'queued'
                      CHECK (status IN ('queued', 'sent', 'failed', 'held', 'suppressed', 'cancelled')),
    reason            text,
    priority          smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 1 AND 4),
    send_after        timestamptz,
    expires_at        timestamptz,
    idempotency_key   text,
    header_message_id text,
    token_hash        bytea,
    job_id            bigint,
    created_at        timestamptz NOT NULL DEFAULT now(),
    finished_at       timestamptz,
    CHECK ((status IN ('queued', 'held')) = (finished_at IS NULL)),
    CHECK (status <> 'queued' OR job_id IS NOT NULL)
) WITH (
    -- Every row is updated about twice and soon after its insert: leave room on
    -- the page, and vacuum by rows rather than by a share of a large table.
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000
);

CREATE UNIQUE INDEX message_idempotency_key
    ON mailcrane.message (tenant, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE INDEX message_invitation
    ON mailcrane.message (invitation_id)
    WHERE invitation_id IS NOT NULL;

CREATE INDEX message_unfinished
    ON mailcrane.message (created_at)
    WHERE finished_at IS NULL;

COMMENT ON TABLE mailcrane.message IS 'The outbox: one row is one notification to one recipient over one channel.';
COMMENT ON COLUMN mailcrane.message.status IS 'queued: waiting or in progress · sent: the next hop accepted responsibility · failed: given up, see reason · held: waits for a human · suppressed: must not be written to · cancelled: withdrawn before it was sent';
COMMENT ON COLUMN mailcrane.message.reason IS 'Why it was not sent.';
COMMENT ON COLUMN mailcrane.message.priority IS '1 goes first, 4 last.';
COMMENT ON COLUMN mailcrane.message.send_after IS 'Not sent before this.';
COMMENT ON COLUMN mailcrane.message.expires_at IS 'Not sent after this.';
COMMENT ON COLUMN mailcrane.message.header_message_id IS 'The Message-ID header field without angle brackets, fixed by the first handover, the same on every attempt.';
COMMENT ON COLUMN mailcrane.message.token_hash IS 'SHA-256 of the token in the link that was mailed. The token itself is stored nowhere.';
COMMENT ON COLUMN mailcrane.message.job_id IS 'The row of mailcrane.river_job that brings this message to a worker.';

INSERT INTO mailcrane.migration (version) VALUES (11);
