CREATE OR REPLACE FUNCTION mailcrane.invitation_problems(invitations jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
        SELECT jsonb_agg(jsonb_build_object('item', x.n - 1, 'field', v.field, 'problem', v.problem) ORDER BY x.n)
        FROM mailcrane.invitation_items(invitations) AS x
        CROSS JOIN LATERAL (
            VALUES ('group_id', mailcrane.key_problem(x.group_id)),
                   ('group_name', mailcrane.name_problem(x.group_name)),
                   ('email', mailcrane.address_problem(x.email)),
                   ('inviter_id', mailcrane.text_problem(x.inviter_id, 255)),
                   ('inviter_name', mailcrane.name_problem(x.inviter_name)),
                   ('link', mailcrane.link_problem(x.link)),
                   ('locale', mailcrane.locale_problem(x.locale)),
                   ('data', mailcrane.data_problem(x.data)),
                   ('send_after', mailcrane.send_after_problem(x.send_after)),
                   ('expires_in', mailcrane.expires_in_problem(x.expires_in)),
                   ('priority', mailcrane.priority_problem(x.priority)),
                   ('idempotency_key', mailcrane.text_problem(x.idempotency_key, 255)),
                   ('remind_after', mailcrane.remind_after_problem(x.item -> 'remind_after'))
            UNION ALL
            SELECT given.key, CASE
                       WHEN given.key NOT IN (
                           'group_id', 'group_name', 'email', 'inviter_id', 'inviter_name', 'link', 'locale', 'data',
                           'send_after', 'expires_in', 'priority', 'idempotency_key',
                           'remind_after') THEN 'is not a field of an invitation'
                       WHEN given.key NOT IN ('data', 'remind_after') AND jsonb_typeof(given.value) NOT IN ('string', 'number', 'null')
                           THEN 'is neither text nor a number'
                   END
            FROM jsonb_each(x.item) AS given
        ) AS v (field, problem)
        WHERE v.problem IS NOT NULL);
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.remind_after_problem(value jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    steps interval[];
BEGIN
    IF value IS NULL OR value = 'null' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(value) = 'array' AND jsonb_array_length(value) BETWEEN 1 AND 10
        AND NOT value @? 'strict $[*] ? (@.type() != "string")'
    THEN
        steps := ARRAY(SELECT try_interval(s.step) FROM jsonb_array_elements_text(value) AS s (step));
        IF (SELECT bool_and(s.step BETWEEN coalesce(s.before, interval '0') + interval '1 second' AND interval '366 days')
            FROM (SELECT u.step, lag(u.step) OVER (ORDER BY u.n) AS before FROM unnest(steps) WITH ORDINALITY AS u (step, n)) AS s)
           AND array_position(steps, NULL) IS NULL
        THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN 'is not a list of one to ten durations, such as ["2 days", "5 days"], each longer than the one before';
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.send_reminders(at_most integer DEFAULT 100) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    i invitation%ROWTYPE;
    n bigint := 0;
BEGIN
    FOR i IN
        SELECT *
        FROM invitation AS v
        WHERE v.status = 'pending' AND v.remind_at IS NOT NULL AND v.remind_at <= clock_timestamp()
        ORDER BY v.remind_at
        LIMIT at_most
        FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        n := n + 1;
        UPDATE invitation AS v
        SET remind_at = v.remind_at + (v.remind_after[v.reminders + 2] - v.remind_after[v.reminders + 1]),
            reminders = v.reminders + 1
        WHERE v.id = i.id;
        IF i.expires_at > clock_timestamp()
            AND EXISTS (SELECT FROM message AS m WHERE m.invitation_id = i.id AND m.generation = i.generation AND m.status = 'sent')
        THEN
            PERFORM write_about(i, 'invitation-reminder');
            INSERT INTO event (tenant, type, invitation_id) VALUES (i.tenant, 'invitation.reminded', i.id);
        END IF;
    END LOOP;
    RETURN n;
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
    IF NOT EXISTS (SELECT FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email)) THEN
        PERFORM require_room(i.tenant, i.email);
    END IF;
    RETURN QUERY SELECT * FROM mail_again(i, 'the address was changed before it was sent');
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.expire_lapsed(items mailcrane.invitation_item[], tenant text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    lapsed uuid[];
BEGIN
    lapsed := ARRAY(
        SELECT o.id
        FROM (
            SELECT y.group_id, y.email
            FROM unnest(expire_lapsed.items) AS y
            ORDER BY y.group_id, lower(y.email), y.n
            OFFSET 0
        ) AS x
        CROSS JOIN LATERAL (  -- LIMIT: one look into the index an item, whatever the planner knows of the table
            SELECT i.id
            FROM mailcrane.invitation AS i
            WHERE i.tenant = expire_lapsed.tenant
              AND i.group_id = x.group_id
              AND lower(i.email) = lower(x.email)
              AND i.status = 'pending'
              AND i.expires_at <= now()
            LIMIT 1
            FOR NO KEY UPDATE
        ) AS o);
    IF lapsed = '{}' THEN
        RETURN false;
    END IF;
    UPDATE mailcrane.invitation AS i
    SET status = 'expired', finished_at = now()
    WHERE i.id = ANY (lapsed);  -- pending still, as their rows are locked
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION mailcrane.expire_invitations(at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
SET plan_cache_mode = 'force_generic_plan'
SET enable_seqscan = 'off'
AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE invitation AS i
    SET status = 'expired', finished_at = clock_timestamp()
    WHERE i.id = ANY (ARRAY(
        SELECT v.id
        FROM invitation AS v
        WHERE v.status = 'pending' AND v.expires_at <= clock_timestamp()
        ORDER BY v.expires_at
        LIMIT at_most
        FOR NO KEY UPDATE SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

COMMENT ON COLUMN mailcrane.invitation.remind_after IS 'When to remind, from send_after or the beginning.';
COMMENT ON COLUMN mailcrane.invitation.reminders IS 'How many reminders are behind it.';
DROP FUNCTION mailcrane.expire_locked(uuid[]);

DELETE FROM mailcrane.migration WHERE version = 43;
