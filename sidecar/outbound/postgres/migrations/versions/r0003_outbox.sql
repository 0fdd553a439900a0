-- A window is one UTC hour of one customer's meter. Settlement adds to its open row; sealing
-- freezes the row's quantity; usage that comes later opens the next seq.
CREATE TABLE report_windows (
    customer_id text COLLATE "C" NOT NULL,
    row_id bigint GENERATED ALWAYS AS IDENTITY,
    provider text COLLATE "C" NOT NULL,
    meter text COLLATE "C" NOT NULL,
    window_start timestamptz NOT NULL CHECK (date_trunc('hour', window_start, 'UTC') = window_start),
    seq integer NOT NULL CHECK (seq > 0),
    provider_customer_id text NOT NULL CHECK (provider_customer_id <> ''),
    quantity bigint NOT NULL,
    state text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'pending', 'sent', 'failed', 'uncertain')),
    opened_at timestamptz NOT NULL DEFAULT now(),
    sealed_at timestamptz,
    identifier text COLLATE "C",
    event_at timestamptz,
    http_generation integer NOT NULL DEFAULT 0 CHECK (http_generation >= 0),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    first_attempt_at timestamptz,
    next_attempt_at timestamptz,
    finished_at timestamptz,
    last_detail text NOT NULL DEFAULT '',
    PRIMARY KEY (customer_id, row_id),
    UNIQUE (customer_id, provider, meter, window_start, seq),
    UNIQUE (customer_id, identifier),
    CHECK ((state = 'open') = (sealed_at IS NULL)),
    CHECK ((state = 'open') = (identifier IS NULL)),
    CHECK ((state = 'open') = (event_at IS NULL)),
    CHECK ((attempts = 0) = (first_attempt_at IS NULL)),
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL))
);
CREATE UNIQUE INDEX report_windows_one_open
    ON report_windows (customer_id, provider, meter, window_start) WHERE state = 'open';
CREATE INDEX report_windows_opened ON report_windows (opened_at) WHERE state = 'open';
CREATE INDEX report_windows_due
    ON report_windows (provider, next_attempt_at) WHERE state = 'pending';
CREATE INDEX report_windows_lane
    ON report_windows (customer_id, provider, meter, row_id) WHERE state = 'pending';

-- The right to report one customer's meter. Stripe takes one call at a time for each: the lease
-- stands on this row, so that no two workers can hold it whatever rows they picked.
CREATE TABLE report_lanes (
    customer_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    meter text COLLATE "C" NOT NULL,
    lease_owner text,
    lease_until timestamptz,
    row_id bigint,
    attempt integer,
    PRIMARY KEY (customer_id, provider, meter),
    CHECK (num_nulls(lease_owner, lease_until, row_id, attempt) IN (0, 4))
);
