-- Guards against abuse, in the function that every door leads to, and reminders.

CREATE TABLE mailcrane.quota (
    kind    text NOT NULL CHECK (kind IN ('tenant', 'inviter', 'recipient')),
    tenant  text NOT NULL DEFAULT '*',
    at_most integer NOT NULL CHECK (at_most >= 0),
    PRIMARY KEY (kind, tenant)
);

-- Not everybody who is invited a lot asked for it.
INSERT INTO mailcrane.quota (kind, at_most) VALUES ('recipient', 3);

CREATE TABLE mailcrane.quota_use (
    kind   text NOT NULL,
    tenant text NOT NULL,
    key    text NOT NULL,
    day    date NOT NULL,
    used   integer NOT NULL,
    PRIMARY KEY (kind, tenant, key)
) WITH (fillfactor = 70);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX invitation_email ON mailcrane.invitation (lower(email));

ALTER TABLE mailcrane.invitation ADD COLUMN remind_after interval[];
ALTER TABLE mailcrane.invitation ADD COLUMN remind_at timestamptz;
ALTER TABLE mailcrane.invitation ADD COLUMN reminders integer NOT NULL DEFAULT 0;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX invitation_remind_at ON mailcrane.invitation (remind_at) WHERE status = 'pending' AND remind_at IS NOT NULL;

ALTER TYPE mailcrane.invitation_item ADD ATTRIBUTE remind_after interval[];

CREATE OR REPLACE FUNCTION mailcrane.name_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- A name that reads as a link makes an invitation a carrier for spam.
    SELECT coalesce(
        mailcrane.text_problem(value, 100),
        CASE WHEN value ~* '://|\mwww\.' THEN 'has a web address in it'
             WHEN value ~ '[^\s@]@[^\s@]+\.[^\s@]' THEN 'has an e-mail address in it' END)
$$;

-- Blanks beside each other count as one.
CREATE FUNCTION mailcrane.collapse(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN position('  ' IN value) > 0 THEN regexp_replace(value, ' +', ' ', 'g') ELSE value END
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain_name(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 100
        AND position('  ' IN value) = 0
        AND value ~ '^[wW]?([^:@wW\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+[wW]?)*$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain_template(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT octet_length(value) <= 64 AND value ~ '^[a-z][a-z0-9_-]*$' AND value <> 'invitation' AND value <> 'invitation-reminder'
$$;

CREATE OR REPLACE FUNCTION mailcrane.message_problems(
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
            WHEN template IN ('invitation', 'invitation-reminder') THEN 'is written by mailcrane.invite only' END),
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

CREATE FUNCTION mailcrane.remind_after_problem(value jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    steps interval[];
BEGIN
    IF value IS NULL OR value = 'null' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(value) = 'array' AND jsonb_array_length(value) BETWEEN 1 AND 10
        AND NOT value @? 'strict $[*] ? (@.type() != "string")'
    THEN
        steps := ARRAY(SELECT try_interval(s.step) FROM jsonb_array_elements_text(value) AS s (step));
        IF (SELECT bool_and(s.step BETWEEN coalesce(s.before, interval '0') + interval '1 second' AND interval '366 days')
            FROM (SELECT u.step, lag(u.step) OVER (ORDER BY u.n) AS before FROM unnest(steps) WITH ORDINALITY AS u (step, n)) AS s)
           AND array_position(steps, NULL) IS NULL
        THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN 'is not a list of one to ten durations, such as ["2 days", "5 days"], each longer than the one before';
END
$$;

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
                   ('idempotency_key', mailcrane.text_problem(x.idempotency_key, 255)),
                   ('remind_after', mailcrane.remind_after_problem(x.item -> 'remind_after'))
            UNION ALL
            SELECT given.key, CASE
                       WHEN given.key NOT IN (
                           'group_id', 'group_name', 'email', 'inviter_id', 'inviter_name', 'link', 'locale', 'data',
                           'send_after', 'expires_in', 'priority', 'idempotency_key',
                           'remind_after') THEN 'is not a field of an invitation'
                       WHEN given.key NOT IN ('data', 'remind_after') AND jsonb_typeof(given.value) NOT IN ('string', 'number', 'null')
                           THEN 'is neither text nor a number'
                   END
            FROM jsonb_each(x.item) AS given
        ) AS v (field, problem)
        WHERE v.problem IS NOT NULL);
END
$$;

-- Why an address must not be invited once more today, or NULL. Whoever invites it at
-- the same moment waits for the caller's transaction. more: how many the caller is
-- about to write besides.
--
-- This and the next two set no search_path, as that costs: whoever calls them has.
CREATE FUNCTION mailcrane.recipient_limit(tenant text, address text, more integer DEFAULT 0) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    allowed integer := (
        SELECT q.at_most
        FROM mailcrane.quota AS q
        WHERE q.kind = 'recipient' AND q.tenant IN (recipient_limit.tenant, '*')
        ORDER BY q.tenant = '*'
        LIMIT 1);
BEGIN
    IF allowed IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('mailcrane.recipient ' || lower(address), 0));
    IF more < allowed
        AND NOT EXISTS (
            SELECT FROM mailcrane.invitation AS i
            WHERE lower(i.email) = lower(address) AND i.created_at > now() - interval '1 day')
    THEN
        RETURN NULL;
    END IF;
    IF more + (
        SELECT count(*)
        FROM (
            SELECT
            FROM mailcrane.invitation AS i
            CROSS JOIN LATERAL (
                SELECT FROM mailcrane.message AS m
                WHERE m.invitation_id = i.id AND m.template = 'invitation' AND m.status <> 'suppressed'
                LIMIT 1) AS mailed
            WHERE lower(i.email) = lower(address) AND i.created_at > now() - interval '1 day'
            LIMIT allowed) AS recent) < allowed
    THEN
        RETURN NULL;
    END IF;
    RETURN format('invited %s times within a day', allowed);
