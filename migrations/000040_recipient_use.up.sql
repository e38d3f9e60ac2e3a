-- A counter for the quota of a recipient, in place of a search among invitations under
-- an advisory lock: it holds for calls of any size and at every isolation level, and
-- no call needs more locks than it writes rows.

-- One row is an address that was mailed lately: a hash, and only for the day for which
-- it counts.
CREATE TABLE mailcrane.recipient_use (
    recipient bigint PRIMARY KEY,
    times     timestamptz[] NOT NULL,
    last_at   timestamptz NOT NULL,
    granted   integer NOT NULL DEFAULT 1
) WITH (fillfactor = 70);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX recipient_use_last_at ON mailcrane.recipient_use (last_at);

INSERT INTO mailcrane.recipient_use (recipient, times, last_at)
SELECT u.recipient, array_agg(u.at ORDER BY u.at), max(u.at)
FROM (
    SELECT mailcrane.recipient_key(m.recipient), min(m.created_at)
    FROM mailcrane.message AS m
    WHERE m.id >= mailcrane.uuid_v7_floor(now() - interval '1 day')
      AND m.template = 'invitation' AND m.status <> 'suppressed' AND NOT mailcrane.is_test(m.tenant)
    GROUP BY m.invitation_id, 1
) AS u (recipient, at)
GROUP BY u.recipient;

-- These set no search_path, as that costs: whoever calls them has.

-- How many invitations an address may get a day, or NULL.
CREATE FUNCTION mailcrane.recipient_quota(tenant text) RETURNS integer
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
        SELECT q.at_most
        FROM mailcrane.quota AS q
        WHERE q.kind = 'recipient' AND q.tenant IN (recipient_quota.tenant, '*') AND NOT mailcrane.is_test(recipient_quota.tenant)
        ORDER BY q.tenant = '*'
        LIMIT 1);
END
$$;

CREATE FUNCTION mailcrane.within_a_day(times timestamptz[]) RETURNS timestamptz[]
LANGUAGE sql STABLE
AS $$ SELECT ARRAY(SELECT u.at FROM unnest(times) AS u (at) WHERE u.at > now() - interval '1 day') $$;

-- Whoever counts the same address at the same moment waits for the caller's
-- transaction.
CREATE FUNCTION mailcrane.count_recipient(tenant text, address text) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    allowed integer := mailcrane.recipient_quota(tenant);
BEGIN
    IF allowed IS NULL THEN
        RETURN NULL;
    END IF;
    IF allowed > 0 THEN
        INSERT INTO mailcrane.recipient_use AS u (recipient, times, last_at)
        VALUES (mailcrane.recipient_key(address), ARRAY[now()], now())
        ON CONFLICT (recipient) DO UPDATE
        SET times = mailcrane.within_a_day(u.times) || excluded.times, last_at = greatest(u.last_at, excluded.last_at)
        WHERE cardinality(mailcrane.within_a_day(u.times)) < allowed;
    END IF;
    RETURN CASE WHEN NOT FOUND THEN format('invited %s times within a day', allowed) END;
END
$$;

