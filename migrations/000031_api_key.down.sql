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

DROP FUNCTION mailcrane.tenant_of(text, uuid);
DROP FUNCTION mailcrane.use_api_key(bytea);
DROP FUNCTION mailcrane.revoke_api_key(uuid);
DROP FUNCTION mailcrane.create_api_key(text, text, boolean, text[], timestamptz);
DROP FUNCTION mailcrane.api_key_scopes();
DROP FUNCTION mailcrane.is_test(text);
DROP TABLE mailcrane.api_key;

DELETE FROM mailcrane.migration WHERE version = 31;
