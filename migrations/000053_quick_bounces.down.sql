CREATE OR REPLACE FUNCTION mailcrane.report_bounces(bounces jsonb, tenant text DEFAULT NULL) RETURNS TABLE (result text, message_id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
SET jit = 'off'
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

DELETE FROM mailcrane.migration WHERE version = 53;