END
$$;

-- Suppresses what recipient_limit does not allow. Most addresses were not invited
-- today, which one look into the index shows. Large calls do not lock what is new to
-- them: the table of locks has its limits.
CREATE FUNCTION mailcrane.limit_recipients(items mailcrane.invitation_item[], tenant text) RETURNS mailcrane.invitation_item[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    item   mailcrane.invitation_item;
    seen   text[] := '{}';
    doubts bigint[];
    place  bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mailcrane.quota AS q WHERE q.kind = 'recipient' AND q.tenant IN (limit_recipients.tenant, '*')) THEN
        RETURN items;
    END IF;
    doubts := ARRAY(
        SELECT x.n
        FROM (
            SELECT y.n, y.email, y.suppressed, count(*) OVER (PARTITION BY lower(y.email)) AS times
            FROM unnest(items) AS y
        ) AS x
        WHERE x.suppressed IS NULL
          AND (x.times > 1
            OR cardinality(items) <= 100
            OR EXISTS (SELECT FROM mailcrane.invitation AS i WHERE lower(i.email) = lower(x.email) AND i.created_at > now() - interval '1 day'))
        ORDER BY hashtextextended('mailcrane.recipient ' || lower(x.email), 0), x.n);
    FOREACH place IN ARRAY doubts LOOP
        item := items[place];
        item.suppressed := mailcrane.recipient_limit(tenant, item.email, cardinality(array_positions(seen, lower(item.email))));
        IF item.suppressed IS NULL THEN
            seen := seen || lower(item.email);
        ELSE
            item.job_id := NULL;
            items[place] := item;
        END IF;
    END LOOP;
    RETURN items;
END
$$;

