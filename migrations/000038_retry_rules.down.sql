CREATE OR REPLACE FUNCTION mailcrane.retry_message(message_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    found_status text;
BEGIN
    SELECT m.status INTO found_status FROM message AS m WHERE m.id = retry_message.message_id FOR NO KEY UPDATE;
    IF found_status IS NULL THEN
        RAISE EXCEPTION 'there is no message %', retry_message.message_id USING ERRCODE = 'P0002';
    END IF;
    IF found_status <> 'failed' THEN
        RAISE EXCEPTION 'message % has not failed', retry_message.message_id
            USING ERRCODE = '55000', DETAIL = format('It is %s.', found_status);
    END IF;
    -- Its time to be tried begins anew, and what is unknown about it is forgiven.
    UPDATE message AS m
    SET status = 'queued', reason = NULL, finished_at = NULL, send_after = clock_timestamp(), job_id = nextval('river_job_id_seq'),
        forgiven = (SELECT count(*) FROM attempt AS a WHERE a.message_id = m.id AND a.was_unknown)
    WHERE m.id = retry_message.message_id;
    PERFORM queue_jobs(ARRAY[retry_message.message_id]);
END
$$;

COMMENT ON FUNCTION mailcrane.retry_message(uuid) IS 'Queues a message again that has failed, for as long as a new one. Whether it may still be sent is looked at as always. SQLSTATE P0002: no such message, 55000: it has not failed.';

ALTER TABLE mailcrane.message DROP COLUMN retried_at;

DELETE FROM mailcrane.migration WHERE version = 38;
