-- The business object: somebody was asked to join a group. Mails about it are
-- rows of mailcrane.message.

CREATE TABLE mailcrane.invitation (
    id              uuid PRIMARY KEY DEFAULT mailcrane.uuid_v7(),
    tenant          text NOT NULL DEFAULT 'default',
    group_id        text NOT NULL,
    group_name      text,
    email           text NOT NULL,
    inviter_id      text,
    inviter_name    text,
    link            text,
    locale          text NOT NULL DEFAULT 'en',
    data            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    idempotency_key text,
    generation      integer NOT NULL DEFAULT 1 CHECK (generation > 0),
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'declined', 'revoked', 'expired')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    CHECK ((status = 'pending') = (finished_at IS NULL))
);

-- Two people pressing "invite" at once must give one mail. The index decides,
-- not a look before the insert.
CREATE UNIQUE INDEX invitation_one_pending
    ON mailcrane.invitation (tenant, group_id, lower(email))
    WHERE status = 'pending';

CREATE UNIQUE INDEX invitation_idempotency_key
    ON mailcrane.invitation (tenant, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

COMMENT ON TABLE mailcrane.invitation IS 'One row is a person asked to join a group. At most one is pending per tenant, group and address.';
COMMENT ON COLUMN mailcrane.invitation.tenant IS 'Who owns the row, for applications that serve several customers.';
COMMENT ON COLUMN mailcrane.invitation.group_id IS 'The application''s own id of the group.';
COMMENT ON COLUMN mailcrane.invitation.link IS 'Where to accept, if the application made the link. NULL: the daemon derives one with a token when it sends.';
COMMENT ON COLUMN mailcrane.invitation.generation IS 'Raised to make every link sent so far invalid.';
COMMENT ON COLUMN mailcrane.invitation.data IS 'Values of the application for its own templates.';
COMMENT ON COLUMN mailcrane.invitation.expires_at IS 'A pending invitation cannot be accepted, and is not mailed, after this.';
COMMENT ON COLUMN mailcrane.invitation.finished_at IS 'When it left the status pending.';

INSERT INTO mailcrane.migration (version) VALUES (10);