-- Everybody locks invitations first, and counts their addresses then, in one order.
CREATE OR REPLACE FUNCTION mailcrane.limit_recipients(items mailcrane.invitation_item[], tenant text) RETURNS mailcrane.invitation_item[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    allowed integer := mailcrane.recipient_quota(tenant);
    granted jsonb;  -- how many to each address
    many    bigint;
    refused bigint[];
BEGIN
    IF allowed IS NULL THEN
        RETURN items;
    END IF;
    WITH counted AS (
        INSERT INTO mailcrane.recipient_use AS u (recipient, times, last_at, granted)
        SELECT mailcrane.recipient_key(x.email), array_fill(now(), ARRAY[least(count(*), allowed)::integer]), now(), least(count(*), allowed)
        FROM unnest(items) AS x
        WHERE x.suppressed IS NULL
        GROUP BY 1
        ORDER BY 1
        ON CONFLICT (recipient) DO UPDATE
        SET granted = greatest(least(excluded.granted, allowed - cardinality(mailcrane.within_a_day(u.times))), 0),
            times = mailcrane.within_a_day(u.times)
                || excluded.times[1:greatest(least(excluded.granted, allowed - cardinality(mailcrane.within_a_day(u.times))), 0)],
            last_at = greatest(u.last_at, excluded.last_at)
        RETURNING u.recipient, u.granted
    )
    SELECT jsonb_object_agg(c.recipient, c.granted), sum(c.granted) INTO granted, many FROM counted AS c;
    IF many = (SELECT count(*) FROM unnest(items) AS x WHERE x.suppressed IS NULL) THEN
        RETURN items;
    END IF;
    refused := ARRAY(
        SELECT o.n
        FROM (
            SELECT x.n, mailcrane.recipient_key(x.email) AS recipient, row_number() OVER (PARTITION BY mailcrane.recipient_key(x.email) ORDER BY x.n) AS nth
            FROM unnest(items) AS x
            WHERE x.suppressed IS NULL
        ) AS o
        WHERE o.nth > (granted ->> o.recipient::text)::integer);
    FOR place IN 1..cardinality(items) LOOP
        IF items[place].n = ANY (refused) THEN
            items[place].suppressed := format('invited %s times within a day', allowed);
            items[place].job_id := NULL;
        END IF;
    END LOOP;
    RETURN items;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.require_room(tenant text, address text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    problem text := count_recipient(require_room.tenant, require_room.address);
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'the address was mailed as many invitations today as it may be'
            USING ERRCODE = '53400', HINT = 'Nothing was written. Wait a day; mailcrane.quota has the limit.';
    END IF;
END
$$;

-- A key that was given for something else is a mistake of the caller, who would take
-- the answer for that of this invitation.
CREATE FUNCTION mailcrane.require_own_keys(items mailcrane.invitation_item[], tenant text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    problems jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('item', x.n - 1, 'field', 'idempotency_key', 'problem', 'was given for another invitation') ORDER BY x.n)
    INTO problems
    FROM unnest(items) AS x
    JOIN invitation AS k ON k.tenant = require_own_keys.tenant AND k.idempotency_key = x.idempotency_key
    WHERE k.group_id <> x.group_id
       OR lower(k.email) <> lower(x.email)
          AND NOT EXISTS (  -- it may have been moved since
            SELECT FROM message AS m
            WHERE m.invitation_id = k.id AND lower(m.recipient) = lower(x.email));
    IF problems IS NOT NULL THEN
        PERFORM refuse('invitation', problems, cardinality(items));
    END IF;
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

CREATE OR REPLACE FUNCTION mailcrane.resend(invitation_id uuid)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    i invitation%ROWTYPE;
BEGIN
    i := require_pending(resend.invitation_id);
    PERFORM require_resendable(i, true);
    IF EXISTS (SELECT FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email)) THEN
        RETURN QUERY SELECT * FROM write_about(i, 'invitation');  -- which is not mailed, so the old link stays good
        RETURN;
    END IF;
    IF NOT mailed_within_a_day(i) THEN
        PERFORM require_room(i.tenant, i.email);
    END IF;
    RETURN QUERY SELECT * FROM mail_again(i, 'replaced by a newer mail before it was sent');
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.change_address(invitation_id uuid, email text)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    i       invitation%ROWTYPE;
    address text := normalize_address(change_address.email);
    problem text := address_problem(address);
BEGIN
    i := require_pending(change_address.invitation_id);
    IF problem IS NULL AND lower(address) = lower(i.email) THEN
        problem := 'is the address that it has';
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM refuse('invitation', jsonb_build_array(jsonb_build_object('item', 0, 'field', 'email', 'problem', problem)), 1);
    END IF;
    PERFORM require_resendable(i, false);
    UPDATE invitation AS v
    SET status = 'expired', finished_at = clock_timestamp()
    WHERE v.tenant = i.tenant AND v.group_id = i.group_id AND lower(v.email) = lower(address)
      AND v.status = 'pending' AND v.expires_at <= clock_timestamp();
    BEGIN
        UPDATE invitation AS v SET email = address WHERE v.id = i.id;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'there is a pending invitation of this address to the group already'
            USING ERRCODE = 'unique_violation', HINT = 'Nothing was written. Revoke one of the two.';
    END;
    i.email := address;
    IF NOT EXISTS (SELECT FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email)) THEN
        PERFORM require_room(i.tenant, i.email);
    END IF;
    RETURN QUERY SELECT * FROM mail_again(i, 'the address was changed before it was sent');
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
        IF NOT EXISTS (
            SELECT FROM message AS m
            WHERE m.tenant = given.tenant AND m.idempotency_key = given.idempotency_key
              AND m.template = enqueue.template AND m.channel = given.channel AND lower(m.recipient) = lower(given.recipient))
        THEN
            PERFORM refuse('message', '[{"item": 0, "field": "idempotency_key", "problem": "was given for another message"}]', 1);
        END IF;
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

