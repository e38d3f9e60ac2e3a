DROP FUNCTION mailcrane.erase(text, text);
DROP INDEX mailcrane.suppression_erased;

CREATE FUNCTION mailcrane.erase(address text) RETURNS TABLE (what text, erased bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given   text := lower(normalize_address(erase.address));
    problem text := address_problem(given);
    instead text := 'erased-' || replace(gen_random_uuid()::text, '-', '') || '@erased.invalid';
    core    text;  -- the address, on its own or in a link
    pattern text;  -- with what must not be beside it: that would be another address
    place   record;
BEGIN
    IF problem IS NOT NULL THEN
        PERFORM refuse('erasure', jsonb_build_array(jsonb_build_object('item', 0, 'field', 'address', 'problem', problem)), 1);
    END IF;

    -- Nothing more is sent.
    UPDATE invitation AS i
    SET status = 'revoked', finished_at = clock_timestamp()
    WHERE lower(i.email) = given AND i.status = 'pending';
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE lower(m.recipient) = given AND m.status IN ('queued', 'held') ORDER BY m.id),
        'the address was erased');

    UPDATE invitation AS i
    SET email = instead, data = '{}', link = NULL, idempotency_key = NULL
    WHERE lower(i.email) = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'invitations';
    RETURN NEXT;
    UPDATE message AS m
    SET recipient = instead, data = '{}', idempotency_key = NULL
    WHERE lower(m.recipient) = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'messages';
    RETURN NEXT;
    DELETE FROM suppression AS s WHERE s.address = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'suppressions';
    RETURN NEXT;
    UPDATE bounce AS b SET address = instead WHERE lower(b.address) = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'bounces';
    RETURN NEXT;

    -- An application may have made keys of it, such as invite-42-ada@example.com.
    -- Nobody needs to read them, so they go as a whole.
    core := replace(replace(regexp_replace(given, '([.*?^$()\[\]{}|\\/])', '\\\1', 'g'), '+', '(?:\+|%2b)'), '@', '(?:@|%40)');
    UPDATE invitation AS i SET idempotency_key = NULL WHERE i.idempotency_key ~* core;
    UPDATE message AS m SET idempotency_key = NULL WHERE m.idempotency_key ~* core;
    DELETE FROM request AS r WHERE r.key ~* core;
    DELETE FROM quota_use AS q WHERE q.key ~* core;

    -- And wherever else somebody has written it. Where an address stands alone it was
    -- compared above: o'brien@example.com is not brien@example.com.
    pattern := '(?:(?<![[:alnum:]._+-])|(?<=%[[:xdigit:]]{2}))' || core || '(?![[:alnum:]-]|\.[[:alnum:]])';
    FOR place IN
        SELECT t.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type
        FROM pg_attribute AS a
        JOIN pg_class AS t ON t.oid = a.attrelid AND t.relkind = 'r' AND t.relnamespace = 'mailcrane'::regnamespace
        WHERE a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype, 'json'::regtype, 'text[]'::regtype, 'jsonb[]'::regtype, 'varchar[]'::regtype)
          AND t.relname NOT IN ('migration', 'river_migration')
          AND (t.relname, a.attname) NOT IN (('invitation', 'email'), ('message', 'recipient'), ('suppression', 'address'), ('bounce', 'address'))
        ORDER BY array_position(ARRAY['invitation', 'message', 'attempt', 'instance', 'river_job'], t.relname::text), t.relname, a.attnum
    LOOP
        EXECUTE format(
            'UPDATE mailcrane.%1$I SET %2$I = regexp_replace(%2$I::text, $1, $2, ''gi'')::%3$s WHERE %2$I::text ~* $1',
            place.relname, place.attname, place.type)
        USING pattern, instead;
        GET DIAGNOSTICS erased = ROW_COUNT;
        IF erased > 0 THEN
            what := place.relname || '.' || place.attname;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION mailcrane.erase(text) IS 'Makes this database forget an address: what waits for it is withdrawn, rows about it keep their ids and statuses, and its suppression goes too. Reads all tables. SQLSTATE 22023: not an address.';

DELETE FROM mailcrane.migration WHERE version = 44;
