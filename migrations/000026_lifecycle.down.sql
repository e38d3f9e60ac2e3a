DROP FUNCTION mailcrane.expire_invitations(integer);
DROP FUNCTION mailcrane.change_address(uuid, text);
DROP FUNCTION mailcrane.resend(uuid);
DROP FUNCTION mailcrane.require_resendable(mailcrane.invitation, boolean);
DROP FUNCTION mailcrane.mail_again(mailcrane.invitation, text);
DROP FUNCTION mailcrane.revoke(uuid);
DROP FUNCTION mailcrane.decline(text);
DROP FUNCTION mailcrane.accept(text);
DROP FUNCTION mailcrane.require_token(text);
DROP FUNCTION mailcrane.decline_invitation(uuid);
DROP FUNCTION mailcrane.accept_invitation(uuid);
DROP FUNCTION mailcrane.finish_invitation(uuid, text);
DROP FUNCTION mailcrane.cancel_message(uuid);
DROP FUNCTION mailcrane.cancel_messages(uuid[], text);
DROP FUNCTION mailcrane.require_pending(uuid);
DROP FUNCTION mailcrane.verify(text);
DROP FUNCTION mailcrane.token_invitation(text);

DROP INDEX mailcrane.invitation_expires_at;

ALTER TABLE mailcrane.policy DROP CONSTRAINT policy_resend_check;
ALTER TABLE mailcrane.policy DROP COLUMN max_resends;
ALTER TABLE mailcrane.policy DROP COLUMN resend_after;

CREATE OR REPLACE FUNCTION mailcrane.policy_for(tenant text, template text) RETURNS SETOF mailcrane.policy
LANGUAGE sql STABLE
AS $$
    SELECT c.tenant, c.template, c.on_unknown, c.max_unknown, c.give_up_after
    FROM (
        SELECT 1 AS rank, p.tenant, p.template, p.on_unknown, p.max_unknown, p.give_up_after
        FROM mailcrane.policy AS p
        WHERE p.tenant IN ($1, '*') AND p.template IN ($2, '*')
        UNION ALL
        SELECT 2, '*', '*', 'repeat', 2, interval '5 days'  -- should somebody delete the row for everything
    ) AS c
    ORDER BY c.template <> '*' DESC, c.tenant <> '*' DESC, c.rank
    LIMIT 1
$$;

ALTER TABLE mailcrane.invitation DROP COLUMN resends;
ALTER TABLE mailcrane.message DROP COLUMN generation;

DELETE FROM mailcrane.migration WHERE version = 26;
