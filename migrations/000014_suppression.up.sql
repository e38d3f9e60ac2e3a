-- Addresses that must not be written to: they bounced, complained or asked.

CREATE TABLE mailcrane.suppression (
    tenant     text NOT NULL DEFAULT 'default',
    address    text NOT NULL CHECK (address = lower(address)),
    reason     text NOT NULL,
    source     text NOT NULL DEFAULT 'operator',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, address)
);

COMMENT ON TABLE mailcrane.suppression IS 'One row is an address that must not be written to. Checked when a message is written and again before it is sent.';
COMMENT ON COLUMN mailcrane.suppression.address IS 'In lower case.';
COMMENT ON COLUMN mailcrane.suppression.source IS 'Who said so: operator, bounce, complaint, …';

INSERT INTO mailcrane.migration (version) VALUES (14);
