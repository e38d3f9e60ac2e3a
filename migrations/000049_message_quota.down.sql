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
    IF given.job_id IS NOT NULL THEN
        PERFORM write_jobs(ARRAY[ROW (given.job_id, given.id, coalesce(enqueue.priority, 2), enqueue.send_after)::delivery]);
    END IF;
    message_id := given.id;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.take_quota(tenant text, inviter_ids text[]) RETURNS void
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

DROP FUNCTION mailcrane.take_message_quota(text);
DROP FUNCTION mailcrane.spend_quota(text, text, text, bigint, integer);

DELETE FROM mailcrane.quota WHERE kind = 'message';
DELETE FROM mailcrane.quota_use WHERE kind = 'message';
ALTER TABLE mailcrane.quota DROP CONSTRAINT quota_kind_check;
ALTER TABLE mailcrane.quota ADD CONSTRAINT quota_kind_check CHECK (kind IN ('tenant', 'inviter', 'recipient'));

COMMENT ON TABLE mailcrane.quota IS 'One row is how many people can be invited a day: by a tenant, by each of its inviters, or to the same address whoever invites; * stands for all tenants, and their own row counts first. No row: no limit.';
COMMENT ON COLUMN mailcrane.quota.kind IS 'tenant and inviter: more are refused, SQLSTATE 53400 · recipient: more are recorded, and not mailed.';
COMMENT ON TABLE mailcrane.quota_use IS 'How much of its quota a tenant or an inviter has used on a day (UTC).';

DELETE FROM mailcrane.migration WHERE version = 49;
