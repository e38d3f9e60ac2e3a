-- When a failed message may be tried again, and for how long, without a change to
-- what the recipient's server knows it by.

-- Its Date comes of created_at and send_after, and is the same on every attempt.
ALTER TABLE mailcrane.message ADD COLUMN retried_at timestamptz;

CREATE OR REPLACE FUNCTION mailcrane.retry_message(message_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    found   message%ROWTYPE;
    current integer;
    problem text;
BEGIN
    -- The invitation first, as everybody does: whoever mails it again has its lock.
    SELECT i.generation INTO current
    FROM invitation AS i
    WHERE i.id = (SELECT m.invitation_id FROM message AS m WHERE m.id = retry_message.message_id)
    FOR SHARE;
    SELECT m.* INTO found FROM message AS m WHERE m.id = retry_message.message_id FOR NO KEY UPDATE;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'there is no message %', retry_message.message_id USING ERRCODE = 'P0002';
    END IF;
    problem := CASE
        WHEN found.status <> 'failed' THEN format('It is %s.', found.status)
        WHEN found.generation < current THEN 'A newer mail has replaced it, and its link is invalid.'
        WHEN found.recipient LIKE '%@erased.invalid' THEN 'Its recipient was erased.'
        WHEN EXISTS (SELECT FROM retention AS r WHERE r.what = 'data' AND found.finished_at < now() - r.keep)
            THEN 'Its data are not kept any more.'
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'message % cannot be retried', retry_message.message_id
            USING ERRCODE = '55000', DETAIL = problem, HINT = 'Nothing was written. Send a new message, if that is meant.';
    END IF;
    -- Its time to be tried begins anew, and what is unknown about it is forgiven.
    UPDATE message AS m
    SET status = 'queued', reason = NULL, finished_at = NULL, retried_at = clock_timestamp(), job_id = nextval('river_job_id_seq'),
        forgiven = (SELECT count(*) FROM attempt AS a WHERE a.message_id = m.id AND a.was_unknown)
    WHERE m.id = retry_message.message_id;
    PERFORM queue_jobs(ARRAY[retry_message.message_id]);
END
$$;

COMMENT ON COLUMN mailcrane.message.retried_at IS 'When somebody has queued it again after it had failed. It is tried for as long as a new one, from then on.';
COMMENT ON FUNCTION mailcrane.retry_message(uuid) IS 'Queues a message again that has failed, for as long as a new one. Whether it may still be sent is looked at as always. SQLSTATE P0002: no such message, 55000: it has not failed, a newer mail has replaced it, or it was erased; the detail says which.';

INSERT INTO mailcrane.migration (version) VALUES (38);