-- Counts new invitations against the quotas of their tenant and of those who invite.
-- Only who has a quota is counted: the counter is a row that all of them wait for.
CREATE FUNCTION mailcrane.take_quota(tenant text, inviter_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    spent record;
BEGIN
    IF NOT EXISTS (SELECT FROM mailcrane.quota AS q WHERE q.kind IN ('tenant', 'inviter') AND q.tenant IN (take_quota.tenant, '*')) THEN
        RETURN;
    END IF;
    FOR spent IN
        SELECT DISTINCT ON (g.kind, g.key) g.kind, g.key, g.n, q.at_most
        FROM (
            SELECT 'tenant' AS kind, '' AS key, cardinality(inviter_ids) AS n
            UNION ALL
            SELECT 'inviter', i.id, count(*) FROM unnest(inviter_ids) AS i (id) WHERE i.id IS NOT NULL GROUP BY i.id
        ) AS g
        JOIN mailcrane.quota AS q ON q.kind = g.kind AND q.tenant IN (take_quota.tenant, '*')
        WHERE g.n > 0
        ORDER BY g.kind, g.key, q.tenant = '*'
    LOOP
        INSERT INTO mailcrane.quota_use AS u (kind, tenant, key, day, used)
        VALUES (spent.kind, take_quota.tenant, spent.key, today, spent.n)
        ON CONFLICT (kind, tenant, key) DO UPDATE
        SET day = today, used = CASE WHEN u.day = today THEN u.used ELSE 0 END + excluded.used
        RETURNING u.used INTO spent.n;
        IF spent.n > spent.at_most THEN
            RAISE EXCEPTION 'the % may invite % people a day: wait % seconds', spent.kind, spent.at_most,
                ceil(extract(epoch FROM ((today + 1)::timestamp AT TIME ZONE 'UTC') - now()))
                USING ERRCODE = '53400', HINT = 'Nothing was written. mailcrane.quota is the limit; the day is that of UTC.';
        END IF;
    END LOOP;
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
               CASE WHEN s.reason IS NULL THEN nextval('river_job_id_seq') END,
               x.remind_after)::invitation_item),
           jsonb_agg(x.item) FILTER (WHERE NOT x.plain),
           bool_or(x.idempotency_key IS NOT NULL)
    INTO items, doubtful, keyed
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

    items := limit_recipients(items, invite_many.tenant);

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
    IF written < given THEN
        fresh := ARRAY(
            SELECT x::invitation_item
            FROM unnest(items) AS x
            CROSS JOIN LATERAL (SELECT FROM invitation AS i WHERE i.id = x.id LIMIT 1) AS i
            ORDER BY x.n);
    END IF;

    PERFORM take_quota(invite_many.tenant, ARRAY(SELECT x.inviter_id FROM unnest(coalesce(fresh, items)) AS x));

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

DROP FUNCTION mailcrane.invite(text, text, text, text, text, text, text, jsonb, timestamptz, interval, integer, text, text);

-- The straight way for one that is as nearly all are: no JSON, no arrays. Whatever
-- else it is, invite_many has the say.
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
        suppressed := recipient_limit(invite.tenant, invite.email);  -- also in the way of others who ask at this moment
        INSERT INTO invitation (
            id, tenant, group_id, group_name, email, inviter_id, inviter_name, link, locale, data, idempotency_key, expires_at)
        VALUES (given.id, invite.tenant, given.group_id, given.group_name, invite.email, given.inviter_id, given.inviter_name,
                given.link, given.locale, given.data, given.idempotency_key, given.expires_at)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            suppressed := coalesce(
                (SELECT s.reason FROM suppression AS s WHERE s.tenant = invite.tenant AND s.address = lower(invite.email)), suppressed);
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

-- Queues a message about a pending invitation that the caller has locked.
CREATE FUNCTION mailcrane.write_about(i mailcrane.invitation, template text)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    urgency    smallint;
    suppressed text;
    job_id     bigint;
BEGIN
    SELECT m.priority INTO urgency FROM message AS m WHERE m.invitation_id = i.id ORDER BY m.id DESC LIMIT 1;
    SELECT s.reason INTO suppressed FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email);
    message_id := uuid_v7();
    job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, expires_at, generation,
        status, reason, finished_at, job_id)
    VALUES (message_id, i.tenant, i.id, 'email', i.email, write_about.template, i.locale, coalesce(urgency, 2), i.expires_at, i.generation,
            CASE WHEN suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
            suppressed,
            CASE WHEN suppressed IS NOT NULL THEN now() END,
            job_id);
    IF suppressed IS NULL THEN
        PERFORM write_jobs(ARRAY[ROW (job_id, message_id, coalesce(urgency, 2), NULL)::delivery]);
    END IF;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.mail_again(i mailcrane.invitation, reason text)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE m.invitation_id = i.id AND m.status IN ('queued', 'held')), mail_again.reason);
    UPDATE invitation AS v
    SET generation = v.generation + 1, resends = v.resends + 1
    WHERE v.id = i.id;

    i.generation := i.generation + 1;
    RETURN QUERY SELECT * FROM write_about(i, 'invitation');
