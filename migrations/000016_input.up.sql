-- What may be written. Each check answers with the problem, or NULL: callers
-- collect all problems of a call and report them together. No check repeats the
-- value: addresses and links do not belong into logs.
--
-- They set no search_path, so that they can be inlined: whoever calls them has.

CREATE FUNCTION mailcrane.text_problem(value text, longest integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN char_length(value) > longest THEN format('is longer than %s characters', longest)
        WHEN value ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
            THEN 'has a control, bidirectional or zero-width character'
    END
$$;

CREATE FUNCTION mailcrane.name_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- A name that reads as a link makes an invitation a carrier for spam.
    SELECT coalesce(
        mailcrane.text_problem(value, 100),
        CASE WHEN value ~* '://|\mwww\.' THEN 'has a web address in it' END)
$$;

-- RFC 5321 section 4.1.2, without quoted strings, address literals and
-- internationalised local parts. A domain may be written in Unicode; the sender
-- converts it (IDNA2008).
CREATE FUNCTION mailcrane.address_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN value IS NULL THEN 'is missing'
        WHEN octet_length(value) > 254 THEN 'is longer than 254 bytes'
        WHEN mailcrane.text_problem(value, 254) IS NOT NULL THEN mailcrane.text_problem(value, 254)
        WHEN value !~ '^[^@]+@[^@]+$' THEN 'is not an address of the form name@example.com'
        WHEN octet_length(split_part(value, '@', 1)) > 64 THEN 'has more than 64 bytes before the @'
        WHEN split_part(value, '@', 1) !~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*$'
            THEN 'has characters before the @ that are not allowed there'
        WHEN split_part(value, '@', 2) !~ (
                '^([^\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007f]'
                '([^\u0001-\u002c\u002e\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007f]{0,61}'
                '[^\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007f])?(\.|$)){2,}$')
            OR right(value, 1) = '.'
            THEN 'has no domain name of at least two labels after the @'
        WHEN value ~ '\.[0-9]+$' THEN 'has a number as its top-level domain'
    END
$$;

-- The case of a domain means nothing, that of a local part may.
CREATE FUNCTION mailcrane.normalize_address(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT nullif(regexp_replace(btrim(value), '@.*$', '') || coalesce(lower(substring(btrim(value) FROM '@.*$')), ''), '')
$$;

CREATE FUNCTION mailcrane.link_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN octet_length(value) > 2048 THEN 'is longer than 2048 bytes'
        WHEN value !~* '^https?://[^\s/?#@]+([/?#][^\s]*)?$' THEN 'is not a web address that begins with https:// or http://'
        ELSE mailcrane.text_problem(value, 2048)
    END
$$;

CREATE FUNCTION mailcrane.locale_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN value !~ '^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}$'
        THEN 'is not a language tag such as en or de-AT' END
$$;

CREATE FUNCTION mailcrane.data_problem(value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN jsonb_typeof(value) NOT IN ('object', 'null') THEN 'is not a JSON object'
        WHEN octet_length(value::text) > 65536 THEN 'is larger than 64 KiB'
    END
$$;

-- Casts that answer NULL instead of an error. PostgreSQL 16 has
-- pg_input_is_valid; this works from 14 on.
CREATE FUNCTION mailcrane.try_timestamptz(value text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN value::timestamptz;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

CREATE FUNCTION mailcrane.try_interval(value text) RETURNS interval
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN value::interval;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

CREATE FUNCTION mailcrane.send_after_problem(value text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN value IS NULL THEN NULL
        WHEN mailcrane.try_timestamptz(value) IS NULL THEN 'is not a time such as 2030-01-31T09:00:00Z'
        WHEN NOT mailcrane.try_timestamptz(value) <= now() + interval '1 year' THEN 'is more than a year ahead'
    END
$$;

CREATE FUNCTION mailcrane.expires_in_problem(value text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN value IS NULL THEN NULL
        WHEN mailcrane.try_interval(value) IS NULL THEN 'is not a duration such as 7 days or P7D'
        WHEN NOT mailcrane.try_interval(value) BETWEEN interval '1 second' AND interval '366 days'
            THEN 'is not between a second and a year'
    END
$$;

CREATE FUNCTION mailcrane.priority_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN value !~ '^[1-4]$' THEN 'is not a whole number from 1 (first) to 4 (last)' END
$$;

CREATE FUNCTION mailcrane.key_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN value IS NULL THEN 'is missing' ELSE mailcrane.text_problem(value, 255) END
$$;

-- refuse raises one error for all problems: [{"item": 0, "field": …, "problem": …}].
CREATE FUNCTION mailcrane.refuse(what text, problems jsonb, items integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('%s%s: %s %s%s',
            what,
            CASE WHEN items > 1 THEN format(' %s of %s', (problems -> 0 ->> 'item')::integer + 1, items) ELSE '' END,
            problems -> 0 ->> 'field',
            problems -> 0 ->> 'problem',
            CASE WHEN jsonb_array_length(problems) > 1
                THEN format(' (and %s more)', jsonb_array_length(problems) - 1) ELSE '' END),
        DETAIL = problems::text,
        HINT = 'Nothing was written. Correct the fields that the detail lists (items count from 0) and call again.';
END
$$;

COMMENT ON FUNCTION mailcrane.address_problem(text) IS 'Why an e-mail address is refused, or NULL if it is fine.';
COMMENT ON FUNCTION mailcrane.normalize_address(text) IS 'An e-mail address as it is stored: trimmed, with its domain in lower case.';
COMMENT ON FUNCTION mailcrane.refuse(text, jsonb, integer) IS 'Raises SQLSTATE 22023 with all problems of a call as JSON in the detail.';

INSERT INTO mailcrane.migration (version) VALUES (16);
