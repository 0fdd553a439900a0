-- Up to where a customer's usage is cut into invoices, and the period that runs from there.
-- Settlement reads `closed_until` under the lock of the shard's row and cutting moves it under the
-- same lock: usage of before it that is posted afterwards is late, and no usage is both.
CREATE TABLE invoice_cursors (
    customer_id text COLLATE "C" PRIMARY KEY REFERENCES customers,
    currency text NOT NULL,
    anchor timestamptz,
    closed_until timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    invoices_made bigint NOT NULL DEFAULT 0 CHECK (invoices_made >= 0),
    carried_nano bigint NOT NULL DEFAULT 0 CHECK (carried_nano <= 0),
    carried_minor bigint NOT NULL DEFAULT 0 CHECK (carried_minor <= 0),
    asked_at timestamptz,
    leased_until timestamptz,
    CHECK (closed_until < period_end)
) WITH (fillfactor = 70);
CREATE INDEX invoice_cursors_due ON invoice_cursors (period_end);
CREATE INDEX invoice_cursors_asked ON invoice_cursors (asked_at) WHERE asked_at IS NOT NULL;

-- A draft is cut: which usage is on it will not change any more. Closing counts that usage, gives
-- the number and freezes the row. `sequence` is 0 for a period's own invoice, 1 and on for those
-- of what came late.
CREATE TABLE invoices (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    invoice_id text COLLATE "C" NOT NULL CHECK (octet_length(invoice_id) BETWEEN 1 AND 255),
    currency text NOT NULL,
    sequence integer NOT NULL CHECK (sequence >= 0),
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'closed', 'void')),
    provider text NOT NULL,
    number bigint CHECK (number > 0),
    total_nano bigint NOT NULL DEFAULT 0,
    credit_nano bigint NOT NULL DEFAULT 0,
    overage_nano bigint NOT NULL DEFAULT 0,
    carried_nano bigint NOT NULL DEFAULT 0 CHECK (carried_nano <= 0),
    carried_minor bigint NOT NULL DEFAULT 0 CHECK (carried_minor <= 0),
    due_nano bigint NOT NULL DEFAULT 0 CHECK (due_nano >= 0),
    due_minor bigint NOT NULL DEFAULT 0 CHECK (due_minor >= 0),
    charged_nano bigint NOT NULL DEFAULT 0,
    transaction_id text COLLATE "C",
    findings jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(findings) = 'array'),
    cut_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    voided_at timestamptz,
    leased_until timestamptz,
    PRIMARY KEY (customer_id, invoice_id),
    UNIQUE (customer_id, currency, period_start, sequence),
    UNIQUE (customer_id, number),
    CHECK (period_start < period_end),
    CHECK ((state = 'draft') = (number IS NULL)),
    CHECK ((state = 'draft') = (closed_at IS NULL)),
    CHECK ((state = 'void') = (voided_at IS NOT NULL)),
    CHECK ((charged_nano = 0) = (transaction_id IS NULL))
);
CREATE INDEX invoices_by_id ON invoices (invoice_id);
-- One at a time, so that numbers and what is carried follow the order of the periods.
CREATE UNIQUE INDEX invoices_one_draft ON invoices (customer_id) WHERE state = 'draft';
CREATE INDEX invoices_by_end ON invoices (period_end, invoice_id);

-- Only that it is void may be said of an invoice once it is closed.
CREATE TRIGGER invoices_frozen BEFORE UPDATE ON invoices FOR EACH ROW
    WHEN (OLD.state <> 'draft' AND (
        NEW.state NOT IN (OLD.state, 'void')
        OR (OLD.customer_id, OLD.invoice_id, OLD.currency, OLD.sequence, OLD.period_start,
            OLD.period_end, OLD.provider, OLD.number, OLD.total_nano, OLD.credit_nano,
            OLD.overage_nano, OLD.carried_nano, OLD.carried_minor, OLD.due_nano, OLD.due_minor, OLD.charged_nano,
            OLD.transaction_id, OLD.findings, OLD.cut_at, OLD.closed_at)
        IS DISTINCT FROM
           (NEW.customer_id, NEW.invoice_id, NEW.currency, NEW.sequence, NEW.period_start,
            NEW.period_end, NEW.provider, NEW.number, NEW.total_nano, NEW.credit_nano,
            NEW.overage_nano, NEW.carried_nano, NEW.carried_minor, NEW.due_nano, NEW.due_minor, NEW.charged_nano,
            NEW.transaction_id, NEW.findings, NEW.cut_at, NEW.closed_at)))
    EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER invoices_kept BEFORE DELETE ON invoices FOR EACH ROW
    WHEN (OLD.state <> 'draft') EXECUTE FUNCTION ledger_refuse_change();

