-- Keys for programs that use the HTTP API on behalf of one tenant, and tenants whose
-- mail is never sent: those whose name ends in ":test".

CREATE TABLE mailcrane.api_key (
    id           uuid PRIMARY KEY,
    tenant       text NOT NULL,
    name         text NOT NULL,
    prefix       text NOT NULL,
    hash         bytea NOT NULL UNIQUE,
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);

CREATE FUNCTION mailcrane.is_test(tenant text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT right(tenant, 5) = ':test' $$;

-- What a key can be allowed to do.
CREATE FUNCTION mailcrane.api_key_scopes() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ARRAY[
        'invitations:read', 'invitations:write', 'messages:read', 'messages:write', 'suppressions:read', 'suppressions:write',
        'bounces:write', 'templates:read', 'events:read', 'webhooks:read', 'webhooks:write', 'keys:read', 'keys:write']
$$;

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

-- That it was used is noted once a minute: many requests with one key must not wait
-- for each other.
CREATE FUNCTION mailcrane.use_api_key(key_hash bytea) RETURNS SETOF mailcrane.api_key
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    k api_key%ROWTYPE;
BEGIN
    SELECT * INTO k
    FROM api_key AS v
    WHERE v.hash = key_hash AND v.revoked_at IS NULL AND coalesce(v.expires_at > clock_timestamp(), true);
    IF k.id IS NULL THEN
        RETURN;
    END IF;
    IF coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true) THEN
        PERFORM FROM api_key AS v WHERE v.id = k.id FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
            UPDATE api_key AS v SET last_used_at = clock_timestamp() WHERE v.id = k.id;
        END IF;
    END IF;
    RETURN NEXT k;
END
$$;

-- Whose something is; NULL if it does not exist.
CREATE FUNCTION mailcrane.tenant_of(kind text, id uuid) RETURNS text
LANGUAGE sql STABLE
SET search_path = mailcrane, pg_temp
AS $$
    SELECT CASE tenant_of.kind
        WHEN 'invitations' THEN (SELECT i.tenant FROM invitation AS i WHERE i.id = tenant_of.id)
        WHEN 'messages' THEN (SELECT m.tenant FROM message AS m WHERE m.id = tenant_of.id)
        WHEN 'keys' THEN (SELECT k.tenant FROM api_key AS k WHERE k.id = tenant_of.id)
    END
$$;

-- Invitations that nobody is mailed do not count.
CREATE OR REPLACE FUNCTION mailcrane.recipient_limit(tenant text, address text, more integer DEFAULT 0) RETURNS text
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
    IF allowed IS NULL OR mailcrane.is_test(recipient_limit.tenant) THEN
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
            WHERE lower(i.email) = lower(address) AND i.created_at > now() - interval '1 day' AND NOT mailcrane.is_test(i.tenant)
            LIMIT allowed) AS recent) < allowed
    THEN
        RETURN NULL;
    END IF;
    RETURN format('invited %s times within a day', allowed);
END
$$;

COMMENT ON TABLE mailcrane.api_key IS 'One row is a key to the HTTP API, for one tenant. Only its hash is here.';
COMMENT ON COLUMN mailcrane.api_key.tenant IS 'What the key can see and write. If it ends in :test, nothing is mailed.';
COMMENT ON COLUMN mailcrane.api_key.prefix IS 'How the key begins, so that people can tell which it is.';
COMMENT ON COLUMN mailcrane.api_key.hash IS 'SHA-256 of the key.';
COMMENT ON COLUMN mailcrane.api_key.scopes IS 'What the key allows: see mailcrane.api_key_scopes().';
COMMENT ON COLUMN mailcrane.api_key.last_used_at IS 'When it was used last, to a minute.';
COMMENT ON FUNCTION mailcrane.is_test(text) IS 'Whether the mail of a tenant is never handed to a relay: its name ends in :test.';
COMMENT ON FUNCTION mailcrane.api_key_scopes() IS 'Everything that a key can be allowed to do.';
COMMENT ON FUNCTION mailcrane.create_api_key(text, text, boolean, text[], timestamptz) IS 'Makes a key and gives it: nobody can look it up afterwards. test: for the tenant whose mail is never sent. scopes: default all but those on keys. A name can have two keys at a time, so that one can take the place of the other. SQLSTATE 22023: bad input.';
COMMENT ON FUNCTION mailcrane.revoke_api_key(uuid) IS 'Makes a key invalid, at once. SQLSTATE P0002: no such key.';
COMMENT ON FUNCTION mailcrane.use_api_key(bytea) IS 'The key with this SHA-256, if it is valid, and notes that it was used.';
COMMENT ON FUNCTION mailcrane.tenant_of(text, uuid) IS 'The tenant of one of the invitations, messages or keys, or NULL.';

INSERT INTO mailcrane.migration (version) VALUES (31);