CREATE OR REPLACE FUNCTION mailcrane.prune(at_most integer DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
DECLARE
    n bigint := 0;
    k bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('mailcrane.prune', 0)) THEN
        RETURN 0;
    END IF;
    n := prune_messages(at_most) + prune_events(at_most);
    DELETE FROM recipient_use AS u
    WHERE u.recipient = ANY (ARRAY(
        SELECT o.recipient
        FROM recipient_use AS o
        WHERE o.last_at < now() - interval '1 day'
        ORDER BY o.last_at
        LIMIT at_most
        FOR UPDATE SKIP LOCKED));  -- whoever counts one waits for nobody but others who count
    GET DIAGNOSTICS k = ROW_COUNT;
    n := n + k;
    DELETE FROM bounce AS b
    WHERE b.id = ANY (ARRAY(
        SELECT o.id
        FROM bounce AS o
        WHERE o.id < uuid_v7_floor(now() - (SELECT r.keep FROM retention AS r WHERE r.what = 'bounce'))
        ORDER BY o.id
        LIMIT at_most));
    GET DIAGNOSTICS k = ROW_COUNT;
    n := n + k;
    DELETE FROM quota_use AS u WHERE u.day < current_date - 2;
    GET DIAGNOSTICS k = ROW_COUNT;
    RETURN n + k;
END
$$;

-- squawk-ignore ban-drop-table
DROP TABLE mailcrane.moved;
DROP FUNCTION mailcrane.recipient_limit(text, text, integer);

COMMENT ON TABLE mailcrane.recipient_use IS 'When an address was mailed invitations within a day, whoever invited: what counts for the quota of the recipient. An address is a hash here.';
COMMENT ON COLUMN mailcrane.recipient_use.recipient IS 'See mailcrane.recipient_key.';
COMMENT ON COLUMN mailcrane.recipient_use.granted IS 'How many of the last call for several were within the quota.';
COMMENT ON FUNCTION mailcrane.recipient_key(text) IS 'What stands for an address in mailcrane.recipient_use.';
COMMENT ON FUNCTION mailcrane.recipient_quota(text) IS 'How many invitations of anybody an address may get a day from a tenant, or NULL.';
COMMENT ON FUNCTION mailcrane.within_a_day(timestamptz[]) IS 'Those of several times that are not a day ago yet.';
COMMENT ON FUNCTION mailcrane.count_recipient(text, text) IS 'Counts one invitation to an address and gives NULL; or says why it must not be mailed one more today.';
COMMENT ON FUNCTION mailcrane.require_room(text, text) IS 'count_recipient, or SQLSTATE 53400: the address must not be mailed one more invitation today.';
COMMENT ON FUNCTION mailcrane.limit_recipients(mailcrane.invitation_item[], text) IS 'Counts the recipients of several new invitations, and suppresses those whose addresses were invited too often today.';
COMMENT ON FUNCTION mailcrane.require_own_keys(mailcrane.invitation_item[], text) IS 'SQLSTATE 22023: an idempotency_key was given for another invitation.';

INSERT INTO mailcrane.migration (version) VALUES (40);
