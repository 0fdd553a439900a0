-- Thresholds of quotas that usage has reached. The key is what makes each of them once a period.
CREATE TABLE threshold_events (
    customer_id text COLLATE "C" NOT NULL,
    quota text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    period_start timestamptz NOT NULL,
    percent smallint NOT NULL CHECK (percent BETWEEN 1 AND 100),
    used numeric(40, 0) NOT NULL CHECK (used >= 0),
    quota_limit numeric(40, 0) NOT NULL CHECK (quota_limit >= 0),
    event_number bigint GENERATED ALWAYS AS IDENTITY,
    reached_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, quota, subject, period_start, percent)
);
CREATE INDEX threshold_events_listed ON threshold_events (customer_id, event_number);
