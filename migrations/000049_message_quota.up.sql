-- A quota for what is written by mailcrane.enqueue: without one, a key that may write
-- messages is good for as many mails as somebody has time for.

ALTER TABLE mailcrane.quota DROP CONSTRAINT quota_kind_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE mailcrane.quota ADD CONSTRAINT quota_kind_check CHECK (kind IN ('tenant', 'inviter', 'recipient', 'message'));

-- Whoever spends of the same quota at the same moment waits for the caller's transaction.
CREATE FUNCTION mailcrane.spend_quota(kind text, tenant text, key text, n bigint, at_most integer) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    spent bigint;
BEGIN
    INSERT INTO mailcrane.quota_use AS u (kind, tenant, key, day, used)
    VALUES (spend_quota.kind, spend_quota.tenant, spend_quota.key, today, spend_quota.n)
    ON CONFLICT (kind, tenant, key) DO UPDATE
    SET day = today, used = CASE WHEN u.day = today THEN u.used ELSE 0 END + excluded.used
    RETURNING u.used INTO spent;
    IF spent > spend_quota.at_most THEN
        RAISE EXCEPTION '% a day: wait % seconds',
            CASE spend_quota.kind WHEN 'message' THEN format('the tenant may send %s messages', at_most)
                                  ELSE format('the %s may invite %s people', spend_quota.kind, at_most) END,
            ceil(extract(epoch FROM ((today + 1)::timestamp AT TIME ZONE 'UTC') - now()))
            USING ERRCODE = '53400', HINT = 'Nothing was written. mailcrane.quota is the limit; the day is that of UTC.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.take_quota(tenant text, inviter_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
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
        PERFORM mailcrane.spend_quota(spent.kind, take_quota.tenant, spent.key, spent.n, spent.at_most);
    END LOOP;
END
$$;

CREATE FUNCTION mailcrane.take_message_quota(tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    allowed integer := (
        SELECT q.at_most
        FROM mailcrane.quota AS q
        WHERE q.kind = 'message' AND q.tenant IN (take_message_quota.tenant, '*')
        ORDER BY q.tenant = '*'
        LIMIT 1);
BEGIN
    IF allowed IS NOT NULL THEN
        PERFORM mailcrane.spend_quota('message', take_message_quota.tenant, '', 1, allowed);
    END IF;
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
SET jit = 'off'
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
    PERFORM take_message_quota(given.tenant);
    IF given.job_id IS NOT NULL THEN
        PERFORM write_jobs(ARRAY[ROW (given.job_id, given.id, coalesce(enqueue.priority, 2), enqueue.send_after)::delivery]);
    END IF;
    message_id := given.id;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
END
$$;

COMMENT ON TABLE mailcrane.quota IS 'One row is how many people can be invited a day: by a tenant, by each of its inviters, or to the same address whoever invites; or how many other messages a tenant can send. * stands for all tenants, and their own row counts first. No row: no limit.';
COMMENT ON COLUMN mailcrane.quota.kind IS 'tenant, inviter and message: more are refused, SQLSTATE 53400 · recipient: more are recorded, and not mailed.';
COMMENT ON TABLE mailcrane.quota_use IS 'How much of a quota was used on a day (UTC), by a tenant or one of its inviters.';
COMMENT ON FUNCTION mailcrane.spend_quota(text, text, text, bigint, integer) IS 'Counts what a tenant does today, and fails if it is more than it may. SQLSTATE 53400.';
COMMENT ON FUNCTION mailcrane.take_message_quota(text) IS 'Counts a message that is not about an invitation, and fails if the tenant has no more of its quota.';

INSERT INTO mailcrane.migration (version) VALUES (49);
