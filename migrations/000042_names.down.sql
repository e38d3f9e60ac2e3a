CREATE OR REPLACE FUNCTION mailcrane.invitation_items(invitations jsonb)
RETURNS TABLE (
    n bigint, item jsonb, group_id text, group_name text, email text, inviter_id text, inviter_name text,
    link text, locale text, data jsonb, send_after text, expires_in text, priority text, idempotency_key text
)
LANGUAGE sql STABLE
AS $$
    SELECT raw.n,
           raw.item,
           nullif(btrim(raw.item ->> 'group_id'), ''),
           nullif(btrim(raw.item ->> 'group_name'), ''),
           mailcrane.normalize_address(raw.item ->> 'email'),
           nullif(btrim(raw.item ->> 'inviter_id'), ''),
           nullif(btrim(raw.item ->> 'inviter_name'), ''),
           nullif(btrim(raw.item ->> 'link'), ''),
           coalesce(nullif(btrim(raw.item ->> 'locale'), ''), 'en'),
           coalesce(nullif(raw.item -> 'data', 'null'), '{}'),
           nullif(raw.item ->> 'send_after', ''),
           coalesce(nullif(raw.item ->> 'expires_in', ''), '7 days'),
           coalesce(nullif(raw.item ->> 'priority', ''), '2'),
           nullif(raw.item ->> 'idempotency_key', '')
    FROM jsonb_array_elements(invitations) WITH ORDINALITY AS raw (item, n)
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain_name(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 100
        AND position('  ' IN value) = 0
        AND value ~ '^[wW]?([^:@wW\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+[wW]?)*$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.collapse(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN position('  ' IN value) > 0 THEN regexp_replace(value, ' +', ' ', 'g') ELSE value END
$$;

CREATE OR REPLACE FUNCTION mailcrane.name_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- A name that reads as a link makes an invitation a carrier for spam.
    SELECT coalesce(
        mailcrane.text_problem(value, 100),
        CASE WHEN value ~* '://|\mwww\.' THEN 'has a web address in it'
             WHEN value ~ '[^\s@]@[^\s@]+\.[^\s@]' THEN 'has an e-mail address in it' END)
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain(value text, longest integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= longest
        AND value ~ '^[^\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$'
$$;

CREATE OR REPLACE FUNCTION mailcrane.text_problem(value text, longest integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN char_length(value) > longest THEN format('is longer than %s characters', longest)
        WHEN value ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
            THEN 'has a control, bidirectional or zero-width character'
    END
$$;

COMMENT ON FUNCTION mailcrane.collapse(text) IS 'A text without several blanks beside each other.';
DROP FUNCTION mailcrane.as_in_links(text);

DELETE FROM mailcrane.migration WHERE version = 42;
