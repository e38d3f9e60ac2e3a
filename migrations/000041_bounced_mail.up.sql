-- Which mail a bounce is about that says only whose address it is, as those of
-- Postmark do, and which are about none.

-- The mails of invitations are found by the addresses of those.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX message_recipient ON mailcrane.message (lower(recipient), id) WHERE invitation_id IS NULL AND channel = 'email';

CREATE FUNCTION mailcrane.mails_to(address text, tenant text DEFAULT NULL) RETURNS SETOF mailcrane.message
LANGUAGE sql STABLE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
    SELECT m.*
    FROM (
        SELECT o.*
        FROM invitation AS i
        JOIN message AS o ON o.invitation_id = i.id
        WHERE lower(i.email) = lower(mails_to.address)
        UNION ALL
        (SELECT s.*
         FROM message AS s
         WHERE s.invitation_id IS NULL AND s.channel = 'email' AND lower(s.recipient) = lower(mails_to.address)
         ORDER BY s.id DESC
         LIMIT 1000)  -- some addresses get a mail a minute
    ) AS m
    WHERE m.channel = 'email' AND lower(m.recipient) = lower(mails_to.address)
      AND CASE WHEN mails_to.tenant IS NULL THEN NOT is_test(m.tenant) ELSE m.tenant = mails_to.tenant END
      AND (m.status = 'sent'
        OR EXISTS (
            SELECT FROM attempt AS a
            WHERE a.message_id = m.id AND coalesce(a.outcome, 'unknown') IN ('accepted', 'unknown')))
    ORDER BY m.created_at DESC, m.id DESC
$$;

