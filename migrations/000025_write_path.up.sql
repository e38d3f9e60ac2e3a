-- For a high rate: what a call of mailcrane.invite, invite_many and enqueue costs.
--
-- A call reads its JSON once, into an array of rows, and has three inserts that
-- work on it: invitations, messages, jobs. Every statement is in plpgsql, which
-- keeps its plan: a function of SQL that cannot be inlined is planned on every
-- call. The plans are made once, for any number of items, and by index, as a
-- table that is empty today will not be so for long.

-- One invitation on its way into the tables, checked, with the defaults filled in
-- and the ids that its rows will have.
CREATE TYPE mailcrane.invitation_item AS (
    n               bigint,
    id              uuid,
    message_id      uuid,
    group_id        text,
    group_name      text,
    email           text,
    inviter_id      text,
    inviter_name    text,
    link            text,
    locale          text,
    data            jsonb,
    idempotency_key text,
    priority        smallint,
    send_after      timestamptz,
    expires_at      timestamptz,
    suppressed      text,
    job_id          bigint
);

-- What a job says of its message.
CREATE TYPE mailcrane.delivery AS (
    job_id     bigint,
    message_id uuid,
    priority   smallint,
    send_after timestamptz
);

-- Quick tests, which say that a value is as nearly all are. They are stricter than
-- the rules of 000016, so that what passes needs no look at those: what does not
-- pass is left to them. A test compares the two.
--
-- They are inlined, and share their patterns: a connection keeps 32 compiled ones.

