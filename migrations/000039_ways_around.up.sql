-- Ways around the rules for those who are mailed, and what was too broad about erasure.

-- One row is an address that was mailed about an invitation which went on to another
-- one since: a hash, and only for the day for which it counts.
CREATE TABLE mailcrane.moved (
    recipient bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT now()
);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX moved_recipient ON mailcrane.moved (recipient);

-- These two set no search_path, as they are parts of statements that way.
CREATE FUNCTION mailcrane.recipient_key(address text) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT hashtextextended('mailcrane.recipient ' || lower(address), 0) $$;

CREATE FUNCTION mailcrane.mailed_within_a_day(i mailcrane.invitation) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (
        SELECT
        FROM mailcrane.message AS m
        WHERE m.invitation_id = i.id AND m.template = 'invitation' AND m.status <> 'suppressed'
          AND m.created_at > now() - interval '1 day' AND lower(m.recipient) = lower(i.email))
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
    PERFORM pg_advisory_xact_lock(mailcrane.recipient_key(address));
    IF more < allowed
        AND NOT EXISTS (
            SELECT FROM mailcrane.invitation AS i
            WHERE lower(i.email) = lower(address) AND (i.created_at > now() - interval '1 day' OR i.resends > 0))
        AND NOT EXISTS (SELECT FROM mailcrane.moved AS v WHERE v.recipient = mailcrane.recipient_key(address))
    THEN
        RETURN NULL;
    END IF;
    IF more + (
        SELECT count(*)
        FROM (
            SELECT
            FROM mailcrane.invitation AS i
            WHERE lower(i.email) = lower(address) AND (i.created_at > now() - interval '1 day' OR i.resends > 0)
              AND NOT mailcrane.is_test(i.tenant) AND mailcrane.mailed_within_a_day(i)
            UNION ALL
            SELECT
            FROM mailcrane.moved AS v
            WHERE v.recipient = mailcrane.recipient_key(address) AND v.at > now() - interval '1 day'
            LIMIT allowed) AS recent) < allowed
    THEN
        RETURN NULL;
    END IF;
    RETURN format('invited %s times within a day', allowed);
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
            OR EXISTS (
                SELECT FROM mailcrane.invitation AS i
                WHERE lower(i.email) = lower(x.email) AND (i.created_at > now() - interval '1 day' OR i.resends > 0))
            OR EXISTS (SELECT FROM mailcrane.moved AS v WHERE v.recipient = mailcrane.recipient_key(x.email)))
        ORDER BY mailcrane.recipient_key(x.email), x.n);
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

CREATE FUNCTION mailcrane.require_room(tenant text, address text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    problem text := recipient_limit(require_room.tenant, require_room.address);
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'the address was mailed as many invitations today as it may be'
            USING ERRCODE = '53400', HINT = 'Nothing was written. Wait a day; mailcrane.quota has the limit.';
    END IF;
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
    later      timestamptz;
    suppressed text;
    job_id     bigint;
BEGIN
    SELECT m.priority, CASE WHEN m.send_after > now() THEN m.send_after END
    INTO urgency, later
    FROM message AS m
    WHERE m.invitation_id = i.id
    ORDER BY m.id DESC
    LIMIT 1;
    SELECT s.reason INTO suppressed FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email);
    message_id := uuid_v7();
    job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, send_after, expires_at, generation,
        status, reason, finished_at, job_id)
    VALUES (message_id, i.tenant, i.id, 'email', i.email, write_about.template, i.locale, coalesce(urgency, 2), later, i.expires_at, i.generation,
            CASE WHEN suppressed IS NULL THEN 'queued' ELSE 'suppressed' END,
            suppressed,
            CASE WHEN suppressed IS NOT NULL THEN now() END,
            job_id);
    IF suppressed IS NULL THEN
        PERFORM write_jobs(ARRAY[ROW (job_id, message_id, coalesce(urgency, 2), later)::delivery]);
    END IF;
    result := CASE WHEN suppressed IS NULL THEN 'created' ELSE 'suppressed' END;
    RETURN NEXT;
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
    PERFORM require_room(v.tenant, v.email)  -- before the invitation is locked, as invite does
    FROM invitation AS v
    WHERE v.id = resend.invitation_id AND NOT mailed_within_a_day(v);
    i := require_pending(resend.invitation_id);
    PERFORM require_resendable(i, true);
    IF EXISTS (SELECT FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email)) THEN
        RETURN QUERY SELECT * FROM write_about(i, 'invitation');  -- which is not mailed, so the old link stays good
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM mail_again(i, 'replaced by a newer mail before it was sent');
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
    IF problem IS NULL THEN
        PERFORM require_room(v.tenant, address)  -- before the invitation is locked, as invite does
        FROM invitation AS v
        WHERE v.id = change_address.invitation_id;
    END IF;
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
    -- Whoever was mailed has been mailed, wherever the invitation goes.
    INSERT INTO moved (recipient) SELECT recipient_key(i.email) WHERE NOT is_test(i.tenant) AND mailed_within_a_day(i);
    i.email := address;
    RETURN QUERY SELECT * FROM mail_again(i, 'the address was changed before it was sent');
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
            WHERE m.id = ANY (ARRAY(SELECT d.message_id FROM unnest(deliveries) AS d WHERE NOT several AND d.priority <= 2))
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

CREATE OR REPLACE FUNCTION mailcrane.erase(address text) RETURNS TABLE (what text, erased bigint)
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

CREATE OR REPLACE FUNCTION mailcrane.prune(at_most integer DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET enable_seqscan = 'off'
AS $$
DECLARE
    n bigint := 0;
    k bigint;
BEGIN
    DELETE FROM moved AS v WHERE v.at < now() - interval '1 day';
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

COMMENT ON TABLE mailcrane.moved IS 'Recipients of invitations that were moved to another address within a day, as hashes: they count for the quota of the recipient.';
COMMENT ON FUNCTION mailcrane.recipient_key(text) IS 'What stands for an address where it must not be read: in locks, and in moved.';
COMMENT ON FUNCTION mailcrane.mailed_within_a_day(mailcrane.invitation) IS 'Whether the address that an invitation has was mailed about it, reminders aside.';
COMMENT ON FUNCTION mailcrane.recipient_limit(text, text, integer) IS 'Why an address must not be mailed one more invitation today, or NULL.';
COMMENT ON FUNCTION mailcrane.require_room(text, text) IS 'SQLSTATE 53400: the address must not be mailed one more invitation today.';
COMMENT ON FUNCTION mailcrane.resend(uuid) IS 'Mails a pending invitation again, with a new link; the links so far become invalid, unless the address is suppressed and nothing is mailed. SQLSTATE P0002: no such invitation, 55000: not pending, 53400: too soon or too often, see mailcrane.policy and mailcrane.quota.';
COMMENT ON FUNCTION mailcrane.change_address(uuid, text) IS 'Like resend, to another address and without the wait. SQLSTATE 22023: not an address, or the same; 23505: one for that address is pending; 53400: too often, or the address was mailed enough today.';

INSERT INTO mailcrane.migration (version) VALUES (39);
