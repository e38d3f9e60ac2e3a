DROP FUNCTION mailcrane.create_api_key(text, text, boolean, text[], timestamptz, uuid);
CREATE FUNCTION mailcrane.create_api_key(
    name       text,
    tenant     text DEFAULT 'default',
    test       boolean DEFAULT false,
    scopes     text[] DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL
) RETURNS TABLE (id uuid, key text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    of_tenant text := create_api_key.tenant || CASE WHEN test AND NOT is_test(create_api_key.tenant) THEN ':test' ELSE '' END;
    allowed   text[] := coalesce(create_api_key.scopes, array_remove(array_remove(api_key_scopes(), 'keys:read'), 'keys:write'));
    problems  jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('item', 0, 'field', v.field, 'problem', v.problem))
    INTO problems
    FROM (VALUES
        ('name', coalesce(CASE WHEN btrim(create_api_key.name) = '' THEN 'is missing' END, key_problem(create_api_key.name), name_problem(create_api_key.name))),
        ('tenant', CASE WHEN create_api_key.tenant = '*' THEN 'is not the name of one tenant' ELSE key_problem(of_tenant) END),
        ('scopes', CASE WHEN cardinality(allowed) = 0 OR array_position(allowed, NULL) IS NOT NULL OR NOT allowed <@ api_key_scopes()
                        THEN 'is not a list of scopes: ' || array_to_string(api_key_scopes(), ', ') END),
        ('expires_at', CASE WHEN create_api_key.expires_at <= clock_timestamp() THEN 'is over already' END)
    ) AS v (field, problem)
    WHERE v.problem IS NOT NULL;
    IF problems IS NOT NULL THEN
        PERFORM refuse('key', problems, 1);
    END IF;

    -- One in use, and the one that takes its place.
    PERFORM pg_advisory_xact_lock(hashtextextended('mailcrane.api_key ' || of_tenant || ' ' || btrim(create_api_key.name), 0));
    IF (SELECT count(*)
        FROM api_key AS k
        WHERE k.tenant = of_tenant AND k.name = btrim(create_api_key.name)
          AND k.revoked_at IS NULL AND coalesce(k.expires_at > clock_timestamp(), true)) >= 2
    THEN
        PERFORM refuse('key', '[{"item": 0, "field": "name", "problem": "has two keys already: revoke one of them"}]', 1);
    END IF;

    -- 32 bytes of which 32 are random: a UUID is from the strong generator of the
    -- server, and has 122 random bits.
    id := uuid_v7();
    key := CASE WHEN is_test(of_tenant) THEN 'mc_test_' ELSE 'mc_live_' END
        || translate(rtrim(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'), '='), '+/', '-_');
    INSERT INTO api_key (id, tenant, name, prefix, hash, scopes, expires_at)
    VALUES (id, of_tenant, btrim(create_api_key.name), left(key, 12), sha256(convert_to(key, 'UTF8')),
            ARRAY(SELECT DISTINCT u.scope FROM unnest(allowed) AS u (scope) ORDER BY 1), create_api_key.expires_at);
    RETURN NEXT;
END
$$;

DROP FUNCTION mailcrane.revoke_api_key(uuid, boolean);
CREATE FUNCTION mailcrane.revoke_api_key(key_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    UPDATE api_key AS k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()) WHERE k.id = key_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no key %', key_id USING ERRCODE = 'P0002';
    END IF;
END
$$;

COMMENT ON FUNCTION mailcrane.create_api_key(text, text, boolean, text[], timestamptz) IS 'Makes a key and gives it: nobody can look it up afterwards. test: for the tenant whose mail is never sent. scopes: default all but those on keys. A name can have two keys at a time, so that one can take the place of the other. SQLSTATE 22023: bad input.';
COMMENT ON FUNCTION mailcrane.revoke_api_key(uuid) IS 'Makes a key invalid, at once. SQLSTATE P0002: no such key.';

ALTER TABLE mailcrane.api_key DROP COLUMN parent_id;

DELETE FROM mailcrane.migration WHERE version = 50;