-- Who refuses a mail may quote it, and the token in its link is a password.
CREATE FUNCTION mailcrane.plain_diagnostic(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT nullif(left(btrim(regexp_replace(
        regexp_replace(regexp_replace(value, '=\r?\n', '', 'g'), '[A-Za-z0-9_-]{43,}', '[token]', 'g'),  -- also where quoted-printable has folded it
        '[[:cntrl:]\s\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+', ' ', 'g')), 500), '')
$$;

CREATE OR REPLACE FUNCTION mailcrane.report_bounces(bounces jsonb, tenant text DEFAULT NULL) RETURNS TABLE (result text, message_id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
#variable_conflict use_column
DECLARE
    problems jsonb;
    given    record;
    about    message%ROWTYPE;
    whose    text[];
    before   bounce%ROWTYPE;
BEGIN
    problems := CASE
        WHEN report_bounces.tenant IS NOT NULL AND key_problem(report_bounces.tenant) IS NOT NULL
            THEN jsonb_build_array(jsonb_build_object('item', 0, 'field', 'tenant', 'problem', key_problem(report_bounces.tenant)))
        WHEN jsonb_typeof(bounces) IS DISTINCT FROM 'array' OR bounces @? 'strict $[*] ? (@.type() != "object")'
            THEN '[{"item": 0, "field": "bounces", "problem": "is not an array of JSON objects"}]'
        WHEN jsonb_array_length(bounces) > 1000
            THEN '[{"item": 0, "field": "bounces", "problem": "has more than 1,000 items: pass them in several calls"}]'
    END;
    IF problems IS NULL THEN
        SELECT jsonb_agg(jsonb_build_object('item', x.n - 1, 'field', v.field, 'problem', v.problem) ORDER BY x.n)
        INTO problems
        FROM jsonb_array_elements(bounces) WITH ORDINALITY AS x (item, n)
        CROSS JOIN LATERAL (VALUES
            ('address', CASE WHEN coalesce(x.item ->> 'address', '') <> '' OR bounced_message(x.item) IS NULL
                             THEN address_problem(normalize_address(x.item ->> 'address')) END),
            ('kind', CASE WHEN coalesce(x.item ->> 'kind', '') NOT IN ('hard', 'soft', 'complaint') THEN 'is neither hard, soft nor complaint' END),
            ('source', text_problem(x.item ->> 'source', 100)),
            ('source_id', text_problem(x.item ->> 'source_id', 255)),
            ('at', CASE WHEN coalesce(x.item ->> 'at', '') <> '' AND try_timestamptz(x.item ->> 'at') IS NULL THEN 'is not a time such as 2026-01-31T09:00:00Z' END)
        ) AS v (field, problem)
        WHERE v.problem IS NOT NULL;
    END IF;
    IF problems IS NOT NULL THEN
        PERFORM refuse('bounce', problems, CASE WHEN jsonb_typeof(bounces) = 'array' THEN jsonb_array_length(bounces) ELSE 1 END);
    END IF;

    FOR given IN
        SELECT y.*
        FROM (
            SELECT x.n,
                   bounced_message(x.item) AS message_id,
                   coalesce(nullif(x.item ->> 'message_id', ''), nullif(x.item ->> 'header_message_id', '')) IS NOT NULL AS named,
                   nullif(normalize_address(x.item ->> 'address'), '') AS address,
                   x.item ->> 'kind' AS kind,
                   plain_diagnostic(x.item ->> 'diagnostic') AS diagnostic,
                   coalesce(nullif(btrim(x.item ->> 'source'), ''), 'operator') AS source,
                   nullif(x.item ->> 'source_id', '') AS source_id,
                   least(coalesce(try_timestamptz(nullif(x.item ->> 'at', '')), now()), now()) AS happened_at
            FROM jsonb_array_elements(bounces) WITH ORDINALITY AS x (item, n)
        ) AS y
        ORDER BY y.n
    LOOP
        about := NULL;
        whose := NULL;
        SELECT m.* INTO about
        FROM message AS m
        WHERE m.id = given.message_id AND m.channel = 'email' AND (report_bounces.tenant IS NULL OR m.tenant = report_bounces.tenant);
        IF about.id IS NULL AND given.address IS NULL THEN
            message_id := NULL;
            result := 'ignored';  -- about a message that is not here, or no mail
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF report_bounces.tenant IS NOT NULL OR about.id IS NOT NULL THEN
            whose := ARRAY[coalesce(report_bounces.tenant, about.tenant)];
        ELSE
            whose := ARRAY(SELECT DISTINCT m.tenant FROM mails_to(given.address) AS m ORDER BY m.tenant);
        END IF;
        IF NOT given.named THEN
            SELECT m.* INTO about FROM mails_to(given.address, report_bounces.tenant) AS m LIMIT 1;
        END IF;
        -- The address may have got another mail since it was reported first.
        SELECT b.* INTO before
        FROM bounce AS b
        WHERE b.tenant = ANY (whose || 'default'::text) AND b.source = given.source AND b.source_id = given.source_id
          AND (report_bounces.tenant IS NULL OR b.tenant = report_bounces.tenant)
        LIMIT 1;
        IF FOUND THEN
            message_id := before.message_id;
            result := 'existing';
            RETURN NEXT;
            CONTINUE;
        END IF;
        message_id := about.id;
        INSERT INTO bounce (id, tenant, message_id, address, kind, diagnostic, source, source_id, happened_at)
        VALUES (uuid_v7(), coalesce(about.tenant, whose[1], 'default'), about.id, coalesce(given.address, about.recipient),
                given.kind, given.diagnostic, given.source, given.source_id, given.happened_at)
        ON CONFLICT ON CONSTRAINT bounce_source_id DO NOTHING;
        result := CASE WHEN FOUND THEN 'recorded' ELSE 'existing' END;
        IF FOUND AND given.kind <> 'soft' THEN
            INSERT INTO suppression (tenant, address, reason, source)
            SELECT w.tenant,
                   lower(coalesce(given.address, about.recipient)),
                   CASE given.kind WHEN 'hard' THEN 'mail to it bounced' ELSE 'complained about mail to it' END,
                   CASE given.kind WHEN 'hard' THEN 'bounce' ELSE 'complaint' END
            FROM unnest(CASE WHEN cardinality(whose) > 0 THEN whose ELSE '{default}' END) AS w (tenant)
            ORDER BY w.tenant  -- one order for all callers
            ON CONFLICT DO NOTHING;
        END IF;
        IF result = 'recorded' AND about.id IS NOT NULL THEN
            INSERT INTO event (tenant, type, invitation_id, message_id, detail)
            VALUES (about.tenant, CASE given.kind WHEN 'complaint' THEN 'message.complained' ELSE 'message.bounced' END, about.invitation_id, about.id, given.kind);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION mailcrane.mails_to(text, text) IS 'The mails to an address that a relay has or may have accepted, newest first; of those about no invitation, among the last 1,000. tenant: NULL is all tenants but those of tests.';
COMMENT ON FUNCTION mailcrane.plain_diagnostic(text) IS 'What was said about a mail as one line of at most 500 characters, without anything that looks like a token.';
COMMENT ON FUNCTION mailcrane.report_bounces(jsonb, text) IS 'Records bounces and complaints, up to 1,000, all or none: an array of objects with kind (hard, soft, complaint), address or message_id or header_message_id, and diagnostic, at, source, source_id. One that names no message is about the newest mail to its address. Hard ones and complaints suppress the address. tenant: NULL is that of the message, or all those that have mailed the address. Gives for each: recorded, existing (reported before), ignored (about a message that is not here, or no mail). SQLSTATE 22023: the problems are in the detail.';

INSERT INTO mailcrane.migration (version) VALUES (41);
