-- What becomes of an invitation: accepted, declined, revoked, resent, moved to
-- another address, expired. Each in the caller's transaction, so that joining the
-- group and using up the invitation are one commit.
--
-- Everybody locks the invitation first, then its messages, then their jobs.

-- A message's link works as long as the invitation is of its generation.
ALTER TABLE mailcrane.message
    ADD COLUMN generation integer NOT NULL DEFAULT 1;

UPDATE mailcrane.message AS m
SET generation = i.generation
FROM mailcrane.invitation AS i
WHERE i.id = m.invitation_id AND i.generation <> 1;

ALTER TABLE mailcrane.invitation
    ADD COLUMN resends integer NOT NULL DEFAULT 0;

ALTER TABLE mailcrane.policy
    ADD COLUMN resend_after interval NOT NULL DEFAULT '10 minutes';
ALTER TABLE mailcrane.policy
    ADD COLUMN max_resends integer NOT NULL DEFAULT 5;
ALTER TABLE mailcrane.policy
    -- squawk-ignore constraint-missing-not-valid
    ADD CONSTRAINT policy_resend_check CHECK (resend_after >= interval '0' AND max_resends BETWEEN 0 AND 1000);

CREATE OR REPLACE FUNCTION mailcrane.policy_for(tenant text, template text) RETURNS SETOF mailcrane.policy
LANGUAGE sql STABLE
AS $$
    SELECT c.tenant, c.template, c.on_unknown, c.max_unknown, c.give_up_after, c.resend_after, c.max_resends
    FROM (
        SELECT 1 AS rank, p.tenant, p.template, p.on_unknown, p.max_unknown, p.give_up_after, p.resend_after, p.max_resends
        FROM mailcrane.policy AS p
        WHERE p.tenant IN ($1, '*') AND p.template IN ($2, '*')
        UNION ALL
        SELECT 2, '*', '*', 'repeat', 2, interval '5 days', interval '10 minutes', 5  -- should somebody delete the row for everything
    ) AS c
    ORDER BY c.template <> '*' DESC, c.tenant <> '*' DESC, c.rank
    LIMIT 1
$$;

-- Which are due to expire. What is finished is not in it.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX invitation_expires_at ON mailcrane.invitation (expires_at) WHERE status = 'pending';

-- A token is 32 bytes in base64url (RFC 4648 section 5) without padding: the id of
-- the invitation, and 16 bytes that only the daemons can make. NULL: not a token.
CREATE FUNCTION mailcrane.token_invitation(token text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN token ~ '^[A-Za-z0-9_-]{43}$'
        THEN encode(substr(decode(translate(token, '-_', '+/') || '=', 'base64'), 1, 16), 'hex')::uuid END
$$;

-- The invitation that a token is for, if it was mailed and nothing has made it
-- invalid since.
CREATE FUNCTION mailcrane.verify(token text) RETURNS SETOF mailcrane.invitation
LANGUAGE plpgsql STABLE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT i.*
    FROM invitation AS i
    WHERE i.id = token_invitation(verify.token)
      AND EXISTS (
        SELECT
        FROM message AS m
        JOIN attempt AS a ON a.message_id = m.id
        WHERE m.invitation_id = i.id
          AND m.generation = i.generation
          AND a.token_hash = sha256(convert_to(verify.token, 'UTF8')));
END
$$;

-- The pending invitation, locked, or an error that says what it is instead.
CREATE FUNCTION mailcrane.require_pending(invitation_id uuid) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    i invitation%ROWTYPE;
BEGIN
    SELECT * INTO i FROM invitation AS v WHERE v.id = require_pending.invitation_id FOR NO KEY UPDATE;
    IF i.id IS NULL THEN
        RAISE EXCEPTION 'there is no invitation %', require_pending.invitation_id USING ERRCODE = 'P0002';
    END IF;
    IF i.status = 'pending' AND i.expires_at <= clock_timestamp() THEN
        i.status := 'expired';
    END IF;
    IF i.status <> 'pending' THEN
        RAISE EXCEPTION 'the invitation is %', i.status
            USING ERRCODE = '55000', DETAIL = i.status, HINT = 'Nothing was written. Invite again, if that is meant.';
    END IF;
    RETURN i;
END
$$;

-- Withdraws what was not handed to a relay yet, and says whether that was in time
-- for all: stopped, already_sent, or in_flight (a relay may have it, and nobody can
-- say yet).
CREATE FUNCTION mailcrane.cancel_messages(message_ids uuid[], reason text) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    jobs bigint[];
BEGIN
    -- Whoever is about to hand one over has its lock, or will find it cancelled.
    WITH changed AS (
        UPDATE message AS m
        SET status = 'cancelled', reason = cancel_messages.reason, held_by = NULL, finished_at = clock_timestamp()
        WHERE m.id = ANY (message_ids) AND m.status IN ('queued', 'held')
        RETURNING m.job_id
    )
    SELECT array_agg(c.job_id) INTO jobs FROM changed AS c;
    UPDATE river_job AS j
    SET state = 'cancelled', finalized_at = clock_timestamp()
    WHERE j.id = ANY (jobs) AND j.state IN ('available', 'scheduled', 'retryable', 'pending');

    -- A snapshot from before the locks does not show what has happened until then:
    -- whether a worker has got beyond the point of no return.
    RETURN CASE
        WHEN EXISTS (SELECT FROM message AS m WHERE m.id = ANY (message_ids) AND m.status = 'sent') THEN 'already_sent'
        WHEN EXISTS (SELECT FROM attempt AS a WHERE a.message_id = ANY (message_ids) AND coalesce(a.outcome IN ('unknown', 'accepted'), true))
          OR current_setting('transaction_isolation') <> 'read committed'
             AND EXISTS (SELECT FROM river_job AS j WHERE j.id = ANY (jobs) AND j.state = 'running') THEN 'in_flight'
        ELSE 'stopped'
    END;
END
$$;

CREATE FUNCTION mailcrane.cancel_message(message_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM message AS m WHERE m.id = cancel_message.message_id) THEN
        RAISE EXCEPTION 'there is no message %', cancel_message.message_id USING ERRCODE = 'P0002';
    END IF;
    RETURN cancel_messages(ARRAY[cancel_message.message_id], 'cancelled');
END
$$;

CREATE FUNCTION mailcrane.finish_invitation(invitation_id uuid, status text) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    i invitation%ROWTYPE;
BEGIN
    UPDATE invitation AS v
    SET status = finish_invitation.status, finished_at = clock_timestamp()
    WHERE v.id = finish_invitation.invitation_id
    RETURNING v.* INTO i;
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE m.invitation_id = i.id AND m.status IN ('queued', 'held')),
        format('the invitation was %s before the message was sent', finish_invitation.status));
    RETURN i;
