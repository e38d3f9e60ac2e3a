DELETE FROM mailcrane.migration WHERE version = 25;

-- The functions as 000015, 000017 and 000018 have them.

CREATE OR REPLACE FUNCTION mailcrane.queue_jobs(message_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    due boolean;
BEGIN
    WITH job AS (
        INSERT INTO river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
        SELECT m.job_id,
               jsonb_build_object('message_id', m.id),
               'deliver',
               32767,  -- the ceiling: when to give up is decided by the message, not by the queue
               m.priority,
               'default',
               greatest(m.send_after, now()),
               CASE WHEN m.send_after > now() THEN 'scheduled' ELSE 'available' END::river_job_state,
               '{}'
        FROM unnest(message_ids) WITH ORDINALITY AS given (id, n)
        JOIN message AS m ON m.id = given.id
        WHERE m.status = 'queued'
        ORDER BY given.n
        RETURNING state
    )
    SELECT bool_or(state = 'available') INTO due FROM job;

    -- NOTIFY holds a lock over the whole server until the commit is flushed, so
    -- at most one writer at a time takes the trouble; the relay's poll finds the
    -- jobs of the others.
    IF due AND pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.invitation_problems(invitations jsonb) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_agg(jsonb_build_object('item', x.n - 1, 'field', v.field, 'problem', v.problem) ORDER BY x.n)
    FROM mailcrane.invitation_items(invitations) AS x
    CROSS JOIN LATERAL (
        VALUES ('group_id', mailcrane.key_problem(x.group_id)),
               ('group_name', mailcrane.name_problem(x.group_name)),
               ('email', mailcrane.address_problem(x.email)),
               ('inviter_id', mailcrane.text_problem(x.inviter_id, 255)),
               ('inviter_name', mailcrane.name_problem(x.inviter_name)),
               ('link', mailcrane.link_problem(x.link)),
               ('locale', mailcrane.locale_problem(x.locale)),
               ('data', mailcrane.data_problem(x.data)),
               ('send_after', mailcrane.send_after_problem(x.send_after)),
               ('expires_in', mailcrane.expires_in_problem(x.expires_in)),
               ('priority', mailcrane.priority_problem(x.priority)),
               ('idempotency_key', mailcrane.text_problem(x.idempotency_key, 255))
        UNION ALL
        SELECT given.key, CASE
                   WHEN given.key NOT IN (
                       'group_id', 'group_name', 'email', 'inviter_id', 'inviter_name', 'link', 'locale', 'data',
                       'send_after', 'expires_in', 'priority', 'idempotency_key') THEN 'is not a field of an invitation'
                   WHEN given.key <> 'data' AND jsonb_typeof(given.value) NOT IN ('string', 'number', 'null')
                       THEN 'is neither text nor a number'
               END
        FROM jsonb_each(x.item) AS given
    ) AS v (field, problem)
    WHERE v.problem IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION mailcrane.invite_many(invitations jsonb, tenant text DEFAULT 'default')
RETURNS TABLE (invitation_id uuid, message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    invitation_ids uuid[];
    message_ids    uuid[];
    found_rows     bigint;
BEGIN
    PERFORM check_invitations(invite_many.invitations, invite_many.tenant);

    invitation_ids := ARRAY(SELECT uuid_v7() FROM generate_series(1, jsonb_array_length(invite_many.invitations)));

    -- An invitation that has lapsed must not stand in the way of a new one.
    UPDATE invitation AS i
    SET status = 'expired', finished_at = now()
    FROM invitation_items(invite_many.invitations) AS x
    WHERE i.tenant = invite_many.tenant
      AND i.group_id = x.group_id
      AND lower(i.email) = lower(x.email)
      AND i.status = 'pending'
      AND i.expires_at <= now();

    -- The unique indexes decide what is new, also between concurrent calls. One
    -- order of insertion for all callers keeps overlapping batches from
    -- deadlocking.
    INSERT INTO invitation (
        id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at)
    SELECT invitation_ids[x.n], invite_many.tenant, x.group_id, x.group_name, x.email, x.inviter_id, x.inviter_name, x.link,
           replace(x.locale, '_', '-'), x.data, x.idempotency_key,
           greatest(x.send_after::timestamptz, now()) + x.expires_in::interval
    FROM invitation_items(invite_many.invitations) AS x
    ORDER BY x.group_id, lower(x.email), x.n
    ON CONFLICT DO NOTHING;

    WITH written AS (
        INSERT INTO message (
            tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at,
            status, reason, finished_at, job_id)
        SELECT i.tenant, i.id, 'email', i.email, 'invitation', i.locale, x.priority::smallint, x.send_after::timestamptz, i.expires_at,
               CASE WHEN s.address IS NULL THEN 'queued' ELSE 'suppressed' END,
               s.reason,
               CASE WHEN s.address IS NOT NULL THEN now() END,
               CASE WHEN s.address IS NULL THEN nextval('river_job_id_seq') END
        FROM invitation_items(invite_many.invitations) AS x
        JOIN invitation AS i ON i.id = invitation_ids[x.n]
        LEFT JOIN suppression AS s ON s.tenant = i.tenant AND s.address = lower(i.email)
        ORDER BY x.n
        RETURNING id
    )
    SELECT array_agg(id) INTO message_ids FROM written;

    PERFORM queue_jobs(message_ids);

    RETURN QUERY
    SELECT i.id,
           m.id,
           CASE WHEN i.id <> invitation_ids[x.n] THEN 'existing'
                WHEN m.status = 'suppressed' THEN 'suppressed'
                ELSE 'created' END
    FROM invitation_items(invite_many.invitations) AS x
    CROSS JOIN LATERAL (
        SELECT w.id, 1 AS rank FROM invitation AS w WHERE w.id = invitation_ids[x.n]
        UNION ALL
        SELECT k.id, 2 FROM invitation AS k WHERE k.tenant = invite_many.tenant AND k.idempotency_key = x.idempotency_key
        UNION ALL
        SELECT p.id, 3 FROM invitation AS p
        WHERE p.tenant = invite_many.tenant AND p.group_id = x.group_id AND lower(p.email) = lower(x.email) AND p.status = 'pending'
        ORDER BY rank
        LIMIT 1
    ) AS i
    CROSS JOIN LATERAL (
        SELECT l.id, l.status FROM message AS l WHERE l.invitation_id = i.id ORDER BY l.id DESC LIMIT 1
    ) AS m
    ORDER BY x.n;

    GET DIAGNOSTICS found_rows = ROW_COUNT;
    IF found_rows < jsonb_array_length(invite_many.invitations) THEN
        RAISE EXCEPTION 'an invitation that stood in the way was finished by another transaction at the same moment'
            USING ERRCODE = 'serialization_failure', HINT = 'Nothing was written. Run the transaction again.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.invite(
    group_id        text,
    email           text,
    group_name      text DEFAULT NULL,
    inviter_id      text DEFAULT NULL,
    inviter_name    text DEFAULT NULL,
    link            text DEFAULT NULL,
    locale          text DEFAULT 'en',
    data            jsonb DEFAULT '{}',
    send_after      timestamptz DEFAULT NULL,
    expires_in      interval DEFAULT '7 days',
    priority        integer DEFAULT 2,
    idempotency_key text DEFAULT NULL,
    tenant          text DEFAULT 'default'
)
RETURNS TABLE (invitation_id uuid, message_id uuid, result text)
LANGUAGE sql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
    SELECT *
    FROM mailcrane.invite_many(
        jsonb_build_array(jsonb_build_object(
            'group_id', invite.group_id,
            'email', invite.email,
            'group_name', invite.group_name,
            'inviter_id', invite.inviter_id,
            'inviter_name', invite.inviter_name,
            'link', invite.link,
            'locale', invite.locale,
            'data', invite.data,
            'send_after', invite.send_after,
            'expires_in', invite.expires_in,
            'priority', invite.priority,
            'idempotency_key', invite.idempotency_key)),
        invite.tenant)
$$;

CREATE OR REPLACE FUNCTION mailcrane.enqueue(
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

DROP FUNCTION mailcrane.expire_lapsed(mailcrane.invitation_item[], text);
DROP FUNCTION mailcrane.write_jobs(mailcrane.delivery[]);
DROP FUNCTION mailcrane.is_plain_duration(text);
DROP FUNCTION mailcrane.is_plain_time(text);
DROP FUNCTION mailcrane.is_plain_template(text);
DROP FUNCTION mailcrane.is_plain_data(jsonb);
DROP FUNCTION mailcrane.is_plain_locale(text);
DROP FUNCTION mailcrane.is_plain_link(text);
DROP FUNCTION mailcrane.is_plain_address(text);
DROP FUNCTION mailcrane.is_plain_name(text);
DROP FUNCTION mailcrane.is_plain(text, integer);
DROP TYPE mailcrane.delivery;
DROP TYPE mailcrane.invitation_item;
