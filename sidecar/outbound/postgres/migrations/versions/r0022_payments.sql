-- What providers say was paid and given up, in the ledger; and in which currency they bill.
-- NOT VALID: what is there has passed narrower checks, so it need not be read again.
ALTER TABLE ledger_transactions
    DROP CONSTRAINT ledger_transactions_kind_check,
    ADD CONSTRAINT ledger_transactions_kind_check CHECK (kind IN
        ('usage', 'grant', 'expire', 'rollover', 'void', 'refund', 'dispute', 'invoice',
        'credit_note', 'write_off', 'payment', 'payment_return')) NOT VALID;
ALTER TABLE ledger_entries
    DROP CONSTRAINT ledger_entries_account_check,
    ADD CONSTRAINT ledger_entries_account_check CHECK (account IN (
        'customer_credit', 'customer_overage', 'customer_receivable', 'funding', 'promotion',
        'breakage', 'revenue', 'clearing', 'tax')) NOT VALID;
ALTER TABLE account_balances
    ADD COLUMN clearing_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN tax_nano numeric(40, 0) NOT NULL DEFAULT 0,
    DROP CONSTRAINT account_balances_check,
    ADD CONSTRAINT account_balances_check CHECK (
        customer_credit_nano + customer_overage_nano + customer_receivable_nano
        + funding_nano + promotion_nano + breakage_nano + revenue_nano + clearing_nano + tax_nano
        = 0);

-- How much of a payment, or of what is given up of an invoice, stands in the ledger now. `seq` is
-- that of the last transaction. `payment_id` is '' for what was paid outside of the provider.
CREATE TABLE payment_postings (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    provider text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('payment', 'write_off')),
    currency text NOT NULL,
    gross_nano bigint NOT NULL DEFAULT 0
        CHECK (gross_nano BETWEEN 0 AND 4000000000000000000),
    net_nano bigint NOT NULL DEFAULT 0 CHECK (net_nano BETWEEN 0 AND gross_nano),
    seq integer NOT NULL DEFAULT 0 CHECK (seq >= 0),
    posted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, provider, invoice_id, payment_id, kind)
);
CREATE INDEX payment_postings_by_invoice
    ON payment_postings (provider, invoice_id, payment_id, kind);

-- In which currency a provider bills a customer of its own, as its newest subscription or regular
-- invoice says. Whose it is of ours may change. `fence` is the claim's that fetched it.
CREATE TABLE provider_currencies (
    provider text COLLATE "C" NOT NULL,
    provider_customer_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    fence bigint NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_customer_id)
);
