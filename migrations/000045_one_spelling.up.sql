-- One address for the two spellings of a domain in Unicode: otherwise who is suppressed,
-- or was mailed enough, is somebody else under the other one.

-- A label in ASCII as it is read (Punycode, RFC 3492 section 6.2); as it is, if it is
-- none, or not the spelling of what it stands for.
CREATE FUNCTION mailcrane.readable_label(label text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
AS $$
DECLARE
    digits text := regexp_replace(substr(label, 5), '^.*-', '');
    done   text := left(substr(label, 5), greatest(length(label) - 5 - length(digits), 0));
    n      bigint := 128;
    bias   bigint := 72;
    i      bigint := 0;
    before bigint;
    weight bigint;
    digit  bigint;
    least  bigint;
    k      bigint := 36;
    place  integer := 0;
BEGIN
    IF label !~ '^xn--[a-z0-9-]{1,59}$' OR digits = '' THEN
        RETURN label;
    END IF;
    WHILE place < length(digits) LOOP
        before := i;
        weight := 1;
        k := 36;
        LOOP
            place := place + 1;
            digit := strpos('abcdefghijklmnopqrstuvwxyz0123456789', substr(digits, place, 1)) - 1;
            i := i + digit * weight;
            least := greatest(1, least(26, k - bias));
            IF place > length(digits) OR i > 100000000 THEN
                RETURN label;
            END IF;
            EXIT WHEN digit < least;
            weight := weight * (36 - least);
            k := k + 36;
        END LOOP;
        bias := (i - before) / CASE WHEN before = 0 THEN 700 ELSE 2 END;
        bias := bias + bias / (length(done) + 1);
        k := 0;
        WHILE bias > 455 LOOP
            bias := bias / 35;
            k := k + 36;
        END LOOP;
        bias := k + 36 * bias / (bias + 38);
        n := n + i / (length(done) + 1);
        i := i % (length(done) + 1);
        IF n > 1114111 OR n BETWEEN 55296 AND 57343 THEN
            RETURN label;
        END IF;
        done := left(done, i::integer) || chr(n::integer) || substr(done, i::integer + 1);
        i := i + 1;
    END LOOP;
    RETURN CASE WHEN done IS NFC NORMALIZED AND lower(done) = done THEN done ELSE label END;
END
$$;

CREATE FUNCTION mailcrane.readable_domain(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    IF octet_length(value) > 255 OR octet_length(value) = length(value) AND position('xn--' IN value) = 0 THEN
        RETURN value;
    END IF;
    RETURN '@' || (
        SELECT string_agg(CASE WHEN l.label LIKE 'xn--%' THEN readable_label(l.label) ELSE normalize(l.label, NFC) END, '.' ORDER BY l.n)
        FROM string_to_table(substr(value, 2), '.') WITH ORDINALITY AS l (label, n));
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.normalize_address(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT nullif(
        regexp_replace(btrim(value), '@.*$', '') || coalesce(mailcrane.readable_domain(lower(substring(btrim(value) FROM '@.*$'))), ''), '')
$$;

CREATE OR REPLACE FUNCTION mailcrane.is_plain_address(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT octet_length(value) <= 64
        AND position('xn--' IN value) = 0
        AND value ~ '^[a-zA-Z0-9_+-]+([.][a-zA-Z0-9_+-]+)*@([a-z0-9]+(-+[a-z0-9]+)*[.])+[a-z]+$'
$$;

COMMENT ON FUNCTION mailcrane.readable_label(text) IS 'A label of a domain that begins with xn-- in the characters that it stands for.';
COMMENT ON FUNCTION mailcrane.readable_domain(text) IS 'What follows the local part of an address, @ included, with labels that begin with xn-- in the characters that they stand for.';

INSERT INTO mailcrane.migration (version) VALUES (45);
