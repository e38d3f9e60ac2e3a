CREATE OR REPLACE FUNCTION mailcrane.invitation_items(invitations jsonb)
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

CREATE OR REPLACE FUNCTION mailcrane.invite_many(invitations jsonb, tenant text DEFAULT 'default')
RETURNS TABLE (invitation_id uuid, message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
#variable_conflict use_column
DECLARE
    items      invitation_item[];
    doubtful   jsonb;
    given      integer;
    inserted   integer;
    written    integer := 0;
    fresh      invitation_item[];
    deliveries delivery[];
    item       invitation_item;
    found_rows integer;
BEGIN
    IF (is_plain(invite_many.tenant, 255)
        AND invite_many.tenant IS NOT NULL
        AND jsonb_typeof(invite_many.invitations) = 'array'
        AND jsonb_array_length(invite_many.invitations) <= 1000
        AND NOT invite_many.invitations @? 'strict $[*] ? (@.type() != "object")') IS NOT TRUE
    THEN
        PERFORM check_invitations(invite_many.invitations, invite_many.tenant);
    END IF;

    -- Each value is read once, by its subquery; OFFSET 0 keeps it there.
    SELECT array_agg(ROW (
               x.n, uuid_v7(), uuid_v7(), x.group_id, x.group_name, x.email, x.inviter_id, x.inviter_name, x.link,
               replace(x.locale, '_', '-'), x.data, x.idempotency_key, x.priority, x.send_after,
               greatest(x.send_after, now()) + x.expires_in,
               s.reason,
               CASE WHEN s.reason IS NULL THEN nextval('river_job_id_seq') END,
               x.remind_after)::invitation_item),
           jsonb_agg(x.item) FILTER (WHERE NOT x.plain)
    INTO items, doubtful
    FROM (
        SELECT given.n, given.item, given.group_id, given.group_name, given.inviter_id, given.inviter_name, given.link,
               given.locale, given.data, given.idempotency_key, given.remind_after,
               CASE WHEN given.plain_email THEN given.email ELSE normalize_address(given.email) END AS email,
               CASE WHEN given.plain_time THEN given.send_after::timestamptz
                    WHEN given.send_after IS NOT NULL THEN try_timestamptz(given.send_after) END AS send_after,
               CASE WHEN given.plain_duration THEN given.expires_in::interval
                    ELSE try_interval(given.expires_in) END AS expires_in,
               CASE WHEN given.priority IN ('1', '2', '3', '4') THEN given.priority::smallint END AS priority,
               coalesce(given.plain_email
                   AND given.group_id IS NOT NULL
                   AND is_plain(given.group_id, 255)
                   AND is_plain_name(given.group_name)
                   AND is_plain(given.inviter_id, 255)
                   AND is_plain_name(given.inviter_name)
                   AND is_plain_link(given.link)
                   AND is_plain_locale(given.locale)
                   AND is_plain_data(given.data)
                   AND (given.send_after IS NULL
                       OR CASE WHEN given.plain_time THEN given.send_after::timestamptz <= now() + interval '1 year' END)
                   AND CASE WHEN given.plain_duration
                            THEN given.expires_in::interval BETWEEN interval '1 second' AND interval '366 days' END
                   AND given.priority IN ('1', '2', '3', '4')
                   AND is_plain(given.idempotency_key, 255)
                   AND given.item - ARRAY[
                       'group_id', 'group_name', 'email', 'inviter_id', 'inviter_name', 'link', 'locale', 'data',
                       'send_after', 'expires_in', 'priority', 'idempotency_key'] = '{}'
                   AND NOT given.item - 'data' @? 'strict $.* ? (@.type() != "string" && @.type() != "number" && @.type() != "null")',
                   false) AS plain
        FROM (
            SELECT y.*,
                   is_plain_address(y.email) AS plain_email,
                   is_plain_time(y.send_after) AS plain_time,
                   is_plain_duration(y.expires_in) AS plain_duration
            FROM (
                SELECT raw.n,
                       raw.item,
                       nullif(btrim(raw.item ->> 'group_id'), '') AS group_id,
                       nullif(collapse(btrim(raw.item ->> 'group_name')), '') AS group_name,
                       raw.item ->> 'email' AS email,
                       nullif(btrim(raw.item ->> 'inviter_id'), '') AS inviter_id,
                       nullif(collapse(btrim(raw.item ->> 'inviter_name')), '') AS inviter_name,
                       nullif(btrim(raw.item ->> 'link'), '') AS link,
                       coalesce(nullif(btrim(raw.item ->> 'locale'), ''), 'en') AS locale,
                       coalesce(nullif(raw.item -> 'data', 'null'), '{}') AS data,
                       nullif(raw.item ->> 'send_after', '') AS send_after,
                       coalesce(nullif(raw.item ->> 'expires_in', ''), '7 days') AS expires_in,
                       coalesce(nullif(raw.item ->> 'priority', ''), '2') AS priority,
                       nullif(raw.item ->> 'idempotency_key', '') AS idempotency_key,
                       CASE WHEN jsonb_typeof(raw.item -> 'remind_after') = 'array'
                            THEN ARRAY(SELECT try_interval(r.step) FROM jsonb_array_elements_text(raw.item -> 'remind_after') AS r (step)) END
                           AS remind_after
                FROM jsonb_array_elements(invite_many.invitations) WITH ORDINALITY AS raw (item, n)
                OFFSET 0
            ) AS y
            OFFSET 0
        ) AS given
        OFFSET 0
    ) AS x
    LEFT JOIN LATERAL (
        SELECT l.reason
        FROM suppression AS l
        WHERE l.tenant = invite_many.tenant AND l.address = lower(x.email)
        LIMIT 1
    ) AS s ON true;
    given := coalesce(cardinality(items), 0);

    -- The rules have the last word, on what is not quite as usual.
    IF doubtful IS NOT NULL AND invitation_problems(doubtful) IS NOT NULL THEN
        PERFORM check_invitations(invite_many.invitations, invite_many.tenant);
    END IF;
    IF given = 0 THEN
        RETURN;
    END IF;

    -- The unique indexes decide what is new, also between concurrent calls. One
    -- order of insertion for all callers keeps overlapping batches from
    -- deadlocking. What has lapsed is rarely in the way, and is looked for then.
    LOOP
        INSERT INTO invitation (
            id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at,
            remind_after, remind_at)
        SELECT x.id, invite_many.tenant, x.group_id, x.group_name, x.email, x.inviter_id, x.inviter_name, x.link,
               x.locale, x.data, x.idempotency_key, x.expires_at,
               nullif(x.remind_after, '{}'), greatest(x.send_after, now()) + x.remind_after[1]
        FROM unnest(items) AS x
        ORDER BY x.group_id, lower(x.email), x.n
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        written := written + inserted;
        EXIT WHEN written = given OR NOT expire_lapsed(items, invite_many.tenant);
    END LOOP;
    fresh := items;
    IF written < given THEN
        fresh := ARRAY(
            SELECT x::invitation_item
            FROM unnest(items) AS x
            CROSS JOIN LATERAL (SELECT FROM invitation AS i WHERE i.id = x.id LIMIT 1) AS i
            ORDER BY x.n);
        PERFORM require_own_keys(items, invite_many.tenant);
    END IF;
    fresh := limit_recipients(fresh, invite_many.tenant);

    PERFORM take_quota(invite_many.tenant, ARRAY(SELECT x.inviter_id FROM unnest(fresh) AS x));

    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at,
        status, reason, finished_at, job_id)
    SELECT x.message_id, invite_many.tenant, x.id, 'email', x.email, 'invitation', x.locale, x.priority, x.send_after, x.expires_at,
           CASE WHEN x.suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
           x.suppressed,
           CASE WHEN x.suppressed IS NOT NULL THEN now() END,
           x.job_id
    FROM unnest(fresh) AS x;

    deliveries := ARRAY(
        SELECT ROW (x.job_id, x.message_id, x.priority, x.send_after)::delivery
        FROM unnest(fresh) AS x
        WHERE x.job_id IS NOT NULL);
    PERFORM write_jobs(deliveries);

    IF cardinality(deliveries) = given THEN  -- all are new, and none suppressed
        FOREACH item IN ARRAY items LOOP
            invitation_id := item.id;
            message_id := item.message_id;
            result := 'created';
            RETURN NEXT;
        END LOOP;
        RETURN;
    END IF;

    RETURN QUERY
    SELECT i.id,
           m.id,
           CASE WHEN i.id <> x.id THEN 'existing'
                WHEN m.status = 'suppressed' THEN 'suppressed'
                ELSE 'created' END
    FROM unnest(items) AS x
    CROSS JOIN LATERAL (
        SELECT w.id, 1 AS rank FROM invitation AS w WHERE w.id = x.id
        UNION ALL
        SELECT k.id, 2 FROM invitation AS k
        WHERE k.tenant = invite_many.tenant AND k.idempotency_key = x.idempotency_key
        UNION ALL
        SELECT p.id, 3 FROM invitation AS p
        WHERE p.tenant = invite_many.tenant AND p.group_id = x.group_id AND lower(p.email) = lower(x.email) AND p.status = 'pending'
        ORDER BY rank
        LIMIT 1
    ) AS i
    CROSS JOIN LATERAL (
        SELECT o.id, o.status
        FROM (SELECT l.id, l.status FROM message AS l WHERE l.invitation_id = i.id OFFSET 0) AS o  -- by that index, not backwards through all ids
        ORDER BY o.id DESC
        LIMIT 1
    ) AS m
    ORDER BY x.n;

    GET DIAGNOSTICS found_rows = ROW_COUNT;
    IF found_rows < given THEN
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
    tenant          text DEFAULT 'default',
    remind_after    interval[] DEFAULT NULL
)
RETURNS TABLE (invitation_id uuid, message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
#variable_conflict use_column
DECLARE
    given      invitation%ROWTYPE;
    suppressed text;
    job_id     bigint;
BEGIN
    given.group_id := nullif(btrim(invite.group_id), '');
    given.group_name := nullif(collapse(btrim(invite.group_name)), '');
    given.inviter_id := nullif(btrim(invite.inviter_id), '');
    given.inviter_name := nullif(collapse(btrim(invite.inviter_name)), '');
    given.link := nullif(btrim(invite.link), '');
    given.locale := coalesce(nullif(btrim(invite.locale), ''), 'en');
    given.data := coalesce(nullif(invite.data, 'null'), '{}');
    given.idempotency_key := nullif(invite.idempotency_key, '');
    given.expires_at := greatest(invite.send_after, now()) + coalesce(invite.expires_in, '7 days');

    IF (invite.tenant IS NOT NULL
        AND is_plain(invite.tenant, 255)
        AND given.group_id IS NOT NULL
        AND is_plain(given.group_id, 255)
        AND is_plain_name(given.group_name)
        AND is_plain_address(invite.email)
        AND is_plain(given.inviter_id, 255)
        AND is_plain_name(given.inviter_name)
        AND is_plain_link(given.link)
        AND is_plain_locale(given.locale)
        AND is_plain_data(given.data)
        AND (invite.send_after IS NULL OR invite.send_after <= now() + interval '1 year')
        AND (invite.expires_in IS NULL OR invite.expires_in BETWEEN interval '1 second' AND interval '366 days')
        AND (invite.priority IS NULL OR invite.priority BETWEEN 1 AND 4)
        AND is_plain(given.idempotency_key, 255)
        AND invite.remind_after IS NULL) IS TRUE
    THEN
        given.id := uuid_v7();
        given.locale := replace(given.locale, '_', '-');
        INSERT INTO invitation (
            id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at)
        VALUES (given.id, invite.tenant, given.group_id, given.group_name, invite.email, given.inviter_id, given.inviter_name,
                given.link, given.locale, given.data, given.idempotency_key, given.expires_at)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            SELECT s.reason INTO suppressed FROM suppression AS s WHERE s.tenant = invite.tenant AND s.address = lower(invite.email);
            suppressed := coalesce(suppressed, count_recipient(invite.tenant, invite.email));
            PERFORM take_quota(invite.tenant, ARRAY[given.inviter_id]);
            message_id := uuid_v7();
            job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
            INSERT INTO message (
                id, tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at,
                status, reason, finished_at, job_id)
            VALUES (message_id, invite.tenant, given.id, 'email', invite.email, 'invitation', given.locale,
                    coalesce(invite.priority, 2), invite.send_after, given.expires_at,
                    CASE WHEN suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
                    suppressed,
                    CASE WHEN suppressed IS NOT NULL THEN now() END,
                    job_id);
            IF job_id IS NOT NULL THEN
                PERFORM write_jobs(ARRAY[ROW (job_id, message_id, coalesce(invite.priority, 2), invite.send_after)::delivery]);
            END IF;
            invitation_id := given.id;
            result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    RETURN QUERY
    SELECT *
    FROM invite_many(
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
            'idempotency_key', invite.idempotency_key,
            'remind_after', invite.remind_after)),
        invite.tenant);
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain_name(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 100
        AND position('  ' IN value) = 0
        AND value ~ '^[wW]?([^:@wW\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+[wW]?)*$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.collapse(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN position('  ' IN value) > 0 THEN regexp_replace(value, ' +', ' ', 'g') ELSE value END
$$;

CREATE OR REPLACE FUNCTION mailcrane.name_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- A name that reads as a link makes an invitation a carrier for spam.
    SELECT coalesce(
        mailcrane.text_problem(value, 100),
        CASE WHEN value ~* '://|\mwww\.' THEN 'has a web address in it'
             WHEN value ~ '[^\s@]@[^\s@]+\.[^\s@]' THEN 'has an e-mail address in it' END)
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain(value text, longest integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= longest
        AND value ~ '^[^\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.text_problem(value text, longest integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN char_length(value) > longest THEN format('is longer than %s characters', longest)
        WHEN value ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
            THEN 'has a control, bidirectional or zero-width character'
    END
$$;

COMMENT ON FUNCTION mailcrane.collapse(text) IS 'A text without several blanks beside each other.';
DROP FUNCTION mailcrane.as_in_links(text);

DELETE FROM mailcrane.migration WHERE version = 42;