END
$$;

CREATE FUNCTION mailcrane.accept_invitation(invitation_id uuid) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_pending(invitation_id);
    RETURN finish_invitation(invitation_id, 'accepted');
END
$$;

CREATE FUNCTION mailcrane.decline_invitation(invitation_id uuid) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    PERFORM require_pending(invitation_id);
    RETURN finish_invitation(invitation_id, 'declined');
END
$$;

-- The id of the invitation that a token is good for, locked. Whoever makes the
-- token invalid has the lock, so it is looked at only then.
CREATE FUNCTION mailcrane.require_token(token text) RETURNS uuid
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    good_for uuid;
BEGIN
    PERFORM FROM invitation AS i WHERE i.id = token_invitation(require_token.token) FOR NO KEY UPDATE;
    SELECT v.id INTO good_for FROM verify(require_token.token) AS v;
    IF good_for IS NULL THEN
        RAISE EXCEPTION 'the token is not valid'
            USING ERRCODE = 'P0002', HINT = 'It is misspelt, or a newer mail has replaced it.';
    END IF;
    RETURN good_for;
END
$$;

CREATE FUNCTION mailcrane.accept(token text) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    RETURN accept_invitation(require_token(token));
END
$$;

CREATE FUNCTION mailcrane.decline(token text) RETURNS mailcrane.invitation
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
BEGIN
    RETURN decline_invitation(require_token(token));
END
$$;

CREATE FUNCTION mailcrane.revoke(invitation_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    found_status text;
BEGIN
    SELECT i.status INTO found_status FROM invitation AS i WHERE i.id = revoke.invitation_id FOR NO KEY UPDATE;
    IF found_status IS DISTINCT FROM 'revoked' THEN
        PERFORM require_pending(invitation_id);
        UPDATE invitation AS i
        SET status = 'revoked', finished_at = clock_timestamp()
        WHERE i.id = revoke.invitation_id;
    END IF;
    RETURN cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE m.invitation_id = revoke.invitation_id),
        'the invitation was revoked before the message was sent');
END
$$;

