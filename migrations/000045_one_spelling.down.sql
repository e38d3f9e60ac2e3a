CREATE OR REPLACE FUNCTION mailcrane.is_plain_address(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT octet_length(value) <= 64
        AND value ~ '^[a-zA-Z0-9_+-]+([.][a-zA-Z0-9_+-]+)*@([a-z0-9]+(-+[a-z0-9]+)*[.])+[a-z]+$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.normalize_address(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT nullif(regexp_replace(btrim(value), '@.*$', '') || coalesce(lower(substring(btrim(value) FROM '@.*$')), ''), '')
$$;

DROP FUNCTION mailcrane.readable_domain(text);
DROP FUNCTION mailcrane.readable_label(text);

DELETE FROM mailcrane.migration WHERE version = 45;
