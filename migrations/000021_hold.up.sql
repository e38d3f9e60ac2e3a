-- A human's hand on the brake: nothing is sent for a tenant, a template, or at
-- all, until it is taken away. And what a human can do with a message that is held.

CREATE TABLE mailcrane.hold (
    tenant     text NOT NULL DEFAULT '*',
    template   text NOT NULL DEFAULT '*',
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, template)
);

CREATE FUNCTION mailcrane.held_because(tenant text, template text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT h.reason
    FROM mailcrane.hold AS h
    WHERE h.tenant IN ($1, '*') AND h.template IN ($2, '*')
    ORDER BY h.created_at
    LIMIT 1
$$;

CREATE FUNCTION mailcrane.hold(tenant text DEFAULT '*', template text DEFAULT '*', reason text DEFAULT 'held by an operator')
RETURNS void
LANGUAGE sql VOLATILE
AS $$
    INSERT INTO mailcrane.hold AS h (tenant, template, reason)
    VALUES (coalesce($1, '*'), coalesce($2, '*'), coalesce($3, 'held by an operator'))
    ON CONFLICT ON CONSTRAINT hold_pkey DO UPDATE SET reason = excluded.reason
$$;

-- Back into the queue, under a new job: the old one may still be somewhere.
CREATE FUNCTION mailcrane.requeue(message_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    requeued uuid[];
BEGIN
    WITH changed AS (
        UPDATE message AS m
        SET status = 'queued', reason = NULL, held_by = NULL, job_id = nextval('river_job_id_seq')
        WHERE m.id = ANY (message_ids) AND m.status = 'held'
        RETURNING m.id
    )
    SELECT array_agg(id ORDER BY id) INTO requeued FROM changed;
    PERFORM queue_jobs(requeued);
    RETURN coalesce(cardinality(requeued), 0);
END
$$;

CREATE FUNCTION mailcrane.release(tenant text DEFAULT '*', template text DEFAULT '*') RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    DELETE FROM hold AS h
    WHERE h.tenant = coalesce(release.tenant, '*') AND h.template = coalesce(release.template, '*');
    RETURN requeue(ARRAY(
        SELECT m.id
        FROM message AS m
        WHERE m.finished_at IS NULL
          AND m.status = 'held'
          AND m.held_by = 'hold'
          AND held_because(m.tenant, m.template) IS NULL));
END
$$;

-- The held message, locked, or an error that says what it is instead.
CREATE FUNCTION mailcrane.require_held(message_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    found_status text;
BEGIN
    SELECT m.status INTO found_status FROM message AS m WHERE m.id = require_held.message_id FOR NO KEY UPDATE;
    IF found_status IS NULL THEN
        RAISE EXCEPTION 'there is no message %', require_held.message_id USING ERRCODE = 'P0002';
    END IF;
    IF found_status <> 'held' THEN
        RAISE EXCEPTION 'message % is not held', require_held.message_id
            USING ERRCODE = '55000', DETAIL = format('It is %s.', found_status);
    END IF;
END
$$;

CREATE FUNCTION mailcrane.release_message(message_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_held(message_id);
    UPDATE message AS m
    SET forgiven = (SELECT count(*) FROM attempt AS a WHERE a.message_id = m.id AND a.was_unknown)
    WHERE m.id = release_message.message_id;
    PERFORM requeue(ARRAY[message_id]);
END
$$;

CREATE FUNCTION mailcrane.mark_sent(message_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_held(message_id);
    UPDATE attempt AS a
    SET outcome = 'accepted', reply = 'marked sent by an operator', finished_at = clock_timestamp()
    WHERE a.message_id = mark_sent.message_id
      AND a.number = (
        SELECT max(u.number) FROM attempt AS u WHERE u.message_id = mark_sent.message_id AND u.outcome = 'unknown');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'message % cannot have been sent', message_id
            USING ERRCODE = '55000', DETAIL = 'None of its attempts has an unknown outcome.',
                  HINT = 'Release it instead: SELECT mailcrane.release_message(…).';
    END IF;
    UPDATE message AS m
    SET status = 'sent', reason = NULL, held_by = NULL, finished_at = clock_timestamp()
    WHERE m.id = mark_sent.message_id;
END
$$;

COMMENT ON TABLE mailcrane.hold IS 'One row is a tenant or template for which nothing is sent; * stands for all.';
COMMENT ON FUNCTION mailcrane.hold(text, text, text) IS 'Stops sending for a tenant, a template, or everything. What is beyond the point of no return goes on.';
COMMENT ON FUNCTION mailcrane.release(text, text) IS 'Takes a hold away and queues the messages again that no other hold keeps. Gives their number.';
COMMENT ON FUNCTION mailcrane.release_message(uuid) IS 'Sends a held message again. Its unknown outcomes so far count no longer. SQLSTATE P0002: no such message, 55000: not held.';
COMMENT ON FUNCTION mailcrane.mark_sent(uuid) IS 'Records that the last unknown attempt of a held message did get through. SQLSTATE P0002: no such message, 55000: not held, or nothing unknown.';
COMMENT ON FUNCTION mailcrane.requeue(uuid[]) IS 'Queues held messages again. Gives their number.';
COMMENT ON FUNCTION mailcrane.require_held(uuid) IS 'Locks a message, and fails unless it is held.';
COMMENT ON FUNCTION mailcrane.held_because(text, text) IS 'Why nothing is sent for a template of a tenant, or NULL.';

INSERT INTO mailcrane.migration (version) VALUES (21);
