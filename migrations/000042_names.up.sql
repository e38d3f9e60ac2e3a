-- Names that look as if they were harmless: web addresses without a scheme or in other
-- characters that programs take for the same, and characters that nobody sees.

CREATE OR REPLACE FUNCTION mailcrane.text_problem(value text, longest integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN char_length(value) > longest THEN format('is longer than %s characters', longest)
        WHEN value ~ '[\u0001-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]'
            THEN 'has a control, bidirectional or invisible character'
    END
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain(value text, longest integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= longest
        AND value ~ '^[^\u0001-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]*$'
$$;

-- What a program that makes links of texts may take a text for: compatible characters
-- are as those that they are compatible with (Unicode NFKC), and the full stop of China
-- and Japan is one (IDNA, RFC 5895 section 2).
CREATE FUNCTION mailcrane.as_in_links(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT translate(normalize(value, NFKC), '。', '.') $$;

-- Of a name with a full stop in it, only what ends in a top-level domain that is in use
-- for more than one company reads as a web address: J. R. R. Tolkien, Node.js and
-- St.Gallen do not, and neither does a B.Sc.
CREATE OR REPLACE FUNCTION mailcrane.name_problem(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- A name that reads as a link makes an invitation a carrier for spam.
    SELECT coalesce(
        mailcrane.text_problem(value, 100),
        CASE WHEN mailcrane.as_in_links(value) ~* '//|\mhttps?:|\mwww\.' THEN 'has a web address in it'
             WHEN mailcrane.as_in_links(value) ~ '[^\s@]@[^\s@]+\.[^\s@]' THEN 'has an e-mail address in it'
             WHEN regexp_replace(mailcrane.as_in_links(value), '\m[bm]\.sc\M', '', 'gi') ~* (
                '[[:alnum:]-]\.('
                'com|net|org|info|biz|edu|gov|pro|name|mobi|xyz|top|shop|online|site|store|app|dev|link|click|live|club|vip|icu|work|email|cloud|'
                'space|website|web|page|tech|fun|win|bid|loan|zip|mov|world|today|agency|company|digital|media|news|blog|chat|casino|xn--[a-z0-9-]+|рф|'
                'a[c-gil-oq-uwxz]|b[abd-jmnorstvwyz]|c[acdf-ik-oruvwxyz]|d[ejkmoz]|e[ceghr-u]|f[ijkmor]|g[abd-ilmnp-uwy]|h[kmnrtu]|i[delmnoq-t]|'
                'j[emop]|k[eghimnprwyz]|l[abcikr-vy]|m[ac-eghk-z]|n[acefgilopruz]|om|p[ae-hkl-nrstwy]|qa|r[eosuw]|s[a-eg-ortuvx-z]|'
                't[cdf-hj-otvwz]|u[agksyz]|v[aceginu]|w[fs]|y[et]|z[amw])(?![[:alnum:]-])')
             THEN 'has a web address in it' END)
$$;

-- Blanks of any kind beside each other count as one, and those at the ends as none.
CREATE OR REPLACE FUNCTION mailcrane.collapse(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN value ~ '^ |  | $|[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]'
        THEN btrim(regexp_replace(value, '[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+', ' ', 'g')) ELSE value END
$$;

-- No colon, slash or at sign, no two w beside each other, and no full stop but before a
-- blank; nor a character that is compatible with one.
CREATE OR REPLACE FUNCTION mailcrane.is_plain_name(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT value IS NULL
        OR octet_length(value) <= 100
        AND value ~ (
            '^[wW]?(([^.:/@wW'
            '\u0001-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u2000-\u206f\u2100-\u2bff\u3000-\u3003\u3164\u3200-\u33ff'
            '\ufe10-\ufe6f\ufeff\uff00-\uffff\U0001d173-\U0001d17a\U0001d400-\U0001d7ff\U0001f100-\U0001f2ff\U000e0000-\U000e007f]+|\.( |$))[wW]?)*$')
$$;

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
           nullif(mailcrane.collapse(raw.item ->> 'group_name'), ''),
           mailcrane.normalize_address(raw.item ->> 'email'),
           nullif(btrim(raw.item ->> 'inviter_id'), ''),
           nullif(mailcrane.collapse(raw.item ->> 'inviter_name'), ''),
           nullif(btrim(raw.item ->> 'link'), ''),
           coalesce(nullif(btrim(raw.item ->> 'locale'), ''), 'en'),
           coalesce(nullif(raw.item -> 'data', 'null'), '{}'),
           nullif(raw.item ->> 'send_after', ''),
           coalesce(nullif(raw.item ->> 'expires_in', ''), '7 days'),
           coalesce(nullif(raw.item ->> 'priority', ''), '2'),
           nullif(raw.item ->> 'idempotency_key', '')
    FROM jsonb_array_elements(invitations) WITH ORDINALITY AS raw (item, n)
$$;


COMMENT ON FUNCTION mailcrane.as_in_links(text) IS 'A text as programs read it that look for links in it.';
COMMENT ON FUNCTION mailcrane.collapse(text) IS 'A text with single blanks, and none at its ends.';

INSERT INTO mailcrane.migration (version) VALUES (42);
