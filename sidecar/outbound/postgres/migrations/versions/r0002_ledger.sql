-- Names this ledger. Part of every identifier that is sent to a provider, so that two
-- installations which share a provider account never take each other's usage for a repeat.
CREATE TABLE ledger_identity (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO ledger_identity DEFAULT VALUES;

CREATE TABLE shards (
    shard integer PRIMARY KEY CHECK (shard >= 0),
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    stream_offset text NOT NULL DEFAULT '0-0' CHECK (stream_offset ~ '^[0-9]+-[0-9]+$'),
    fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    lease_owner text,
    lease_until timestamptz,
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);

-- No foreign key to customers: settlement reads the customers of a batch once, and the ledger
-- transaction that the batch writes has the key. One check per event would cost more than it.
CREATE TABLE usage_events (
    customer_id text COLLATE "C" NOT NULL,
    day date NOT NULL,
    hold_id text COLLATE "C" NOT NULL CHECK (hold_id ~ '^[0-9a-f]{40}$'),
    kind text COLLATE "C" NOT NULL
        CHECK (kind IN ('capture', 'orphan') OR kind ~ '^correction:[1-9][0-9]{0,5}$'),
    transaction_id text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    entry_id text NOT NULL,
    currency text NOT NULL,
    amount_nano bigint NOT NULL
        CHECK (amount_nano BETWEEN -4000000000000000000 AND 4000000000000000000),
    overage_nano bigint NOT NULL,
    held_nano bigint NOT NULL CHECK (held_nano >= 0),
    prepaid boolean NOT NULL,
    late boolean NOT NULL,
    plan text NOT NULL,
    price_version text NOT NULL,
    model text NOT NULL,
    user_id text NOT NULL,
    credential_id text NOT NULL,
    route text NOT NULL,
    edge text NOT NULL,
    gateway_id text NOT NULL,
    status integer,
    input_tokens bigint CHECK (input_tokens >= 0),
    output_tokens bigint CHECK (output_tokens >= 0),
    cache_read_tokens bigint CHECK (cache_read_tokens >= 0),
    cache_creation_tokens bigint CHECK (cache_creation_tokens >= 0),
    reasoning_tokens bigint CHECK (reasoning_tokens >= 0),
    total_tokens bigint CHECK (total_tokens >= 0),
    duration_ms bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    estimated boolean NOT NULL,
    estimate_reason text NOT NULL,
    client_key text NOT NULL,
    request_id bytea NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    decided_at timestamptz NOT NULL,
    posted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, day, hold_id, kind),
    -- The day is part of the id, so the key stays global when the table is partitioned by day.
    CHECK (day = date '1970-01-01' + (('x' || left(hold_id, 8))::bit(32)::bigint / 86400)::integer),
    CHECK (amount_nano >= 0 OR kind LIKE 'correction:%'),
    CHECK (overage_nano BETWEEN least(0, amount_nano) AND greatest(0, amount_nano)),
    CHECK (prepaid OR overage_nano = 0)
);
CREATE INDEX usage_events_occurred ON usage_events (customer_id, occurred_at);

-- An event's meters. Those of a correction are signed differences, so that sums over a hold are
-- what counts. (window_start, window_seq) names the report window that the quantity was added to.
CREATE TABLE usage_lines (
    customer_id text COLLATE "C" NOT NULL,
    day date NOT NULL,
    hold_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    meter text COLLATE "C" NOT NULL,
    quantity bigint NOT NULL,
    amount_nano bigint NOT NULL,
    window_start timestamptz,
    window_seq integer,
    PRIMARY KEY (customer_id, day, hold_id, kind, meter),
    CHECK ((window_start IS NULL) = (window_seq IS NULL)),
    CHECK (window_start IS NULL OR quantity <> 0)
);

-- Ids that a sender chose. A second hold under the same id is a second charge for one fact.
CREATE TABLE usage_client_keys (
    customer_id text COLLATE "C" NOT NULL,
    client_key text COLLATE "C" NOT NULL CHECK (octet_length(client_key) BETWEEN 1 AND 1024),
    hold_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (customer_id, client_key)
);

CREATE TABLE ledger_transactions (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    transaction_id text COLLATE "C" NOT NULL CHECK (transaction_id <> ''),
    kind text NOT NULL CHECK (kind IN ('usage', 'grant')),
    currency text NOT NULL,
    shard integer NOT NULL,
    first_entry_id text NOT NULL,
    last_entry_id text NOT NULL,
    event_count integer NOT NULL CHECK (event_count > 0),
    posted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, transaction_id)
);

CREATE TABLE ledger_entries (
    customer_id text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL CHECK (account IN
        ('customer_credit', 'customer_overage', 'customer_receivable', 'funding', 'revenue')),
    amount_nano bigint NOT NULL CHECK (amount_nano <> 0
        AND amount_nano BETWEEN -4000000000000000000 AND 4000000000000000000),
    PRIMARY KEY (customer_id, transaction_id, account),
    FOREIGN KEY (customer_id, transaction_id) REFERENCES ledger_transactions
);

-- Each statement must insert balanced transactions: then so is the whole ledger. Over the
-- statement's own rows, because a deferred trigger per row costs a look-up per entry.
CREATE FUNCTION ledger_refuse_unbalanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM inserted GROUP BY customer_id, transaction_id HAVING sum(amount_nano) <> 0
    ) THEN
        RAISE EXCEPTION 'a ledger transaction does not sum to zero'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entries_balanced';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_entries_balanced AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_unbalanced();

-- Append only, even for the owner.
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', CONSTRAINT = 'ledger_append_only';
END $$;
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_transactions_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON ledger_entries, ledger_transactions FROM PUBLIC;

-- Sums of the entries by account, kept in the same transaction. A projection: it can be rebuilt.
CREATE TABLE account_balances (
    customer_id text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    customer_credit_nano numeric(40, 0) NOT NULL,
    customer_overage_nano numeric(40, 0) NOT NULL,
    customer_receivable_nano numeric(40, 0) NOT NULL,
    funding_nano numeric(40, 0) NOT NULL,
    revenue_nano numeric(40, 0) NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, currency),
    CHECK (customer_credit_nano + customer_overage_nano + customer_receivable_nano
        + funding_nano + revenue_nano = 0)
) WITH (fillfactor = 70);

-- What could not be posted, with its numbers, for people. `key` is what repeats share.
CREATE TABLE quarantine (
    shard integer NOT NULL,
    reason text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    entry_id text NOT NULL,
    problem text NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, reason, key)
);
CREATE INDEX quarantine_created ON quarantine (created_at);