END
$$;

-- Mails reminders about invitations that are pending still, and whose first mail was
-- sent. They have the same link.
CREATE FUNCTION mailcrane.send_reminders(at_most integer DEFAULT 100) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    i invitation%ROWTYPE;
    n bigint := 0;
BEGIN
    FOR i IN
        SELECT *
        FROM invitation AS v
        WHERE v.status = 'pending' AND v.remind_at IS NOT NULL AND v.remind_at <= clock_timestamp()
        ORDER BY v.remind_at
        LIMIT at_most
        FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        n := n + 1;
        UPDATE invitation AS v
        SET remind_at = v.remind_at + (v.remind_after[v.reminders + 2] - v.remind_after[v.reminders + 1]),
            reminders = v.reminders + 1
        WHERE v.id = i.id;
        IF i.expires_at > clock_timestamp()
            AND EXISTS (SELECT FROM message AS m WHERE m.invitation_id = i.id AND m.generation = i.generation AND m.status = 'sent')
        THEN
            PERFORM write_about(i, 'invitation-reminder');
            INSERT INTO event (tenant, type, invitation_id) VALUES (i.tenant, 'invitation.reminded', i.id);
        END IF;
    END LOOP;
    RETURN n;
END
$$;

COMMENT ON TABLE mailcrane.quota IS 'One row is how many people can be invited a day: by a tenant, by each of its inviters, or to the same address whoever invites; * stands for all tenants, and their own row counts first. No row: no limit.';
COMMENT ON COLUMN mailcrane.quota.kind IS 'tenant and inviter: more are refused, SQLSTATE 53400 · recipient: more are recorded, and not mailed.';
COMMENT ON TABLE mailcrane.quota_use IS 'How much of its quota a tenant or an inviter has used on a day (UTC).';
COMMENT ON COLUMN mailcrane.invitation.remind_after IS 'When to remind, from send_after or the beginning.';
COMMENT ON COLUMN mailcrane.invitation.remind_at IS 'When to remind next, unless it is not pending any more.';
COMMENT ON COLUMN mailcrane.invitation.reminders IS 'How many reminders are behind it.';
COMMENT ON COLUMN mailcrane.event.type IS 'invitation.created, .accepted, .declined, .revoked, .expired, .reminded; message.sent, .failed, .held, .suppressed, .cancelled, .queued (again), .deferred, .unknown.';
COMMENT ON FUNCTION mailcrane.invite(text, text, text, text, text, text, text, jsonb, timestamptz, interval, integer, text, text, interval[]) IS
'Invites one person: writes the invitation, its message and its delivery job in the caller''s transaction. result is created, existing (same idempotency key, or one pending for the address: nothing was written) or suppressed (recorded, will not be sent). Bad input raises SQLSTATE 22023.';
COMMENT ON FUNCTION mailcrane.send_reminders(integer) IS 'Queues the reminders that are due. Gives the number of invitations it was for. The daemon calls it.';
COMMENT ON FUNCTION mailcrane.recipient_limit(text, text, integer) IS 'Why an address must not be invited once more today, or NULL.';
COMMENT ON FUNCTION mailcrane.limit_recipients(mailcrane.invitation_item[], text) IS 'Suppresses those of several invitations whose addresses were invited too often today.';
COMMENT ON FUNCTION mailcrane.take_quota(text, text[]) IS 'Counts new invitations, and fails if their tenant or an inviter has no more of its quota.';
COMMENT ON FUNCTION mailcrane.remind_after_problem(jsonb) IS 'Why the times of reminders are refused, or NULL.';
COMMENT ON FUNCTION mailcrane.collapse(text) IS 'A text without several blanks beside each other.';
COMMENT ON FUNCTION mailcrane.write_about(mailcrane.invitation, text) IS 'Queues a message about a pending invitation that the caller has locked.';

INSERT INTO mailcrane.migration (version) VALUES (28);
