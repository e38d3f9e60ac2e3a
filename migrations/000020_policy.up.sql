-- What to do when nobody can say whether a mail went out, and when to give up:
-- rows, so that all daemons agree and audit() knows the rules too.

CREATE TABLE mailcrane.policy (
    tenant        text NOT NULL DEFAULT '*',
    template      text NOT NULL DEFAULT '*',
    on_unknown    text NOT NULL DEFAULT 'repeat' CHECK (on_unknown IN ('repeat', 'hold')),
    max_unknown   integer NOT NULL DEFAULT 2 CHECK (max_unknown BETWEEN 0 AND 100),
    give_up_after interval NOT NULL DEFAULT '5 days' CHECK (give_up_after > interval '0'),
    PRIMARY KEY (tenant, template)
);

INSERT INTO mailcrane.policy DEFAULT VALUES;

-- The most specific row wins: one for tenant and template, then for the
-- template, then for the tenant, then the one for everything.
CREATE FUNCTION mailcrane.policy_for(tenant text, template text) RETURNS mailcrane.policy
LANGUAGE sql STABLE
AS $$
    SELECT ROW (c.tenant, c.template, c.on_unknown, c.max_unknown, c.give_up_after)::mailcrane.policy
    FROM (
        SELECT 1 AS rank, p.*
        FROM mailcrane.policy AS p
        WHERE p.tenant IN ($1, '*') AND p.template IN ($2, '*')
        UNION ALL
        SELECT 2, '*', '*', 'repeat', 2, interval '5 days'  -- should somebody delete the row for everything
    ) AS c
    ORDER BY c.template <> '*' DESC, c.tenant <> '*' DESC, c.rank
    LIMIT 1
$$;

ALTER TABLE mailcrane.message
    ADD COLUMN forgiven integer NOT NULL DEFAULT 0;

ALTER TABLE mailcrane.message
    ADD COLUMN held_by text;

ALTER TABLE mailcrane.attempt
    ADD COLUMN allowed_unknown integer NOT NULL DEFAULT 2;

COMMENT ON TABLE mailcrane.policy IS 'One row is the rules for a template of a tenant; * stands for all. The most specific row counts.';
COMMENT ON COLUMN mailcrane.policy.on_unknown IS 'repeat: send again, up to max_unknown times · hold: leave it to a human';
COMMENT ON COLUMN mailcrane.policy.max_unknown IS 'How often a message is repeated after an unknown outcome, before it is held.';
COMMENT ON COLUMN mailcrane.policy.give_up_after IS 'Age at which an unsent message fails.';
COMMENT ON FUNCTION mailcrane.policy_for(text, text) IS 'The policy that counts for a template of a tenant.';
COMMENT ON COLUMN mailcrane.message.forgiven IS 'How many unknown outcomes a human has released it from.';
COMMENT ON COLUMN mailcrane.message.held_by IS 'Why it is held: unknown (outcomes), poison (daemons died over it), hold (of its tenant or template), relay (none took it in time).';
COMMENT ON COLUMN mailcrane.attempt.allowed_unknown IS 'How many unknown outcomes the message could have behind it when this attempt was begun.';

INSERT INTO mailcrane.migration (version) VALUES (20);
