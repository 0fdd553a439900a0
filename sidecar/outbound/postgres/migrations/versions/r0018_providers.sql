-- What one provider knows of a customer. `authorization_code` lets whoever has it and the
-- provider's key charge a card: nothing but collecting reads it.
CREATE TABLE payers (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    provider text COLLATE "C" NOT NULL CHECK (octet_length(provider) BETWEEN 1 AND 32),
    provider_customer_id text NOT NULL DEFAULT ''
        CHECK (octet_length(provider_customer_id) <= 255),
    email text NOT NULL DEFAULT '' CHECK (octet_length(email) <= 254),
    authorization_code text NOT NULL DEFAULT '' CHECK (octet_length(authorization_code) <= 255),
    collect boolean NOT NULL DEFAULT false,
    -- Invoices that were closed before may have been paid otherwise.
    collect_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, provider),
    CHECK (collect = (collect_since IS NOT NULL))
);
-- Two providers that collect the same invoice would take the money twice.
CREATE UNIQUE INDEX payers_collect ON payers (customer_id) WHERE collect;

-- One row an invoice: the present attempt at collecting it. `claim` counts leases, so that who
-- held an earlier one can write nothing; `woken` is the claim during which news came. Amount and way are fixed when a reference is first sent.
CREATE TABLE collections (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    invoice_id text COLLATE "C" NOT NULL CHECK (octet_length(invoice_id) BETWEEN 1 AND 255),
    provider text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL DEFAULT 0 CHECK (amount_minor >= 0),
    way text NOT NULL DEFAULT 'invoice' CHECK (way IN ('card', 'invoice')),
    attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0),
    attempts_max integer NOT NULL CHECK (attempts_max > 0),
    reference text COLLATE "C" NOT NULL CHECK (octet_length(reference) BETWEEN 1 AND 100),
    state text NOT NULL DEFAULT 'demanded'
        CHECK (state IN ('demanded', 'sent', 'unknown', 'paid', 'failed', 'withdrawn')),
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    unclear integer NOT NULL DEFAULT 0 CHECK (unclear >= 0),
    provider_reference text COLLATE "C" NOT NULL DEFAULT ''
        CHECK (octet_length(provider_reference) <= 255),
    detail text NOT NULL DEFAULT '' CHECK (octet_length(detail) <= 2000),
    claim bigint NOT NULL DEFAULT 0,
    woken bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    next_look_at timestamptz,
    sent_at timestamptz,
    ended_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, invoice_id),
    CHECK ((tries = 0) = (sent_at IS NULL)),
    CHECK (state <> 'demanded' OR tries = 0),
    CHECK (state NOT IN ('sent', 'unknown', 'paid') OR tries > 0),
    CHECK ((state IN ('paid', 'failed', 'withdrawn')) = (ended_at IS NOT NULL)),
    CHECK ((state IN ('paid', 'failed', 'withdrawn')) = (next_look_at IS NULL))
);
CREATE INDEX collections_due ON collections (next_look_at) WHERE next_look_at IS NOT NULL;
CREATE INDEX collections_by_invoice ON collections (invoice_id);
CREATE INDEX collections_by_reference ON collections (reference);

-- Every reference that was ever sent, and what became of it. No row is deleted.
CREATE TABLE collection_attempts (
    customer_id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    provider text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    way text NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    provider_reference text COLLATE "C" NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT 'pending'
        CHECK (outcome IN ('pending', 'paid', 'failed', 'refused')),
    detail text NOT NULL DEFAULT '' CHECK (octet_length(detail) <= 2000),
    sent_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    PRIMARY KEY (customer_id, invoice_id, attempt),
    FOREIGN KEY (customer_id, invoice_id) REFERENCES collections
);
CREATE INDEX collection_attempts_by_reference ON collection_attempts (provider, reference);
CREATE INDEX collection_attempts_by_name
    ON collection_attempts (provider, provider_reference) WHERE provider_reference <> '';
