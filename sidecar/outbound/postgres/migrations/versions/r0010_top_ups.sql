-- `looked_at`: since when no worker but the one that set it looks at the rule.
CREATE TABLE top_up_rules (
    customer_id text COLLATE "C" PRIMARY KEY REFERENCES customers,
    threshold_nano bigint NOT NULL CHECK (threshold_nano BETWEEN 0 AND 4000000000000000000),
    amount_nano bigint CHECK (amount_nano BETWEEN 1 AND 4000000000000000000),
    target_nano bigint CHECK (target_nano BETWEEN 1 AND 4000000000000000000),
    looked_at timestamptz NOT NULL DEFAULT '-infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(amount_nano, target_nano) = 1),
    CHECK (target_nano > threshold_nano)
);
CREATE INDEX top_up_rules_looked_at ON top_up_rules (looked_at);

-- Payments that were asked for. No row is deleted: its number names the payment.
CREATE TABLE top_up_attempts (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    number integer NOT NULL CHECK (number > 0),
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 4000000000000000000),
    currency text NOT NULL,
    state text NOT NULL CHECK (state IN ('asked', 'paid', 'given', 'declined')),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    asked_at timestamptz NOT NULL,
    tried_at timestamptz,
    ended_at timestamptz,
    provider_reference text NOT NULL DEFAULT '' CHECK (octet_length(provider_reference) <= 1020),
    PRIMARY KEY (customer_id, number),
    CHECK ((state IN ('given', 'declined')) = (ended_at IS NOT NULL))
);
-- While one has not ended, no other begins.
CREATE UNIQUE INDEX top_up_attempts_open ON top_up_attempts (customer_id) WHERE ended_at IS NULL;
