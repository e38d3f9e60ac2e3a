-- Requests that are made a second time get the first one's answer. It is written in
-- the transaction of what the request writes.

CREATE TABLE mailcrane.request (
    tenant     text NOT NULL,
    key        text NOT NULL,
    hash       bytea NOT NULL,
    answer     jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, key)
);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX request_created_at ON mailcrane.request (created_at);

CREATE FUNCTION mailcrane.claim_request(key text, hash bytea, tenant text DEFAULT 'default') RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    problem text := key_problem(claim_request.key);
    before  request%ROWTYPE;
BEGIN
    IF problem IS NOT NULL THEN
        PERFORM refuse('request', jsonb_build_array(jsonb_build_object('item', 0, 'field', 'idempotency_key', 'problem', problem)), 1);
    END IF;
    LOOP
        -- Waits for whoever has claimed it and is still at work.
        INSERT INTO request (tenant, key, hash)
        VALUES (claim_request.tenant, claim_request.key, claim_request.hash)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN NULL;
        END IF;
        SELECT * INTO before FROM request AS r WHERE r.tenant = claim_request.tenant AND r.key = claim_request.key;
        EXIT WHEN FOUND;
    END LOOP;
    IF before.hash <> claim_request.hash THEN
        PERFORM refuse('request', '[{"item": 0, "field": "idempotency_key", "problem": "was used for another request"}]', 1);
    END IF;
    RETURN before.answer;
END
$$;

CREATE FUNCTION mailcrane.answer_request(key text, answer jsonb, tenant text DEFAULT 'default') RETURNS void
LANGUAGE sql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
    UPDATE request AS r SET answer = answer_request.answer WHERE r.tenant = answer_request.tenant AND r.key = answer_request.key
$$;

CREATE FUNCTION mailcrane.forget_requests(at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    DELETE FROM request AS r
    WHERE (r.tenant, r.key) IN (
        SELECT o.tenant, o.key
        FROM request AS o
        WHERE o.created_at < now() - interval '25 hours'
        ORDER BY o.created_at
        LIMIT at_most
        FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

COMMENT ON TABLE mailcrane.request IS 'One row is a request over HTTP that came with an Idempotency-Key, and its answer. It is kept for a day.';
COMMENT ON COLUMN mailcrane.request.hash IS 'SHA-256 of what was asked for: the same key with another hash is a mistake.';
COMMENT ON FUNCTION mailcrane.claim_request(text, bytea, text) IS 'Claims a key for a request, in the transaction that carries it out, and waits for another one with the same key. NULL: go on, and end with answer_request. Else the answer that was given. SQLSTATE 22023: not a key, or it was used for another request.';
COMMENT ON FUNCTION mailcrane.answer_request(text, jsonb, text) IS 'Keeps the answer to a request that was claimed in the same transaction.';
COMMENT ON FUNCTION mailcrane.forget_requests(integer) IS 'Deletes requests of more than a day ago. Gives their number. The daemon calls it.';

INSERT INTO mailcrane.migration (version) VALUES (32);
