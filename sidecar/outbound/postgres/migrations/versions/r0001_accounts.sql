-- Ids are compared byte by byte (COLLATE "C"), so that paging by id means the same everywhere.
-- customer_id leads every key: it is the distribution column.

CREATE TABLE customers (
    customer_id text COLLATE "C" PRIMARY KEY CHECK (octet_length(customer_id) BETWEEN 1 AND 255),
    plan text NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$' OR currency = 'credits'),
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    stripe_customer_id text CHECK (stripe_customer_id <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE credentials (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    credential_id text COLLATE "C" NOT NULL CHECK (octet_length(credential_id) BETWEEN 1 AND 255),
    secret_hash text NOT NULL,
    user_id text NOT NULL DEFAULT '',
    name text NOT NULL DEFAULT '',
    generation bigint NOT NULL DEFAULT 1 CHECK (generation > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    PRIMARY KEY (customer_id, credential_id)
);

-- A hash belongs to one credential of one customer. Its own table, because a unique key over
-- all customers cannot live in one that is distributed by customer.
CREATE TABLE credential_hashes (
    secret_hash text COLLATE "C" PRIMARY KEY CHECK (secret_hash <> ''),
    customer_id text COLLATE "C" NOT NULL,
    credential_id text COLLATE "C" NOT NULL
);

CREATE TABLE grants (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    grant_id text COLLATE "C" NOT NULL CHECK (octet_length(grant_id) BETWEEN 1 AND 255),
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 4000000000000000000),
    currency text NOT NULL,
    kind text NOT NULL DEFAULT 'paid' CHECK (kind IN ('paid', 'promotional')),
    state text NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'posted')),
    created_at timestamptz NOT NULL DEFAULT now(),
    posted_at timestamptz,
    PRIMARY KEY (customer_id, grant_id),
    CHECK ((state = 'posted') = (posted_at IS NOT NULL))
);
CREATE INDEX grants_intent ON grants (created_at, grant_id) WHERE state = 'intent';

CREATE TABLE standings (
    customer_id text COLLATE "C" PRIMARY KEY REFERENCES customers,
    standing text NOT NULL CHECK (standing IN ('good', 'grace', 'delinquent')),
    reason text NOT NULL DEFAULT '',
    until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Answers of writes that carried an Idempotency-Key; status NULL while the first is under way.
CREATE TABLE idempotency_keys (
    principal text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    route text NOT NULL,
    body_hash text NOT NULL,
    status smallint CHECK (status BETWEEN 100 AND 599),
    response bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key),
    CHECK ((status IS NULL) = (response IS NULL))
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
