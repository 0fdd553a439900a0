-- Facts to tell. customer_id is '' where a fact is about the installation. The id is a hash of
-- this ledger's own id, kind, customer and fact, so that two installations which tell one receiver
-- never take each other's notices for repeats. `amounts` are texts: a JSON number may be rounded.
CREATE TABLE notices (
    customer_id text COLLATE "C" NOT NULL,
    notice_id text COLLATE "C" NOT NULL CHECK (notice_id ~ '^ntc_[0-9a-f]{32}$'),
    notice_number bigint GENERATED ALWAYS AS IDENTITY,
    kind text COLLATE "C" NOT NULL CHECK (kind ~ '^[a-z]+[.][a-z_]+$'),
    fact_key text COLLATE "C" NOT NULL CHECK (fact_key <> ''),
    facts jsonb NOT NULL CHECK (jsonb_typeof(facts) = 'object'),
    amounts jsonb NOT NULL CHECK (jsonb_typeof(amounts) = 'object'),
    occurred_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    routed_at timestamptz,
    PRIMARY KEY (customer_id, notice_id),
    UNIQUE (customer_id, kind, fact_key)
);
CREATE INDEX notices_unrouted ON notices (notice_number) WHERE routed_at IS NULL;
CREATE INDEX notices_listed ON notices (notice_number);
-- Not unique, since a unique key of a distributed table begins with the customer.
CREATE INDEX notices_id ON notices (notice_id);

-- One notice on one channel to one addressee: '' for webhook and Slack, else 'customer' or
-- 'operator-' and a hash of the address. No address stands here: it is looked up when it is
-- needed, so that a customer who was erased leaves none behind.
CREATE TABLE notice_deliveries (
    customer_id text COLLATE "C" NOT NULL,
    notice_id text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL CHECK (channel IN ('email', 'webhook', 'slack')),
    target text COLLATE "C" NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz DEFAULT now(),
    lease_owner text,
    lease_until timestamptz,
    last_detail text NOT NULL DEFAULT '' CHECK (octet_length(last_detail) <= 2000),
    finished_at timestamptz,
    PRIMARY KEY (customer_id, notice_id, channel, target),
    FOREIGN KEY (customer_id, notice_id) REFERENCES notices ON DELETE CASCADE,
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL)),
    CHECK ((state = 'pending') = (finished_at IS NULL)),
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);
CREATE INDEX notice_deliveries_due
    ON notice_deliveries (channel, next_attempt_at) WHERE state = 'pending';
CREATE INDEX notice_deliveries_failed
    ON notice_deliveries (customer_id, notice_id) WHERE state = 'failed';

-- How far each source has looked; one worker at a time looks, by a lease.
CREATE TABLE notice_sources (
    source text COLLATE "C" PRIMARY KEY,
    looked_to timestamptz NOT NULL DEFAULT now(),
    all_at timestamptz NOT NULL DEFAULT '-infinity',
    lease_owner text,
    lease_until timestamptz,
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);

-- What was last seen of a customer, so that a crossing is told when it happens and not again.
-- `episode` counts the times that the state was entered; `mark` is what re-arms it.
CREATE TABLE notice_states (
    customer_id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    state text NOT NULL,
    mark text NOT NULL DEFAULT '',
    episode bigint NOT NULL DEFAULT 0 CHECK (episode >= 0),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, source)
);

-- What was ever used of prepaid credit, once an hour, for the pace at which credit is used.
CREATE TABLE credit_samples (
    customer_id text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    sampled_at timestamptz NOT NULL,
    used_nano numeric(40, 0) NOT NULL,
    PRIMARY KEY (customer_id, currency, sampled_at)
);

-- For the sources: rows arrive nearly in the order of these columns, or few rows have them.
CREATE INDEX threshold_events_reached ON threshold_events USING brin (reached_at);
CREATE INDEX standings_updated ON standings (updated_at);
CREATE INDEX standings_until ON standings (until) WHERE until IS NOT NULL;
CREATE INDEX report_windows_unreported
    ON report_windows (finished_at) WHERE state IN ('failed', 'uncertain');
