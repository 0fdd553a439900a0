-- One chain per shard, because the shard's row, which settlement locks anyway, makes it serial.
-- No foreign key to ledger_transactions: the statement that inserts a link inserts its transaction.
CREATE TABLE ledger_chain (
    chain integer NOT NULL CHECK (chain >= 0),
    seq bigint NOT NULL CHECK (seq > 0),
    customer_id text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (chain, seq),
    UNIQUE (customer_id, transaction_id)
);

-- Where the chain ends. A chain begins with the first settlement by code that knows it, which
-- first links what the shard has posted before; a chain that has begun takes in nothing older.
ALTER TABLE shards
    ADD COLUMN chain_seq bigint NOT NULL DEFAULT 0 CHECK (chain_seq >= 0),
    ADD COLUMN chain_hash bytea CHECK (octet_length(chain_hash) = 32),
    ADD COLUMN chain_began boolean NOT NULL DEFAULT false,
    ADD CHECK ((chain_seq = 0) = (chain_hash IS NULL));

-- heads: [[chain, seq, hash in hex], ...] by chain. `previous` is the signature of the root before.
CREATE TABLE ledger_roots (
    root_number bigint PRIMARY KEY CHECK (root_number > 0),
    day date NOT NULL,
    daily boolean NOT NULL,
    made_at timestamptz NOT NULL,
    heads jsonb NOT NULL CHECK (jsonb_typeof(heads) = 'array' AND heads <> '[]'),
    previous bytea NOT NULL,
    key_id text NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 32)
);
CREATE UNIQUE INDEX ledger_roots_daily ON ledger_roots (day) WHERE daily;

CREATE TRIGGER ledger_chain_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_chain
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_roots_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_roots
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON ledger_chain, ledger_roots FROM PUBLIC;

-- A batch's rows share both columns, so an index entry is stored once a batch and appended.
-- By these the events of a transaction are found, and transactions of the time before chains.
CREATE INDEX usage_events_posted ON usage_events (shard, posted_at);
CREATE INDEX ledger_transactions_posted ON ledger_transactions (shard, posted_at);
