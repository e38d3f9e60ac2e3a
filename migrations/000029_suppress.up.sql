-- Addresses that must not be written to, by a function that checks them as all
-- others are checked.

CREATE FUNCTION mailcrane.suppress_many(suppressions jsonb, tenant text DEFAULT 'default') RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    problems jsonb;
    created  bigint;
BEGIN
    problems := CASE
        WHEN key_problem(suppress_many.tenant) IS NOT NULL
            THEN jsonb_build_array(jsonb_build_object('item', 0, 'field', 'tenant', 'problem', key_problem(suppress_many.tenant)))
        WHEN jsonb_typeof(suppressions) IS DISTINCT FROM 'array' OR suppressions @? 'strict $[*] ? (@.type() != "object")'
            THEN '[{"item": 0, "field": "suppressions", "problem": "is not an array of JSON objects"}]'
        WHEN jsonb_array_length(suppressions) > 50000
            THEN '[{"item": 0, "field": "suppressions", "problem": "has more than 50,000 items: pass them in several calls"}]'
    END;
    IF problems IS NULL THEN
        SELECT jsonb_agg(jsonb_build_object('item', p.n - 1, 'field', p.field, 'problem', p.problem) ORDER BY p.n)
        INTO problems
        FROM (
            SELECT x.n, v.field, v.problem
            FROM jsonb_array_elements(suppressions) WITH ORDINALITY AS x (item, n)
            CROSS JOIN LATERAL (VALUES
                ('address', address_problem(normalize_address(x.item ->> 'address'))),
                ('reason', text_problem(x.item ->> 'reason', 500)),
                ('source', text_problem(x.item ->> 'source', 100))
            ) AS v (field, problem)
            WHERE v.problem IS NOT NULL
            ORDER BY x.n
            LIMIT 100
        ) AS p;
    END IF;
    IF problems IS NOT NULL THEN
        PERFORM refuse('suppression', problems, CASE WHEN jsonb_typeof(suppressions) = 'array' THEN jsonb_array_length(suppressions) ELSE 1 END);
    END IF;

    INSERT INTO suppression (tenant, address, reason, source)
    SELECT suppress_many.tenant,
           lower(normalize_address(x.item ->> 'address')),
           coalesce(nullif(btrim(x.item ->> 'reason'), ''), 'not to be written to'),
           coalesce(nullif(btrim(x.item ->> 'source'), ''), 'operator')
    FROM jsonb_array_elements(suppressions) WITH ORDINALITY AS x (item, n)
    ORDER BY lower(normalize_address(x.item ->> 'address')), x.n  -- one order for all callers
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS created = ROW_COUNT;
    RETURN created;
END
$$;

CREATE FUNCTION mailcrane.suppress(address text, reason text DEFAULT NULL, source text DEFAULT NULL, tenant text DEFAULT 'default') RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    RETURN suppress_many(jsonb_build_array(jsonb_build_object(
        'address', suppress.address, 'reason', suppress.reason, 'source', suppress.source)), suppress.tenant) = 1;
END
$$;

CREATE FUNCTION mailcrane.unsuppress(address text, tenant text DEFAULT 'default') RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    DELETE FROM suppression AS s
    WHERE s.tenant = unsuppress.tenant AND s.address = lower(normalize_address(unsuppress.address));
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION mailcrane.suppress(text, text, text, text) IS 'Keeps an address from being written to, from now on. False: it was there already, and stays as it is. SQLSTATE 22023: not an address.';
COMMENT ON FUNCTION mailcrane.suppress_many(jsonb, text) IS 'suppress for up to 50,000 addresses, all or none: an array of objects with address, reason and source. Gives the number of those that are new. SQLSTATE 22023: the first 100 problems are in the detail.';
COMMENT ON FUNCTION mailcrane.unsuppress(text, text) IS 'Lets an address be written to again. False: it was not suppressed. What was suppressed meanwhile stays so.';

INSERT INTO mailcrane.migration (version) VALUES (29);
