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
    PERFORM expire_locked(ARRAY(
        SELECT v.id
        FROM invitation AS v
        WHERE v.tenant = i.tenant AND v.group_id = i.group_id AND lower(v.email) = lower(address)
          AND v.status = 'pending' AND v.expires_at <= clock_timestamp()
        FOR NO KEY UPDATE));
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
ALTER TABLE mailcrane.invitation DROP COLUMN former_emails;

DELETE FROM mailcrane.migration WHERE version = 54;