-- `price` is the content of the price line at its version, {} of usage without a price.
CREATE TABLE invoice_lines (
    customer_id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL CHECK (line_number > 0),
    meter text COLLATE "C" NOT NULL,
    models text[] NOT NULL,
    plan text NOT NULL,
    price_version text NOT NULL,
    price jsonb NOT NULL CHECK (jsonb_typeof(price) = 'object'),
    rounding text NOT NULL,
    charge boolean NOT NULL,
    late boolean NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    events bigint NOT NULL CHECK (events >= 0),
    quantity numeric(40, 0) NOT NULL,
    amount_nano bigint NOT NULL,
    credit_nano bigint NOT NULL,
    amount_minor bigint NOT NULL,
    due_minor bigint NOT NULL,
    PRIMARY KEY (customer_id, invoice_id, line_number),
    FOREIGN KEY (customer_id, invoice_id) REFERENCES invoices,
    CHECK (period_start < period_end)
);

-- What a line was added up from: by these an event finds its line, and a line its events.
CREATE TABLE invoice_parts (
    customer_id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    late boolean NOT NULL,
    month timestamptz NOT NULL,
    price_version text COLLATE "C" NOT NULL,
    meter text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    prepaid boolean NOT NULL,
    line_number integer NOT NULL,
    events bigint NOT NULL CHECK (events > 0),
    quantity numeric(40, 0) NOT NULL,
    amount_nano bigint NOT NULL,
    PRIMARY KEY (
        customer_id, invoice_id, late, month, price_version, meter, model, prepaid),
    FOREIGN KEY (customer_id, invoice_id, line_number) REFERENCES invoice_lines
);
CREATE INDEX invoice_parts_of_line ON invoice_parts (customer_id, invoice_id, line_number);

CREATE TRIGGER invoice_lines_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice_lines
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER invoice_parts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoice_parts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON invoice_lines, invoice_parts FROM PUBLIC;

CREATE TABLE write_offs (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    write_off_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    events bigint NOT NULL CHECK (events > 0),
    transaction_id text COLLATE "C" NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, write_off_id)
);
CREATE TRIGGER write_offs_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON write_offs
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON write_offs FROM PUBLIC;

-- Usage that was posted after its period was cut, by the settlement that posted it. It goes to one
-- invoice or one write-off.
CREATE TABLE late_usage (
    customer_id text COLLATE "C" NOT NULL,
    day date NOT NULL,
    hold_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    amount_nano bigint NOT NULL,
    prepaid boolean NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    invoice_id text COLLATE "C",
    write_off_id text COLLATE "C",
    PRIMARY KEY (customer_id, day, hold_id, kind),
    FOREIGN KEY (customer_id, invoice_id) REFERENCES invoices,
    FOREIGN KEY (customer_id, write_off_id) REFERENCES write_offs,
    CHECK (num_nonnulls(invoice_id, write_off_id) <= 1)
);
CREATE INDEX late_usage_waiting ON late_usage (noted_at)
    WHERE invoice_id IS NULL AND write_off_id IS NULL;
CREATE INDEX late_usage_of_customer ON late_usage (customer_id, invoice_id, write_off_id);

-- An intent of the admin role, within what the invoice has left; settlement posts it. A void is a
-- credit note of all that is left.
CREATE TABLE credit_notes (
    customer_id text COLLATE "C" NOT NULL,
    credit_note_id text COLLATE "C" NOT NULL
        CHECK (octet_length(credit_note_id) BETWEEN 1 AND 255),
    invoice_id text COLLATE "C" NOT NULL,
    void boolean NOT NULL,
    currency text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano >= 0),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    lines jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(lines) = 'array'),
    reason text NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 4096),
    transaction_id text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now(),
    posted_at timestamptz,
    PRIMARY KEY (customer_id, credit_note_id),
    FOREIGN KEY (customer_id, invoice_id) REFERENCES invoices,
    CHECK (void OR amount_nano > 0),
    CHECK (posted_at IS NOT NULL OR transaction_id IS NULL)
);
CREATE INDEX credit_notes_of_invoice ON credit_notes (customer_id, invoice_id, created_at);
CREATE INDEX credit_notes_unposted ON credit_notes (created_at) WHERE posted_at IS NULL;

-- The live store may lose its rate cards; an invoice needs those of all its usage.
CREATE TABLE invoice_price_versions (
    price_version text COLLATE "C" PRIMARY KEY,
    content text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);

-- NOT VALID: what is there has passed narrower checks, so it need not be read again.
ALTER TABLE ledger_transactions
    DROP CONSTRAINT ledger_transactions_kind_check,
    ADD CONSTRAINT ledger_transactions_kind_check CHECK (kind IN
        ('usage', 'grant', 'expire', 'rollover', 'void', 'refund', 'dispute', 'invoice',
        'credit_note', 'write_off')) NOT VALID;
