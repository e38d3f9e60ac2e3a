CREATE OR REPLACE FUNCTION mailcrane.report_bounces(bounces jsonb, tenant text DEFAULT NULL) RETURNS TABLE (result text, message_id uuid)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    problems jsonb;
    given    record;
    about    message%ROWTYPE;
    whose    text;
    written  uuid;
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
                   nullif(normalize_address(x.item ->> 'address'), '') AS address,
                   x.item ->> 'kind' AS kind,
                   nullif(left(btrim(regexp_replace(x.item ->> 'diagnostic', '[[:cntrl:]\s\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+', ' ', 'g')), 500), '') AS diagnostic,
                   coalesce(nullif(btrim(x.item ->> 'source'), ''), 'operator') AS source,
                   nullif(x.item ->> 'source_id', '') AS source_id,
                   least(coalesce(try_timestamptz(nullif(x.item ->> 'at', '')), now()), now()) AS happened_at
            FROM jsonb_array_elements(bounces) WITH ORDINALITY AS x (item, n)
        ) AS y
        ORDER BY y.n
    LOOP
        about := NULL;
        SELECT m.* INTO about
        FROM message AS m
        WHERE m.id = given.message_id AND (report_bounces.tenant IS NULL OR m.tenant = report_bounces.tenant);
        whose := coalesce(report_bounces.tenant, about.tenant, 'default');
        message_id := about.id;
        IF given.address IS NULL AND about.id IS NULL THEN
            result := 'ignored';  -- about a message that is not here
            RETURN NEXT;
            CONTINUE;
        END IF;
        INSERT INTO bounce AS b (id, tenant, message_id, address, kind, diagnostic, source, source_id, happened_at)
        VALUES (uuid_v7(), whose, about.id, coalesce(given.address, about.recipient), given.kind, given.diagnostic, given.source, given.source_id, given.happened_at)
        ON CONFLICT ON CONSTRAINT bounce_source_id DO NOTHING
        RETURNING b.id INTO written;
        result := CASE WHEN FOUND THEN 'recorded' ELSE 'existing' END;
        IF FOUND THEN
            IF given.kind <> 'soft' THEN
                INSERT INTO suppression (tenant, address, reason, source)
                VALUES (whose, lower(coalesce(given.address, about.recipient)),
                        CASE given.kind WHEN 'hard' THEN 'mail to it bounced' ELSE 'complained about mail to it' END,
                        CASE given.kind WHEN 'hard' THEN 'bounce' ELSE 'complaint' END)
                ON CONFLICT DO NOTHING;
            END IF;
            IF about.id IS NOT NULL THEN
                INSERT INTO event (tenant, type, invitation_id, message_id, detail)
                VALUES (whose, CASE given.kind WHEN 'complaint' THEN 'message.complained' ELSE 'message.bounced' END, about.invitation_id, about.id, given.kind);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION mailcrane.report_bounces(jsonb, text) IS 'Records bounces and complaints, up to 1,000, all or none: an array of objects with kind (hard, soft, complaint), address or message_id or header_message_id, and diagnostic, at, source, source_id. Hard ones and complaints suppress the address. tenant: NULL is that of the message. Gives for each: recorded, existing (reported before), ignored (about a message that is not here). SQLSTATE 22023: the problems are in the detail.';

DROP FUNCTION mailcrane.plain_diagnostic(text);
DROP FUNCTION mailcrane.mails_to(text, text);
DROP INDEX mailcrane.message_recipient;

DELETE FROM mailcrane.migration WHERE version = 41;