CREATE FUNCTION mailcrane.is_plain(value text, longest integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= longest
        AND value ~ '^[^\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$'
$$;

-- No colon and no two w beside each other: no web address.
CREATE FUNCTION mailcrane.is_plain_name(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 100
        AND value ~ '^[wW]?([^:wW\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+[wW]?)*$'
$$;

-- An address that normalize_address leaves as it is, so short that none of its
-- parts can be too long.
CREATE FUNCTION mailcrane.is_plain_address(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT octet_length(value) <= 64
        AND value ~ '^[a-zA-Z0-9_+-]+([.][a-zA-Z0-9_+-]+)*@([a-z0-9]+(-+[a-z0-9]+)*[.])+[a-z]+$'
$$;

CREATE FUNCTION mailcrane.is_plain_link(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 2048
        AND value ~ '^https?://[a-zA-Z0-9.:-]+([/?#][!-~]*)?$'
$$;

CREATE FUNCTION mailcrane.is_plain_locale(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL OR value = 'en' OR value ~ '^[a-z][a-z]([-_][A-Z][A-Z])?$'
$$;

CREATE FUNCTION mailcrane.is_plain_data(value jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL OR value = '{}' OR jsonb_typeof(value) = 'object' AND octet_length(value::text) <= 65536
$$;

CREATE FUNCTION mailcrane.is_plain_template(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT octet_length(value) <= 64 AND value ~ '^[a-z][a-z0-9_-]*$' AND value <> 'invitation'
$$;

-- A time as RFC 3339 writes it, of a day that there is in every year.
CREATE FUNCTION mailcrane.is_plain_time(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value ~ (
        '^20[0-9][0-9]-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))'
        'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]+)?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$')
        AND octet_length(value) <= 35
$$;

-- As the libraries write a duration, and people one of days or hours.
CREATE FUNCTION mailcrane.is_plain_duration(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value = '7 days'
        OR octet_length(value) <= 32
        AND value ~ '^[1-9][0-9]?[0-9]?[0-9]? (days?|hours?)( [0-9][0-9]?[0-9]?[0-9]?[.][0-9]+ seconds)?$'
$$;

-- Writes the delivery jobs of messages that are queued. The one place that knows
-- what a row of River's queue looks like: a test compares it, column by column,
-- with the row that River itself inserts.
CREATE FUNCTION mailcrane.write_jobs(deliveries mailcrane.delivery[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    due boolean;
BEGIN
    INSERT INTO mailcrane.river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
    SELECT d.job_id,
           jsonb_build_object('message_id', d.message_id),
           'deliver',
           32767,  -- the ceiling: when to give up is decided by the message, not by the queue
           d.priority,
           'default',
           greatest(d.send_after, now()),
           CASE WHEN d.send_after > now() THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
           '{}'
    FROM unnest(deliveries) AS d;

    due := cardinality(deliveries) > 0 AND coalesce((deliveries[1]).send_after <= now(), true);
    IF NOT due THEN
        due := EXISTS (SELECT FROM unnest(deliveries) AS d WHERE d.send_after <= now() OR d.send_after IS NULL);
    END IF;

    -- NOTIFY holds a lock over the whole server until the commit is flushed, so
    -- at most one writer at a time takes the trouble; the relay's poll finds the
    -- jobs of the others.
    IF due AND pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.queue_jobs(message_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM write_jobs(ARRAY(
        SELECT ROW (m.job_id, m.id, m.priority, m.send_after)::delivery
        FROM unnest(message_ids) WITH ORDINALITY AS given (id, n)
        JOIN message AS m ON m.id = given.id
        WHERE m.status = 'queued'
        ORDER BY given.n));
END
$$;

-- The same problems as before, in the same order; but plpgsql keeps the plan.
CREATE OR REPLACE FUNCTION mailcrane.invitation_problems(invitations jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
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
        WHERE v.problem IS NOT NULL);
END
$$;

-- An invitation that has lapsed must not stand in the way of a new one. Answers
-- whether one did. Locks in the order in which invitations are inserted.
CREATE FUNCTION mailcrane.expire_lapsed(items mailcrane.invitation_item[], tenant text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    lapsed uuid[];
BEGIN
    lapsed := ARRAY(
        SELECT o.id
        FROM (
            SELECT y.group_id, y.email
            FROM unnest(expire_lapsed.items) AS y
            ORDER BY y.group_id, lower(y.email), y.n
            OFFSET 0
        ) AS x
        CROSS JOIN LATERAL (  -- LIMIT: one look into the index an item, whatever the planner knows of the table
            SELECT i.id
            FROM mailcrane.invitation AS i
            WHERE i.tenant = expire_lapsed.tenant
              AND i.group_id = x.group_id
              AND lower(i.email) = lower(x.email)
              AND i.status = 'pending'
              AND i.expires_at <= now()
            LIMIT 1
            FOR NO KEY UPDATE
        ) AS o);
    IF lapsed = '{}' THEN
        RETURN false;
    END IF;
    UPDATE mailcrane.invitation AS i
    SET status = 'expired', finished_at = now()
    WHERE i.id = ANY (lapsed);  -- pending still, as their rows are locked
    RETURN FOUND;
END
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
    keyed      boolean;
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
               CASE WHEN s.reason IS NULL THEN nextval('river_job_id_seq') END)::invitation_item),
           jsonb_agg(x.item) FILTER (WHERE NOT x.plain),
           bool_or(x.idempotency_key IS NOT NULL)
    INTO items, doubtful, keyed
    FROM (
        SELECT given.n, given.item, given.group_id, given.group_name, given.inviter_id, given.inviter_name, given.link,
               given.locale, given.data, given.idempotency_key,
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
                       nullif(btrim(raw.item ->> 'group_name'), '') AS group_name,
                       raw.item ->> 'email' AS email,
                       nullif(btrim(raw.item ->> 'inviter_id'), '') AS inviter_id,
                       nullif(btrim(raw.item ->> 'inviter_name'), '') AS inviter_name,
                       nullif(btrim(raw.item ->> 'link'), '') AS link,
                       coalesce(nullif(btrim(raw.item ->> 'locale'), ''), 'en') AS locale,
                       coalesce(nullif(raw.item -> 'data', 'null'), '{}') AS data,
                       nullif(raw.item ->> 'send_after', '') AS send_after,
                       coalesce(nullif(raw.item ->> 'expires_in', ''), '7 days') AS expires_in,
                       coalesce(nullif(raw.item ->> 'priority', ''), '2') AS priority,
                       nullif(raw.item ->> 'idempotency_key', '') AS idempotency_key
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

    -- What has lapsed is rarely in the way, and is looked for after a conflict. With
    -- keys, which of two items with the same one is written must not hang on that.
    IF keyed THEN
        PERFORM expire_lapsed(items, invite_many.tenant);
    END IF;

    -- The unique indexes decide what is new, also between concurrent calls. One
    -- order of insertion for all callers keeps overlapping batches from
    -- deadlocking.
    LOOP
        INSERT INTO invitation (
            id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at)
        SELECT x.id, invite_many.tenant, x.group_id, x.group_name, x.email, x.inviter_id, x.inviter_name, x.link,
               x.locale, x.data, x.idempotency_key, x.expires_at
        FROM unnest(items) AS x
        ORDER BY x.group_id, lower(x.email), x.n
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        written := written + inserted;
        EXIT WHEN written = given OR NOT expire_lapsed(items, invite_many.tenant);
    END LOOP;
    IF written < given THEN
        fresh := ARRAY(
            SELECT x::invitation_item
            FROM unnest(items) AS x
            CROSS JOIN LATERAL (SELECT FROM invitation AS i WHERE i.id = x.id LIMIT 1) AS i
            ORDER BY x.n);
    END IF;

    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at,
        status, reason, finished_at, job_id)
    SELECT x.message_id, invite_many.tenant, x.id, 'email', x.email, 'invitation', x.locale, x.priority, x.send_after, x.expires_at,
           CASE WHEN x.suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
           x.suppressed,
           CASE WHEN x.suppressed IS NOT NULL THEN now() END,
           x.job_id
    FROM unnest(coalesce(fresh, items)) AS x;

    deliveries := ARRAY(
        SELECT ROW (x.job_id, x.message_id, x.priority, x.send_after)::delivery
        FROM unnest(coalesce(fresh, items)) AS x
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

-- The straight way for one that is as nearly all are: no JSON, no arrays. Whatever
-- else it is, invite_many has the say.
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
    given.group_name := nullif(btrim(invite.group_name), '');
    given.inviter_id := nullif(btrim(invite.inviter_id), '');
    given.inviter_name := nullif(btrim(invite.inviter_name), '');
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
        AND is_plain(given.idempotency_key, 255)) IS TRUE
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
            'idempotency_key', invite.idempotency_key)),
        invite.tenant);
END
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
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
#variable_conflict use_column
DECLARE
    given      message%ROWTYPE;
    problems   jsonb;
    suppressed text;
BEGIN
    given.tenant := coalesce(enqueue.tenant, 'default');
    given.channel := coalesce(enqueue.channel, 'email');
    given.recipient := CASE WHEN given.channel <> 'email' THEN btrim(enqueue.recipient)
                            WHEN is_plain_address(enqueue.recipient) THEN enqueue.recipient
                            ELSE normalize_address(enqueue.recipient) END;
    given.locale := replace(coalesce(enqueue.locale, 'en'), '_', '-');
    given.data := coalesce(nullif(enqueue.data, 'null'), '{}');
    given.idempotency_key := nullif(enqueue.idempotency_key, '');

    IF (is_plain(given.tenant, 255)
        AND given.channel = 'email'
        AND is_plain_address(given.recipient)
        AND is_plain_template(enqueue.template)
        AND is_plain_data(given.data)
        AND is_plain_locale(given.locale)
        AND (enqueue.send_after IS NULL OR enqueue.send_after <= now() + interval '1 year')
        AND (enqueue.expires_in IS NULL OR enqueue.expires_in BETWEEN interval '1 second' AND interval '366 days')
        AND (enqueue.priority IS NULL OR enqueue.priority BETWEEN 1 AND 4)
        AND is_plain(given.idempotency_key, 255)) IS NOT TRUE
    THEN
        problems := message_problems(
            given.recipient, enqueue.template, given.data, given.channel, given.locale,
            enqueue.send_after::text, enqueue.expires_in::text, enqueue.priority::text, given.idempotency_key, given.tenant);
        IF problems IS NOT NULL THEN
            PERFORM refuse('message', problems, 1);
        END IF;
    END IF;

    SELECT l.reason INTO suppressed FROM suppression AS l WHERE l.tenant = given.tenant AND l.address = lower(given.recipient);
    given.id := uuid_v7();
    given.job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
    INSERT INTO message (
        id, tenant, channel, recipient, template, locale, data, priority, send_after, expires_at, idempotency_key,
        status, reason, finished_at, job_id)
    VALUES (given.id, given.tenant, given.channel, given.recipient, enqueue.template, given.locale, given.data,
            coalesce(enqueue.priority, 2), enqueue.send_after, greatest(enqueue.send_after, now()) + enqueue.expires_in,
            given.idempotency_key,
            CASE WHEN suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
            suppressed,
            CASE WHEN suppressed IS NOT NULL THEN now() END,
            given.job_id)
    ON CONFLICT DO NOTHING;

    IF NOT FOUND THEN
        RETURN QUERY SELECT m.id, 'existing' FROM message AS m WHERE m.tenant = given.tenant AND m.idempotency_key = given.idempotency_key;
        RETURN;
    END IF;
    IF given.job_id IS NOT NULL THEN
        PERFORM write_jobs(ARRAY[ROW (given.job_id, given.id, coalesce(enqueue.priority, 2), enqueue.send_after)::delivery]);
    END IF;
    message_id := given.id;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
END
$$;

INSERT INTO mailcrane.migration (version) VALUES (25);
