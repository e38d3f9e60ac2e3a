-- The write path of every other message: a verification mail, a receipt.

CREATE FUNCTION mailcrane.message_problems(
    recipient text, template text, data jsonb, channel text, locale text,
    send_after text, expires_in text, priority text, idempotency_key text, tenant text
) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_agg(jsonb_build_object('item', 0, 'field', v.field, 'problem', v.problem))
    FROM (VALUES
        ('tenant', mailcrane.key_problem(tenant)),
        ('recipient', CASE WHEN channel = 'email' THEN mailcrane.address_problem(recipient)
                           ELSE mailcrane.key_problem(recipient) END),
        ('template', CASE
            WHEN template IS NULL THEN 'is missing'
            WHEN template !~ '^[a-z][a-z0-9_-]{0,63}$' THEN 'is not a template name: lower-case letters, digits, - and _, at most 64'
            WHEN template = 'invitation' THEN 'is written by mailcrane.invite only' END),
        ('data', mailcrane.data_problem(data)),
        ('channel', CASE WHEN channel !~ '^[a-z][a-z0-9_-]{0,31}$' THEN 'is not a channel name such as email' END),
        ('locale', mailcrane.locale_problem(locale)),
        ('send_after', mailcrane.send_after_problem(send_after)),
        ('expires_in', mailcrane.expires_in_problem(expires_in)),
        ('priority', mailcrane.priority_problem(priority)),
        ('idempotency_key', mailcrane.text_problem(idempotency_key, 255))
    ) AS v (field, problem)
    WHERE v.problem IS NOT NULL
$$;

CREATE FUNCTION mailcrane.enqueue(
    recipient       text,
    template        text,
    data            jsonb DEFAULT '{}',
    channel         text DEFAULT 'email',
    locale          text DEFAULT 'en',
    send_after      timestamptz DEFAULT NULL,
    expires_in      interval DEFAULT NULL,
    priority        integer DEFAULT 2,
    idempotency_key text DEFAULT NULL,
    tenant          text DEFAULT 'default'
)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given    message%ROWTYPE;
    problems jsonb;
    written  message%ROWTYPE;
BEGIN
    given.tenant := coalesce(enqueue.tenant, 'default');
    given.channel := coalesce(enqueue.channel, 'email');
    given.recipient := CASE given.channel WHEN 'email' THEN normalize_address(enqueue.recipient) ELSE btrim(enqueue.recipient) END;
    given.locale := replace(coalesce(enqueue.locale, 'en'), '_', '-');
    given.data := coalesce(nullif(enqueue.data, 'null'), '{}');
    given.idempotency_key := nullif(enqueue.idempotency_key, '');

    problems := message_problems(
        given.recipient, enqueue.template, given.data, given.channel, given.locale,
        enqueue.send_after::text, enqueue.expires_in::text, enqueue.priority::text, given.idempotency_key, given.tenant);
    IF problems IS NOT NULL THEN
        PERFORM refuse('message', problems, 1);
    END IF;

    INSERT INTO message (
        tenant, channel, recipient, template, locale, data, priority, send_after, expires_at, idempotency_key,
        status, reason, finished_at, job_id)
    SELECT given.tenant, given.channel, given.recipient, enqueue.template, given.locale, given.data,
           coalesce(enqueue.priority, 2), enqueue.send_after, greatest(enqueue.send_after, now()) + enqueue.expires_in,
           given.idempotency_key,
           CASE WHEN s.address IS NULL THEN 'queued' ELSE 'suppressed' END,
           s.reason,
           CASE WHEN s.address IS NOT NULL THEN now() END,
           CASE WHEN s.address IS NULL THEN nextval('river_job_id_seq') END
    FROM (VALUES (1)) AS one (row)
    LEFT JOIN suppression AS s ON s.tenant = given.tenant AND s.address = lower(given.recipient)
    ON CONFLICT DO NOTHING
    RETURNING * INTO written;

    IF written.id IS NULL THEN
        RETURN QUERY SELECT m.id, 'existing' FROM message AS m WHERE m.tenant = given.tenant AND m.idempotency_key = given.idempotency_key;
    ELSE
        PERFORM queue_jobs(ARRAY[written.id]);
        RETURN QUERY SELECT written.id, CASE written.status WHEN 'suppressed' THEN 'suppressed' ELSE 'created' END;
    END IF;
END
$$;

COMMENT ON FUNCTION mailcrane.enqueue(text, text, jsonb, text, text, timestamptz, interval, integer, text, text) IS
'Enqueues one message that is not about an invitation, in the caller''s transaction. template names the text, data its values. result is created, existing (same idempotency key: nothing was written) or suppressed (recorded, will not be sent). Bad input raises SQLSTATE 22023.';

INSERT INTO mailcrane.migration (version) VALUES (18);
