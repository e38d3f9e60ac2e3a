CREATE OR REPLACE FUNCTION mailcrane.prune(at_most integer DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
DECLARE
    n bigint := 0;
    k bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('mailcrane.prune', 0)) THEN
        RETURN 0;
    END IF;
    n := prune_messages(at_most) + prune_events(at_most);
    DELETE FROM bounce AS b
    WHERE b.id = ANY (ARRAY(
        SELECT o.id
        FROM bounce AS o
        WHERE o.id < uuid_v7_floor(now() - (SELECT r.keep FROM retention AS r WHERE r.what = 'bounce'))
        ORDER BY o.id
        LIMIT at_most));
    GET DIAGNOSTICS k = ROW_COUNT;
    n := n + k;
    DELETE FROM quota_use AS u WHERE u.day < current_date - 2;
    GET DIAGNOSTICS k = ROW_COUNT;
    RETURN n + k;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.limit_recipients(items mailcrane.invitation_item[], tenant text) RETURNS mailcrane.invitation_item[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    item   mailcrane.invitation_item;
    seen   text[] := '{}';
    doubts bigint[];
    place  bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mailcrane.quota AS q WHERE q.kind = 'recipient' AND q.tenant IN (limit_recipients.tenant, '*')) THEN
        RETURN items;
    END IF;
    doubts := ARRAY(
        SELECT x.n
        FROM (
            SELECT y.n, y.email, y.suppressed, count(*) OVER (PARTITION BY lower(y.email)) AS times
            FROM unnest(items) AS y
        ) AS x
        WHERE x.suppressed IS NULL
          AND (x.times > 1
            OR cardinality(items) <= 100
            OR EXISTS (SELECT FROM mailcrane.invitation AS i WHERE lower(i.email) = lower(x.email) AND i.created_at > now() - interval '1 day'))
        ORDER BY hashtextextended('mailcrane.recipient ' || lower(x.email), 0), x.n);
    FOREACH place IN ARRAY doubts LOOP
        item := items[place];
        item.suppressed := mailcrane.recipient_limit(tenant, item.email, cardinality(array_positions(seen, lower(item.email))));
        IF item.suppressed IS NULL THEN
            seen := seen || lower(item.email);
        ELSE
            item.job_id := NULL;
            items[place] := item;
        END IF;
    END LOOP;
    RETURN items;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.erase(address text) RETURNS TABLE (what text, erased bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given   text := lower(normalize_address(erase.address));
    problem text := address_problem(given);
    instead text := 'erased-' || replace(gen_random_uuid()::text, '-', '') || '@erased.invalid';
    pattern text;
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

    -- And wherever else somebody has written it, on its own or in a link.
    pattern := '(?<![[:alnum:]._+-])'
        || replace(regexp_replace(given, '([.+*?^$()\[\]{}|\\/])', '\\\1', 'g'), '@', '(?:@|%40)')
        || '(?![[:alnum:]-]|\.[[:alnum:]])';
    FOR place IN
        SELECT t.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type
        FROM pg_attribute AS a
        JOIN pg_class AS t ON t.oid = a.attrelid AND t.relkind = 'r' AND t.relnamespace = 'mailcrane'::regnamespace
        WHERE a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype, 'json'::regtype, 'text[]'::regtype, 'jsonb[]'::regtype, 'varchar[]'::regtype)
          AND t.relname NOT IN ('migration', 'river_migration')
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

