-- The write path of invitations, the same for every language: what the caller's
-- transaction commits is an invitation, its message and its job, or nothing.

-- invitation_items reads the JSON of a call, one row an item, with the defaults
-- filled in. Everything is still text: casts come after the checks.
CREATE FUNCTION mailcrane.invitation_items(invitations jsonb)
RETURNS TABLE (
    n bigint, item jsonb, group_id text, group_name text, email text, inviter_id text, inviter_name text,
    link text, locale text, data jsonb, send_after text, expires_in text, priority text, idempotency_key text
)
LANGUAGE sql STABLE
AS $$
    SELECT raw.n,
           raw.item,
           nullif(btrim(raw.item ->> 'group_id'), ''),
           nullif(btrim(raw.item ->> 'group_name'), ''),
           mailcrane.normalize_address(raw.item ->> 'email'),
           nullif(btrim(raw.item ->> 'inviter_id'), ''),
           nullif(btrim(raw.item ->> 'inviter_name'), ''),
           nullif(btrim(raw.item ->> 'link'), ''),
           coalesce(nullif(btrim(raw.item ->> 'locale'), ''), 'en'),
           coalesce(nullif(raw.item -> 'data', 'null'), '{}'),
           nullif(raw.item ->> 'send_after', ''),
           coalesce(nullif(raw.item ->> 'expires_in', ''), '7 days'),
           coalesce(nullif(raw.item ->> 'priority', ''), '2'),
           nullif(raw.item ->> 'idempotency_key', '')
    FROM jsonb_array_elements(invitations) WITH ORDINALITY AS raw (item, n)
$$;

CREATE FUNCTION mailcrane.invitation_problems(invitations jsonb) RETURNS jsonb
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

CREATE FUNCTION mailcrane.check_invitations(invitations jsonb, tenant text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    problems jsonb;
BEGIN
    problems := CASE
        WHEN mailcrane.key_problem(tenant) IS NOT NULL
            THEN jsonb_build_array(jsonb_build_object('item', 0, 'field', 'tenant', 'problem', mailcrane.key_problem(tenant)))
        WHEN jsonb_typeof(invitations) IS DISTINCT FROM 'array'
            THEN '[{"item": 0, "field": "invitations", "problem": "is not a JSON array"}]'
        WHEN jsonb_array_length(invitations) > 1000
            THEN '[{"item": 0, "field": "invitations", "problem": "has more than 1,000 items: send them in several calls"}]'
        ELSE (
            SELECT jsonb_agg(jsonb_build_object('item', raw.n - 1, 'field', 'invitations', 'problem', 'holds something that is not a JSON object'))
            FROM jsonb_array_elements(invitations) WITH ORDINALITY AS raw (item, n)
            WHERE jsonb_typeof(raw.item) <> 'object')
    END;
    problems := coalesce(problems, mailcrane.invitation_problems(invitations));
    IF problems IS NOT NULL THEN
        PERFORM mailcrane.refuse('invitation', problems,
            CASE WHEN jsonb_typeof(invitations) = 'array' THEN jsonb_array_length(invitations) ELSE 1 END);
    END IF;
END
$$;

CREATE FUNCTION mailcrane.invite_many(invitations jsonb, tenant text DEFAULT 'default')
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

CREATE FUNCTION mailcrane.invite(
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

COMMENT ON FUNCTION mailcrane.invite(text, text, text, text, text, text, text, jsonb, timestamptz, interval, integer, text, text) IS
'Invites one person: writes the invitation, its message and its delivery job in the caller''s transaction. result is created, existing (same idempotency key, or one pending for the address: nothing was written) or suppressed (recorded, will not be sent). Bad input raises SQLSTATE 22023.';
COMMENT ON FUNCTION mailcrane.invite_many(jsonb, text) IS
'Invites up to 1,000 people, all or none. Takes a JSON array of objects with the argument names of mailcrane.invite as keys; the rows come back in the order of the array.';

INSERT INTO mailcrane.migration (version) VALUES (17);
