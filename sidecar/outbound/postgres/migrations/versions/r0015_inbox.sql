-- What webhooks named. An event is there once; its object is fetched once for all of them.
-- These belong to no customer: whose an object is, is known once it is fetched.
CREATE TABLE inbox_objects (
    object_key text COLLATE "C" PRIMARY KEY CHECK (octet_length(object_key) <= 191),
    provider text NOT NULL,
    kind text NOT NULL,
    object_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('idle', 'pending', 'parked')),
    reason text NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 128),
    -- How many events have come; the number of the newest one.
    events bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    event_type text NOT NULL DEFAULT '',
    livemode boolean,
    wanted_at timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz NOT NULL DEFAULT now(),
    handled_at timestamptz,
    lease_owner text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    fence bigint NOT NULL DEFAULT 0
);
CREATE INDEX inbox_objects_due ON inbox_objects (retry_at) WHERE state = 'pending';
CREATE INDEX inbox_objects_parked ON inbox_objects (object_key) WHERE state = 'parked';
CREATE INDEX inbox_objects_idle ON inbox_objects (handled_at) WHERE state = 'idle';

-- One for all objects, so that it grows also where an object is forgotten and comes back.
CREATE SEQUENCE inbox_fences;

CREATE TABLE inbox (
    provider text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL CHECK (octet_length(event_id) BETWEEN 1 AND 255),
    event_type text NOT NULL CHECK (octet_length(event_type) <= 255),
    -- Null for an event that says nothing to us.
    object_key text COLLATE "C",
    number bigint,
    received_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    PRIMARY KEY (provider, event_id),
    CHECK ((object_key IS NULL) = (number IS NULL)),
    CHECK (object_key IS NOT NULL OR done_at IS NOT NULL)
);
CREATE INDEX inbox_open ON inbox (object_key, number) WHERE done_at IS NULL;
CREATE INDEX inbox_done ON inbox (done_at) WHERE done_at IS NOT NULL;

-- What was fetched. `customer_id` is '' for a customer of the provider's who is nobody's of ours.
-- `fence` is the claim's that fetched it: a lower one never overwrites a higher.
CREATE TABLE provider_invoices (
    customer_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    provider_customer_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('draft', 'open', 'paid', 'uncollectible', 'void')),
    currency text NOT NULL,
    amount_due_minor bigint NOT NULL,
    -- In the customer's currency; null where the invoice is in another.
    amount_nano bigint CHECK (amount_nano BETWEEN 0 AND 4000000000000000000),
    due_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    reason text NOT NULL DEFAULT '',
    fence bigint NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    -- When the provider last listed it as open.
    seen_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (customer_id, provider, invoice_id)
);
CREATE INDEX provider_invoices_id ON provider_invoices (provider, invoice_id);
CREATE INDEX provider_invoices_open ON provider_invoices (provider, invoice_id)
    WHERE state = 'open';

CREATE TABLE provider_subscriptions (
    customer_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    provider_customer_id text NOT NULL,
    status text NOT NULL,
    plan text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    fence bigint NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, provider, subscription_id)
);
CREATE INDEX provider_subscriptions_id ON provider_subscriptions (provider, subscription_id);

CREATE TABLE provider_payments (
    customer_id text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL DEFAULT '',
    reference text NOT NULL DEFAULT '',
    currency text NOT NULL,
    amount_minor bigint NOT NULL,
    refunded_minor bigint NOT NULL DEFAULT 0,
    disputed boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT '',
    fence bigint NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, provider, payment_id)
);
CREATE INDEX provider_payments_id ON provider_payments (provider, payment_id);
CREATE INDEX provider_payments_invoice ON provider_payments (customer_id, provider, invoice_id)
    WHERE invoice_id <> '';

-- Under which reference a payment's credit is given: the first word counts, for good.
CREATE TABLE payment_references (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    provider text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    PRIMARY KEY (customer_id, provider, payment_id),
    UNIQUE (customer_id, reference)
);

CREATE INDEX customers_stripe ON customers (stripe_customer_id)
    WHERE stripe_customer_id IS NOT NULL;

-- An operator's word, apart from what invoices say, so that its end brings that back.
CREATE TABLE standing_overrides (
    customer_id text COLLATE "C" PRIMARY KEY REFERENCES customers,
    standing text NOT NULL CHECK (standing IN ('good', 'grace', 'delinquent')),
    reason text NOT NULL DEFAULT '',
    until timestamptz,
    overdue_since timestamptz,
    overdue_nano bigint CHECK (overdue_nano BETWEEN 0 AND 4000000000000000000),
    disputed boolean NOT NULL DEFAULT false,
    set_at timestamptz NOT NULL DEFAULT now()
);
-- Until now every standing was an operator's word.
INSERT INTO standing_overrides (customer_id, standing, reason, until, overdue_since, overdue_nano, disputed)
SELECT customer_id, standing, reason, until, overdue_since, overdue_nano, disputed FROM standings
WHERE standing <> 'good' OR until IS NOT NULL;

-- Whose standing is to be looked at and when (null: when an input changes, which counts `version`).
-- `shown`: the live store has what `standings` has.
CREATE TABLE standing_looks (
    customer_id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL DEFAULT 1,
    look_at timestamptz,
    shown boolean NOT NULL DEFAULT true,
    plan_shown boolean NOT NULL DEFAULT true,
    derived text NOT NULL DEFAULT 'good',
    derived_reason text NOT NULL DEFAULT '',
    subscribed_plan text NOT NULL DEFAULT ''
);
CREATE INDEX standing_looks_due ON standing_looks (look_at) WHERE look_at IS NOT NULL;
INSERT INTO standing_looks (customer_id, look_at)
SELECT customer_id, '-infinity' FROM standing_overrides;

-- How far the regular look at all of a provider has come.
CREATE TABLE provider_sweeps (
    provider text COLLATE "C" PRIMARY KEY,
    -- Events since then are still to be read.
    since timestamptz NOT NULL,
    begun_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    part text NOT NULL DEFAULT '',
    cursor text
);
