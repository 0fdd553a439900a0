-- A correction is a row of our own making: what a comparison with the provider found to be too much
-- or, by a person's order, too little. Its seq is negative, so that settlement, which counts on from
-- the largest, never meets it. retry_number is the suffix `:rN` of the identifier, tries the attempts
-- under it. `uncounted`: the provider is known not to have counted the row's present identifier.
ALTER TABLE report_windows
    ADD COLUMN kind text NOT NULL DEFAULT 'usage' CHECK (kind IN ('usage', 'correction')),
    ADD COLUMN retry_number integer NOT NULL DEFAULT 0 CHECK (retry_number >= 0),
    ADD COLUMN tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    ADD COLUMN error_code text NOT NULL DEFAULT '' CHECK (octet_length(error_code) <= 100),
    ADD COLUMN uncounted boolean NOT NULL DEFAULT false;
UPDATE report_windows SET tries = attempts WHERE attempts > 0;
ALTER TABLE report_windows DROP CONSTRAINT report_windows_seq_check;
ALTER TABLE report_windows ADD CONSTRAINT report_windows_seq_check
    CHECK (CASE kind WHEN 'usage' THEN seq > 0 ELSE seq < 0 END);
-- "" until the customer's account at the provider is known; nothing is sent before.
ALTER TABLE report_windows DROP CONSTRAINT report_windows_provider_customer_id_check;
CREATE INDEX report_windows_identifier ON report_windows (identifier) WHERE identifier IS NOT NULL;
CREATE UNIQUE INDEX report_windows_number ON report_windows (row_id, customer_id);
CREATE INDEX report_windows_unsent ON report_windows (state, row_id) WHERE state <> 'sent';
CREATE INDEX report_windows_fence ON report_windows (first_attempt_at)
    WHERE state = 'pending';
CREATE INDEX report_windows_homeless ON report_windows (customer_id)
    WHERE provider_customer_id = '';

-- Since when a lane waits for its turn to be compared with the provider.
ALTER TABLE report_lanes ADD COLUMN checked_at timestamptz NOT NULL DEFAULT '-infinity';
CREATE INDEX report_lanes_unchecked ON report_lanes (checked_at);

-- What comparisons of a customer's meter with the provider's own sums last said, by period. A
-- difference counts once two readings, apart in time, say the same: `evidence` is what the first saw.
CREATE TABLE report_reconciliations (
    customer_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    meter text COLLATE "C" NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end > period_start),
    outcome text NOT NULL
        CHECK (outcome IN ('same', 'waiting', 'mended', 'unexplained', 'unreadable')),
    expected numeric NOT NULL,
    found numeric,
    confirmed integer NOT NULL DEFAULT 0 CHECK (confirmed >= 0),
    resent integer NOT NULL DEFAULT 0 CHECK (resent >= 0),
    cancelled integer NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    corrected integer NOT NULL DEFAULT 0 CHECK (corrected >= 0),
    detail text NOT NULL DEFAULT '' CHECK (octet_length(detail) <= 2000),
    evidence text NOT NULL DEFAULT '',
    read_at timestamptz NOT NULL DEFAULT now(),
    acted_at timestamptz,
    PRIMARY KEY (customer_id, provider, meter, period_start)
);
CREATE INDEX report_reconciliations_newest ON report_reconciliations (read_at);

-- Reads that a provider was asked for, by month: Stripe allows so many for each payment.
CREATE TABLE provider_reads (
    provider text COLLATE "C" NOT NULL,
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    PRIMARY KEY (provider, month)
);

-- Customers on their way into a provider's account, and their subscription there. A row is claimed
-- before anything is sent; `key_number` is part of the Idempotency-Key and grows after an answered 5xx.
CREATE TABLE provider_customers (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    provider text COLLATE "C" NOT NULL,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'subscribing', 'done', 'refused', 'ended')),
    provider_customer_id text NOT NULL DEFAULT '' CHECK (octet_length(provider_customer_id) <= 255),
    subscription_id text NOT NULL DEFAULT '' CHECK (octet_length(subscription_id) <= 255),
    key_number integer NOT NULL DEFAULT 0 CHECK (key_number >= 0),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    first_attempt_at timestamptz,
    next_attempt_at timestamptz,
    reason text NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 1000),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, provider),
    CHECK ((attempts = 0) = (first_attempt_at IS NULL)),
    CHECK ((state IN ('waiting', 'subscribing')) = (next_attempt_at IS NOT NULL))
);
CREATE INDEX provider_customers_due ON provider_customers (provider, next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;
CREATE INDEX customers_unmapped ON customers (customer_id) WHERE stripe_customer_id IS NULL;
