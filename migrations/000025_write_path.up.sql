-- The write path again, for a high rate. What it does is what it did: the rules of
-- versions 15 to 18 stay the only ones, and what is new is how rarely they have to
-- be asked one by one.
--
-- A function in the language SQL that cannot become part of the query has its text
-- parsed and planned on every call. So the path that nearly everything takes calls
-- none, and the plans of what it does execute are made once for a connection, by
-- index, however small the tables are at that moment.

-- What a row of River's queue looks like, in one place.
CREATE FUNCTION mailcrane.job_of(message_id uuid, job_id bigint, message_priority smallint, send_after timestamptz)
RETURNS TABLE (
    id bigint, args jsonb, kind text, max_attempts smallint, priority smallint, queue text,
    scheduled_at timestamptz, state mailcrane.river_job_state, tags varchar[]
)
LANGUAGE sql STABLE
AS $$
    SELECT $2,
           jsonb_build_object('message_id', $1),
           'deliver'::text,
           32767::smallint,  -- the ceiling: when to give up is decided by the message, not by the queue
           $3,
           'default'::text,
           greatest($4, now()),
           CASE WHEN $4 > now() THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
           '{}'::varchar[]
$$;

-- NOTIFY holds a lock over the whole server until the commit is flushed, so at most
-- one writer at a time takes the trouble; the relay's poll finds the jobs of the
-- others.
CREATE FUNCTION mailcrane.wake_relay() RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.queue_jobs(message_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    due boolean;
BEGIN
    WITH job AS (
        INSERT INTO river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
        SELECT j.id, j.args, j.kind, j.max_attempts, j.priority, j.queue, j.scheduled_at, j.state, j.tags
        FROM unnest(message_ids) WITH ORDINALITY AS given (id, n)
        JOIN message AS m ON m.id = given.id
        CROSS JOIN LATERAL job_of(m.id, m.job_id, m.priority, m.send_after) AS j
        WHERE m.status = 'queued'
        ORDER BY given.n
        RETURNING state
    )
    SELECT bool_or(state = 'available') INTO due FROM job;
    IF due THEN
        PERFORM wake_relay();
    END IF;
END
$$;

-- Whether an item, with what mailcrane.invitation_items makes of it, is certainly
-- fine, at a glance. It is stricter than the rules: who fails here is only looked at
-- more closely.
CREATE FUNCTION mailcrane.is_plain(
    item jsonb, group_id text, group_name text, email text, inviter_id text, inviter_name text,
    link text, locale text, data jsonb, send_after text, expires_in text, priority text, idempotency_key text
) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN jsonb_typeof(item) <> 'object' THEN false ELSE (
            item - '{group_id,group_name,email,inviter_id,inviter_name,link,locale,data,send_after,expires_in,priority,idempotency_key}'::text[] = '{}'
        -- Numbers and texts only, but for data.
        AND NOT (item - 'data') @? 'strict $.* ? (@.type() == "object" || @.type() == "array" || @.type() == "boolean")'
        AND char_length(group_id) <= 255
        AND octet_length(email) <= 254
        AND position('@' IN email) <= 65
        AND octet_length(email) - position('@' IN email) <= 63
        AND email ~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([a-z0-9]+(-+[a-z0-9]+)*\.)+[a-z][a-z0-9]*(-+[a-z0-9]+)*$'
        AND coalesce(char_length(group_name) <= 100, true)
        AND coalesce(char_length(inviter_id) <= 255, true)
        AND coalesce(char_length(inviter_name) <= 100, true)
        AND coalesce(char_length(idempotency_key) <= 255, true)
        AND position('://' IN concat(group_name, inviter_name)) = 0
        AND position('www.' IN lower(concat(group_name, inviter_name))) = 0
        AND concat_ws(' ', group_id, group_name, inviter_id, inviter_name, idempotency_key, link)
            !~ '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
        AND coalesce(octet_length(link) <= 2048 AND link ~ '^https?://[^\s/?#@]+([/?#][^\s]*)?$', true)
        AND (locale = 'en' OR locale ~ '^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}$')
        AND (data = '{}' OR jsonb_typeof(data) = 'object' AND octet_length(data::text) <= 65536)
        AND (send_after IS NULL OR mailcrane.send_after_problem(send_after) IS NULL)
        AND (expires_in = '7 days' OR mailcrane.expires_in_problem(expires_in) IS NULL)
        AND priority IN ('1', '2', '3', '4')
    ) END IS TRUE
$$;

CREATE OR REPLACE FUNCTION mailcrane.invite_many(invitations jsonb, tenant text DEFAULT 'default')
RETURNS TABLE (invitation_id uuid, message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    checked        boolean := false;  -- the rules have been asked
    plain          boolean;
    invitation_ids uuid[];
    message_ids    uuid[];
    results        text[];
    missing        bigint[];          -- items that met something in their way
    due            boolean;
    lapsed         boolean := false;
    found_rows     bigint;
BEGIN
    IF jsonb_typeof(invite_many.invitations) IS DISTINCT FROM 'array' OR (invite_many.tenant ~ '^[!-~]{1,255}$') IS NOT TRUE
        OR jsonb_array_length(invite_many.invitations) > 1000
    THEN
        PERFORM check_invitations(invite_many.invitations, invite_many.tenant);
        checked := true;
    END IF;

    LOOP
        -- The unique indexes decide what is new, also between concurrent calls. One
        -- order of insertion for all callers keeps overlapping batches from
        -- deadlocking. Nothing is written as long as something looks odd.
        WITH x AS MATERIALIZED (
            SELECT i.*,
                   coalesce(invitation_ids[i.n], uuid_v7()) AS id,
                   checked OR is_plain(
                       i.item, i.group_id, i.group_name, i.email, i.inviter_id, i.inviter_name, i.link, i.locale, i.data,
                       i.send_after, i.expires_in, i.priority, i.idempotency_key) AS plain
            FROM (SELECT * FROM invitation_items(invite_many.invitations) OFFSET 0) AS i  -- each value is made once
            WHERE NOT lapsed OR i.n = ANY (missing)
        ), new AS (
            INSERT INTO invitation (
                id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at)
            SELECT x.id, invite_many.tenant, x.group_id, x.group_name, x.email, x.inviter_id, x.inviter_name, x.link,
                   replace(x.locale, '_', '-'), x.data, x.idempotency_key,
                   greatest(x.send_after::timestamptz, now()) + x.expires_in::interval
            FROM x
            WHERE (SELECT bool_and(y.plain) FROM x AS y)
            ORDER BY x.group_id, lower(x.email), x.n
            ON CONFLICT DO NOTHING
            RETURNING id, locale, expires_at
        ), written AS (
            INSERT INTO message (
                tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at,
                status, reason, finished_at, job_id)
            SELECT invite_many.tenant, x.id, 'email', x.email, 'invitation', new.locale, x.priority::smallint,
                   x.send_after::timestamptz, new.expires_at,
                   CASE WHEN s.address IS NULL THEN 'queued' ELSE 'suppressed' END,
                   s.reason,
                   CASE WHEN s.address IS NOT NULL THEN now() END,
                   CASE WHEN s.address IS NULL THEN nextval('river_job_id_seq') END
            FROM x
            JOIN new ON new.id = x.id
            LEFT JOIN LATERAL (
                SELECT l.address, l.reason
                FROM suppression AS l
                WHERE l.tenant = invite_many.tenant AND l.address = lower(x.email)
                LIMIT 1
            ) AS s ON true
            ORDER BY x.n
            RETURNING id, invitation_id, status, job_id, priority, send_after
        ), job AS (
            INSERT INTO river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
            SELECT j.id, j.args, j.kind, j.max_attempts, j.priority, j.queue, j.scheduled_at, j.state, j.tags
            FROM written AS w
            CROSS JOIN LATERAL job_of(w.id, w.job_id, w.priority, w.send_after) AS j
            WHERE w.status = 'queued'
            RETURNING state
        )
        SELECT bool_and(x.plain),
               CASE WHEN lapsed THEN invitation_ids ELSE array_agg(x.id ORDER BY x.n) END,
               array_agg(w.id ORDER BY x.n),
               array_agg(CASE w.status WHEN 'suppressed' THEN 'suppressed' ELSE 'created' END ORDER BY x.n),
               array_agg(x.n) FILTER (WHERE w.id IS NULL),
               (SELECT bool_or(j.state = 'available') FROM job AS j)
        INTO plain, invitation_ids, message_ids, results, missing, due
        FROM x
        LEFT JOIN written AS w ON w.invitation_id = x.id;

        IF NOT plain THEN
            PERFORM check_invitations(invite_many.invitations, invite_many.tenant);
            checked := true;
            CONTINUE;
        END IF;
        IF due THEN
            PERFORM wake_relay();
        END IF;
        EXIT WHEN missing IS NULL OR lapsed;

        -- An invitation that has lapsed must not stand in the way of a new one.
        WITH old AS (
            SELECT i.id
            FROM invitation_items(invite_many.invitations) AS x
            JOIN invitation AS i ON i.tenant = invite_many.tenant AND i.group_id = x.group_id AND lower(i.email) = lower(x.email)
            WHERE x.n = ANY (missing)
              AND i.status = 'pending'
              AND i.expires_at <= now()
            ORDER BY i.group_id, lower(i.email)
            FOR UPDATE OF i
        )
        UPDATE invitation AS i
        SET status = 'expired', finished_at = now()
        FROM old
        WHERE i.id = old.id;
        EXIT WHEN NOT FOUND;
        lapsed := true;
    END LOOP;

    IF missing IS NULL AND NOT lapsed THEN
        FOR n IN 1..coalesce(cardinality(invitation_ids), 0) LOOP
            invitation_id := invitation_ids[n];
            message_id := message_ids[n];
            result := results[n];
            RETURN NEXT;
        END LOOP;
        RETURN;
    END IF;

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
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT m.invitation_id, m.message_id, m.result
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
        invite.tenant) AS m;
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
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
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

    -- Certainly fine, at a glance; who fails here is only looked at more closely.
    IF (given.tenant ~ '^[!-~]{1,255}$'
        AND given.channel = 'email'
        AND octet_length(given.recipient) <= 254
        AND position('@' IN given.recipient) <= 65
        AND octet_length(given.recipient) - position('@' IN given.recipient) <= 63
        AND given.recipient ~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([a-z0-9]+(-+[a-z0-9]+)*\.)+[a-z][a-z0-9]*(-+[a-z0-9]+)*$'
        AND enqueue.template ~ '^[a-z][a-z0-9_-]{0,63}$' AND enqueue.template <> 'invitation'
        AND jsonb_typeof(given.data) = 'object' AND octet_length(given.data::text) <= 65536
        AND given.locale ~ '^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}$'
        AND enqueue.send_after IS NULL
        AND enqueue.expires_in IS NULL
        AND coalesce(enqueue.priority BETWEEN 1 AND 4, true)
        AND coalesce(given.idempotency_key ~ '^[!-~]{1,255}$', true)) IS NOT TRUE
    THEN
        problems := message_problems(
            given.recipient, enqueue.template, given.data, given.channel, given.locale,
            enqueue.send_after::text, enqueue.expires_in::text, enqueue.priority::text, given.idempotency_key, given.tenant);
        IF problems IS NOT NULL THEN
            PERFORM refuse('message', problems, 1);
        END IF;
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

COMMENT ON FUNCTION mailcrane.job_of(uuid, bigint, smallint, timestamptz) IS 'The row of River''s queue for a message.';
COMMENT ON FUNCTION mailcrane.wake_relay() IS 'Tells the daemons on commit that there are new jobs, unless somebody else is just about to.';
COMMENT ON FUNCTION mailcrane.is_plain(jsonb, text, text, text, text, text, text, text, jsonb, text, text, text, text) IS 'Whether an item of mailcrane.invite_many is certainly fine. If not, mailcrane.check_invitations decides.';

INSERT INTO mailcrane.migration (version) VALUES (25);