-- Mails an invitation, as it is now, and makes the links of all mails so far
-- invalid.
CREATE FUNCTION mailcrane.mail_again(i mailcrane.invitation, reason text)
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
    PERFORM cancel_messages(
        ARRAY(SELECT m.id FROM message AS m WHERE m.invitation_id = i.id AND m.status IN ('queued', 'held')), mail_again.reason);
    UPDATE invitation AS v
    SET generation = v.generation + 1, resends = v.resends + 1
    WHERE v.id = i.id;

    SELECT m.priority INTO urgency FROM message AS m WHERE m.invitation_id = i.id ORDER BY m.id DESC LIMIT 1;
    SELECT s.reason INTO suppressed FROM suppression AS s WHERE s.tenant = i.tenant AND s.address = lower(i.email);
    message_id := uuid_v7();
    job_id := CASE WHEN suppressed IS NULL THEN nextval('river_job_id_seq') END;
    INSERT INTO message (
        id, tenant, invitation_id, channel, recipient, template, locale, priority, expires_at, generation,
        status, reason, finished_at, job_id)
    VALUES (message_id, i.tenant, i.id, 'email', i.email, 'invitation', i.locale, coalesce(urgency, 2), i.expires_at, i.generation + 1,
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

-- Fails if the invitation was mailed too often; and, if too lately, says when that
-- will not be so any more.
CREATE FUNCTION mailcrane.require_resendable(i mailcrane.invitation, cools_down boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = mailcrane, pg_temp
AS $$
DECLARE
    p    policy%ROWTYPE;
    wait double precision;
BEGIN
    SELECT * INTO p FROM policy_for(i.tenant, 'invitation');
    IF i.resends >= p.max_resends THEN
        RAISE EXCEPTION 'the invitation was mailed again % times already', i.resends
            USING ERRCODE = '53400', HINT = 'Nothing was written. mailcrane.policy.max_resends is the limit.';
    END IF;
    SELECT ceil(extract(epoch FROM max(greatest(m.created_at, m.send_after)) + p.resend_after - clock_timestamp()))
    INTO wait
    FROM message AS m
    WHERE m.invitation_id = i.id;
    IF cools_down AND wait > 0 THEN
        RAISE EXCEPTION 'the invitation was mailed less than % ago: wait % seconds', p.resend_after, wait
            USING ERRCODE = '53400', HINT = 'Nothing was written. mailcrane.policy.resend_after is the limit.';
    END IF;
END
$$;

CREATE FUNCTION mailcrane.resend(invitation_id uuid)
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

CREATE FUNCTION mailcrane.change_address(invitation_id uuid, email text)
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

CREATE FUNCTION mailcrane.expire_invitations(at_most integer DEFAULT 1000) RETURNS bigint
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

COMMENT ON COLUMN mailcrane.message.generation IS 'Of the invitation when this was written. The link in an older one than the invitation''s is invalid.';
COMMENT ON COLUMN mailcrane.invitation.resends IS 'How often it was mailed again, to the same address or another.';
COMMENT ON COLUMN mailcrane.policy.resend_after IS 'How long after a mail the next one about the same invitation can be asked for.';
COMMENT ON COLUMN mailcrane.policy.max_resends IS 'How often an invitation can be mailed again.';
COMMENT ON FUNCTION mailcrane.policy_for(text, text) IS 'The policy that counts for a template of a tenant.';
COMMENT ON FUNCTION mailcrane.verify(text) IS 'The invitation that a mailed token is for, whatever its status, or no row. Changes nothing.';
COMMENT ON FUNCTION mailcrane.accept(text) IS 'Uses up the invitation that a mailed token is for, in the caller''s transaction, and gives it. SQLSTATE P0002: the token is not valid, 55000: the invitation is not pending; the detail is its status.';
COMMENT ON FUNCTION mailcrane.decline(text) IS 'Like accept, for somebody who says no.';
COMMENT ON FUNCTION mailcrane.accept_invitation(uuid) IS 'Like accept, for an application that passed a link of its own.';
COMMENT ON FUNCTION mailcrane.decline_invitation(uuid) IS 'Like decline, for an application that passed a link of its own.';
COMMENT ON FUNCTION mailcrane.revoke(uuid) IS 'Takes an invitation back and makes its links invalid. stopped: no relay has a mail about it · already_sent · in_flight: a relay may have one. SQLSTATE P0002: no such invitation, 55000: not pending, nor revoked.';
COMMENT ON FUNCTION mailcrane.resend(uuid) IS 'Mails a pending invitation again, with a new link; the links so far become invalid. SQLSTATE P0002: no such invitation, 55000: not pending, 53400: too soon or too often, see mailcrane.policy.';
COMMENT ON FUNCTION mailcrane.change_address(uuid, text) IS 'Like resend, to another address and without the wait. SQLSTATE 22023: not an address, or the same; 23505: one for that address is pending.';
COMMENT ON FUNCTION mailcrane.expire_invitations(integer) IS 'Marks pending invitations as expired whose time is over. Gives their number. The daemon calls it.';
COMMENT ON FUNCTION mailcrane.cancel_message(uuid) IS 'Withdraws a message. stopped: no relay has it · already_sent · in_flight: a relay may have it, and it is not repeated. SQLSTATE P0002: no such message.';
COMMENT ON FUNCTION mailcrane.cancel_messages(uuid[], text) IS 'cancel_message for several at once.';
COMMENT ON FUNCTION mailcrane.finish_invitation(uuid, text) IS 'Ends an invitation that the caller has locked, and withdraws its messages.';
COMMENT ON FUNCTION mailcrane.require_pending(uuid) IS 'Locks a pending invitation and gives it, or fails.';
COMMENT ON FUNCTION mailcrane.require_token(text) IS 'Locks the invitation that a token is for and gives its id, or fails.';
COMMENT ON FUNCTION mailcrane.require_resendable(mailcrane.invitation, boolean) IS 'Fails if an invitation was mailed too often or, unless it need not cool down, too lately.';
COMMENT ON FUNCTION mailcrane.mail_again(mailcrane.invitation, text) IS 'Queues a mail about a pending invitation that the caller has locked; the ones before it are withdrawn, and their links invalid.';
COMMENT ON FUNCTION mailcrane.token_invitation(text) IS 'The id in a token, or NULL if it is none.';

INSERT INTO mailcrane.migration (version) VALUES (26);
