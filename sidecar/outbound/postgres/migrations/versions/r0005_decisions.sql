-- What decisions were made from, for as long as the settings say. A request that was denied and,
-- tried again, allowed has two rows; any other repeat is the same row. customer_id is '' where
-- nobody was identified. The day is that of the decision's request, as in usage_events, so that
-- the table can be partitioned by it.
CREATE TABLE decisions (
    customer_id text COLLATE "C" NOT NULL,
    day date NOT NULL,
    decision_id text COLLATE "C" NOT NULL CHECK (decision_id ~ '^dec_[0-9a-f]{32}$'),
    allowed boolean NOT NULL,
    decided_at timestamptz NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    -- A denial has the seq of the hold before it, so it comes after that.
    unplaced boolean NOT NULL,
    shard integer NOT NULL,
    entry_id text NOT NULL,
    policy_version text NOT NULL,
    code text NOT NULL CHECK (allowed = (code = '')),
    rule text NOT NULL,
    record text NOT NULL CHECK (octet_length(record) <= 16384),
    PRIMARY KEY (customer_id, day, decision_id, allowed)
);
CREATE INDEX decisions_time ON decisions (decided_at, epoch, seq, unplaced, decision_id);
CREATE INDEX decisions_customer ON decisions (customer_id, decided_at);
CREATE INDEX decisions_id ON decisions (decision_id);