CREATE OR REPLACE FUNCTION mailcrane.write_jobs(deliveries mailcrane.delivery[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    due     boolean;
    several boolean := cardinality(deliveries) > 1;
    ahead   uuid[] := '{}';
BEGIN
    IF EXISTS (SELECT FROM mailcrane.crowd) THEN
        ahead := ARRAY(
            SELECT m.id
            FROM mailcrane.message AS m
            WHERE m.id = ANY (ARRAY(SELECT d.message_id FROM unnest(deliveries) AS d WHERE NOT several))
              AND NOT EXISTS (SELECT FROM mailcrane.crowd AS c WHERE c.tenant = m.tenant));
    END IF;

    INSERT INTO mailcrane.river_job (id, args, kind, max_attempts, priority, queue, scheduled_at, state, tags)
    SELECT d.job_id,
           jsonb_build_object('message_id', d.message_id),
           'deliver',
           32767,  -- the ceiling: when to give up is decided by the message, not by the queue
           CASE WHEN d.message_id = ANY (ahead) THEN 1 WHEN several AND d.priority = 2 THEN 3 ELSE d.priority END,
           'default',
           CASE WHEN d.message_id = ANY (ahead) AND coalesce(d.send_after <= now(), true) THEN now() - interval '1 year'
                ELSE greatest(d.send_after, now()) END,
           CASE WHEN d.send_after > now() THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
           '{}'
    FROM unnest(deliveries) AS d;

    due := cardinality(deliveries) > 0 AND coalesce((deliveries[1]).send_after <= now(), true);
    IF NOT due THEN
        due := EXISTS (SELECT FROM unnest(deliveries) AS d WHERE d.send_after <= now() OR d.send_after IS NULL);
    END IF;

    -- NOTIFY holds a lock over the whole server until the commit is flushed, so
    -- at most one writer at a time takes the trouble; the relay's poll finds the
    -- jobs of the others.
    IF due AND pg_try_advisory_xact_lock(hashtextextended('mailcrane.river_insert', 0)) THEN
        PERFORM pg_notify('mailcrane.river_insert', '{"queue": "default"}');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.change_address(invitation_id uuid, email text)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    i       invitation%ROWTYPE;
    address text := normalize_address(change_address.email);
    problem text := address_problem(address);
BEGIN
    i := require_pending(change_address.invitation_id);
    IF problem IS NULL AND lower(address) = lower(i.email) THEN
        problem := 'is the address that it has';
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM refuse('invitation', jsonb_build_array(jsonb_build_object('item', 0, 'field', 'email', 'problem', problem)), 1);
    END IF;
    PERFORM require_resendable(i, false);
    UPDATE invitation AS v
    SET status = 'expired', finished_at = clock_timestamp()
    WHERE v.tenant = i.tenant AND v.group_id = i.group_id AND lower(v.email) = lower(address)
      AND v.status = 'pending' AND v.expires_at <= clock_timestamp();
    BEGIN
        UPDATE invitation AS v SET email = address WHERE v.id = i.id;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'there is a pending invitation of this address to the group already'
            USING ERRCODE = 'unique_violation', HINT = 'Nothing was written. Revoke one of the two.';
    END;
    i.email := address;
    RETURN QUERY SELECT * FROM mail_again(i, 'the address was changed before it was sent');
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.resend(invitation_id uuid)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    i invitation%ROWTYPE;
BEGIN
    i := require_pending(resend.invitation_id);
    PERFORM require_resendable(i, true);
    RETURN QUERY SELECT * FROM mail_again(i, 'replaced by a newer mail before it was sent');
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.write_about(i mailcrane.invitation, template text)
RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    urgency    smallint;
    suppressed text;
    job_id     bigint;
BEGIN
    SELECT m.priority INTO urgency FROM message AS m WHERE m.invitation_id = i.id ORDER BY m.id DESC LIMIT 1;
    SELECT s.reason INTO suppressed FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email);
    message_id := uuid_v7();
    job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, expires_at, generation,
        status, reason, finished_at, job_id)
    VALUES (message_id, i.tenant, i.id, 'email', i.email, write_about.template, i.locale, coalesce(urgency, 2), i.expires_at, i.generation,
            CASE WHEN suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
            suppressed,
            CASE WHEN suppressed IS NOT NULL THEN now() END,
            job_id);
    IF suppressed IS NULL THEN
        PERFORM write_jobs(ARRAY[ROW (job_id, message_id, coalesce(urgency, 2), NULL)::delivery]);
    END IF;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
END
$$;

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

COMMENT ON FUNCTION mailcrane.recipient_limit(text, text, integer) IS 'Why an address must not be invited once more today, or NULL.';
COMMENT ON FUNCTION mailcrane.resend(uuid) IS 'Mails a pending invitation again, with a new link; the links so far become invalid. SQLSTATE P0002: no such invitation, 55000: not pending, 53400: too soon or too often, see mailcrane.policy.';
COMMENT ON FUNCTION mailcrane.change_address(uuid, text) IS 'Like resend, to another address and without the wait. SQLSTATE 22023: not an address, or the same; 23505: one for that address is pending.';

DROP FUNCTION mailcrane.require_room(text, text);
DROP FUNCTION mailcrane.mailed_within_a_day(mailcrane.invitation);
DROP FUNCTION mailcrane.recipient_key(text);
DROP TABLE mailcrane.moved;

DELETE FROM mailcrane.migration WHERE version = 39;
