CREATE OR REPLACE FUNCTION mailcrane.erase(address text, instead text DEFAULT NULL) RETURNS TABLE (what text, erased bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given   text := lower(normalize_address(erase.address));
    problem text := address_problem(given);
    field   text := 'address';
    other   text := coalesce(erase.instead, 'erased-' || replace(gen_random_uuid()::text, '-', '') || '@erased.invalid');
    core    text;  -- the address, on its own or in a link
    pattern text;  -- with what must not be beside it: that would be another address
    place   record;
BEGIN
    IF problem IS NULL AND other !~ '^erased-[0-9a-f]{32}@erased[.]invalid$' THEN
        problem := 'is not of the form erased-(32 hexadecimal digits)@erased.invalid';
        field := 'instead';
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM refuse('erasure', jsonb_build_array(jsonb_build_object('item', 0, 'field', field, 'problem', problem)), 1);
    END IF;

    -- Nothing more is sent.
    UPDATE invitation AS i
    SET status = 'revoked', finished_at = clock_timestamp()
    WHERE lower(i.email) = given AND i.status = 'pending';
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE lower(m.recipient) = given AND m.status IN ('queued', 'held') ORDER BY m.id),
        'the address was erased');

    UPDATE invitation AS i
    SET email = other, data = '{}', link = NULL, idempotency_key = NULL
    WHERE lower(i.email) = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'invitations';
    RETURN NEXT;
    UPDATE message AS m
    SET recipient = other, data = '{}', idempotency_key = NULL
    WHERE lower(m.recipient) = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'messages';
    RETURN NEXT;
    IF erase.instead IS NOT NULL THEN  -- who can make it of the address again finds that it is suppressed
        INSERT INTO suppression (tenant, address, reason, source, created_at)
        SELECT s.tenant, other, 'erased, and suppressed before', s.source, s.created_at
        FROM suppression AS s
        WHERE s.address = given
        ORDER BY s.tenant
        ON CONFLICT DO NOTHING;
    END IF;
    DELETE FROM suppression AS s WHERE s.address = given;
    GET DIAGNOSTICS erased = ROW_COUNT;
    what := 'suppressions';
    RETURN NEXT;
    UPDATE bounce AS b SET address = other WHERE lower(b.address) = given;
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
    DELETE FROM recipient_use AS u WHERE u.recipient = recipient_key(given);

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
        USING pattern, other;
        GET DIAGNOSTICS erased = ROW_COUNT;
        IF erased > 0 THEN
            what := place.relname || '.' || place.attname;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.mails_to(address text, tenant text DEFAULT NULL) RETURNS SETOF mailcrane.message
LANGUAGE sql STABLE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
SET jit = 'off'
AS $$
    SELECT m.*
    FROM (
        SELECT o.*
        FROM invitation AS i
        JOIN message AS o ON o.invitation_id = i.id
        WHERE lower(i.email) = lower(mails_to.address)
        UNION ALL
        (SELECT s.*
         FROM message AS s
         WHERE s.invitation_id IS NULL AND s.channel = 'email' AND lower(s.recipient) = lower(mails_to.address)
         ORDER BY s.id DESC
         LIMIT 1000)  -- some addresses get a mail a minute
    ) AS m
    WHERE m.channel = 'email' AND lower(m.recipient) = lower(mails_to.address)
      AND CASE WHEN mails_to.tenant IS NULL THEN NOT is_test(m.tenant) ELSE m.tenant = mails_to.tenant END
      AND (m.status = 'sent'
        OR EXISTS (
            SELECT FROM attempt AS a
            WHERE a.message_id = m.id AND coalesce(a.outcome, 'unknown') IN ('accepted', 'unknown')))
    ORDER BY m.created_at DESC, m.id DESC
$$;

DROP FUNCTION mailcrane.messages_to(text);
DROP INDEX mailcrane.message_recipient;
CREATE INDEX message_recipient ON mailcrane.message (lower(recipient), id) WHERE invitation_id IS NULL AND channel = 'email';
DROP INDEX mailcrane.message_status;
DROP INDEX mailcrane.invitation_group;
DROP TRIGGER remember_email ON mailcrane.invitation;
DROP FUNCTION mailcrane.remember_email();
ALTER TABLE mailcrane.invitation DROP COLUMN former_emails;

DELETE FROM mailcrane.migration WHERE version = 54;
