-- An older version must not settle any more when this runs: it would post prepaid usage without
-- saying which grants paid it, and `grants_moved` refuses that. See docs/ledger.md.

ALTER TABLE customers
    ADD COLUMN overdraft_nano bigint NOT NULL DEFAULT 0
        CHECK (overdraft_nano BETWEEN 0 AND 4000000000000000000);

-- What is left of a grant, pinned by holds or not, is `opening_nano` + its movements.
-- `applied_at`: since when the live store is known to have it.
ALTER TABLE grants
    ADD COLUMN priority smallint NOT NULL DEFAULT 50 CHECK (priority BETWEEN 0 AND 100),
    ADD COLUMN effective_at timestamptz,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN meters text[] NOT NULL DEFAULT '{}' CHECK (cardinality(meters) <= 16),
    ADD COLUMN rolls_from text COLLATE "C",
    ADD COLUMN rolls_least_nano bigint NOT NULL DEFAULT 0,
    ADD COLUMN rolls_most_nano bigint NOT NULL DEFAULT 0,
    ADD COLUMN schedule_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN applied_at timestamptz,
    ADD COLUMN opening_nano bigint NOT NULL DEFAULT 0 CHECK (opening_nano >= 0),
    ADD COLUMN remaining_nano bigint NOT NULL DEFAULT 0
        CONSTRAINT grants_remaining CHECK (remaining_nano >= 0),
    ADD CHECK (expires_at > effective_at),
    ADD CHECK (rolls_least_nano BETWEEN 0 AND rolls_most_nano
        AND rolls_most_nano <= 4000000000000000000),
    ADD CHECK (rolls_from IS NOT NULL OR rolls_most_nano = 0);
ALTER TABLE grants SET (fillfactor = 70);

-- Nobody wrote down which grant paid what was used until now. The ledger's credit is what is left
-- of all of them; the rule that burns them from here on says whose it is: promotional credit
-- first, then by age. So what is left belongs to the last in that order.
WITH ordered AS (
    SELECT g.customer_id, g.grant_id, g.amount_nano, b.customer_credit_nano AS credit_nano,
        coalesce(sum(g.amount_nano) OVER (
            PARTITION BY g.customer_id
            ORDER BY g.kind = 'paid' DESC, g.created_at DESC, g.grant_id DESC
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS after_nano
    FROM grants g JOIN account_balances b USING (customer_id, currency)
    WHERE g.state = 'posted')
UPDATE grants g
SET opening_nano = least(o.amount_nano, greatest(0, o.credit_nano - o.after_nano)),
    remaining_nano = least(o.amount_nano, greatest(0, o.credit_nano - o.after_nano))
FROM ordered o
WHERE g.customer_id = o.customer_id AND g.grant_id = o.grant_id;

CREATE TABLE withdrawals (
    customer_id text COLLATE "C" NOT NULL,
    withdrawal_id text COLLATE "C" NOT NULL
        CHECK (octet_length(withdrawal_id) BETWEEN 1 AND 255),
    grant_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('void', 'refund', 'dispute')),
    amount_nano bigint CHECK (amount_nano BETWEEN 1 AND 4000000000000000000),
    reason text NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 4096),
    state text NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'applied', 'refused')),
    withdrawn_nano bigint NOT NULL DEFAULT 0 CHECK (withdrawn_nano >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (customer_id, withdrawal_id),
    FOREIGN KEY (customer_id, grant_id) REFERENCES grants,
    CHECK ((state = 'intent') = (finished_at IS NULL)),
    CHECK (state = 'applied' OR withdrawn_nano = 0)
);
CREATE INDEX withdrawals_intent ON withdrawals (created_at, withdrawal_id) WHERE state = 'intent';
CREATE INDEX withdrawals_of_grant ON withdrawals (customer_id, grant_id);

-- `next_start` begins the first occurrence that is not issued, `due_at` is when it shall be; both
-- NULL once there is none left.
CREATE TABLE grant_schedules (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    schedule_id text COLLATE "C" NOT NULL CHECK (octet_length(schedule_id) BETWEEN 1 AND 200),
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 4000000000000000000),
    currency text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('paid', 'promotional')),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    meters text[] NOT NULL CHECK (cardinality(meters) <= 16),
    unit text NOT NULL CHECK (unit IN ('day', 'week', 'month', 'year')),
    every integer NOT NULL CHECK (every BETWEEN 1 AND 1000),
    anchor timestamptz NOT NULL,
    tz text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    rolls_least_nano bigint NOT NULL,
    rolls_most_nano bigint NOT NULL,
    next_start timestamptz,
    due_at timestamptz,
    leased_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, schedule_id),
    CHECK (rolls_least_nano BETWEEN 0 AND rolls_most_nano
        AND rolls_most_nano <= 4000000000000000000),
    CHECK ((next_start IS NULL) = (due_at IS NULL)),
    CHECK (next_start >= starts_at),
    CHECK (next_start < ends_at)
);
CREATE INDEX grant_schedules_due ON grant_schedules (due_at) WHERE due_at IS NOT NULL;

-- NOT VALID: what is there has passed narrower checks, so it need not be read again.
ALTER TABLE ledger_transactions
    DROP CONSTRAINT ledger_transactions_kind_check,
    ADD CONSTRAINT ledger_transactions_kind_check CHECK (kind IN
        ('usage', 'grant', 'expire', 'rollover', 'void', 'refund', 'dispute')) NOT VALID;
ALTER TABLE ledger_entries
    DROP CONSTRAINT ledger_entries_account_check,
    ADD CONSTRAINT ledger_entries_account_check CHECK (account IN (
        'customer_credit', 'customer_overage', 'customer_receivable', 'funding', 'promotion',
        'breakage', 'revenue')) NOT VALID;

-- A correction may give back what a grant paid that is gone, and take the new amount from another:
-- then less is owed though the amount is the same.
ALTER TABLE usage_events
    DROP CONSTRAINT usage_events_check2,
    ADD CONSTRAINT usage_events_check2 CHECK (kind LIKE 'correction:%' OR late
        OR overage_nano BETWEEN least(0, amount_nano) AND greatest(0, amount_nano)) NOT VALID;

-- Accounts that grants end in, and the sums that a live balance is made of: each is what the
-- live store counts under the same name. Those of usage are in `revenue` and the receivable.
ALTER TABLE account_balances
    ADD COLUMN promotion_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN breakage_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN granted_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN used_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN used_prepaid_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN voided_nano numeric(40, 0) NOT NULL DEFAULT 0,
    ADD COLUMN expired_nano numeric(40, 0) NOT NULL DEFAULT 0,
    DROP CONSTRAINT account_balances_check;
UPDATE account_balances SET granted_nano = -funding_nano, used_nano = revenue_nano,
    used_prepaid_nano = revenue_nano + customer_receivable_nano;
ALTER TABLE account_balances
    ADD CONSTRAINT account_balances_check CHECK (
        customer_credit_nano + customer_overage_nano + customer_receivable_nano
        + funding_nano + promotion_nano + breakage_nano + revenue_nano = 0),
    ADD CONSTRAINT account_balances_sums CHECK (
        customer_credit_nano + customer_overage_nano
        = granted_nano - voided_nano - expired_nano - used_prepaid_nano);

-- What a ledger transaction moved of which grant. Append only, as the entries are.
CREATE TABLE grant_movements (
    customer_id text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    grant_id text COLLATE "C" NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano <> 0
        AND amount_nano BETWEEN -4000000000000000000 AND 4000000000000000000),
    PRIMARY KEY (customer_id, transaction_id, grant_id),
    FOREIGN KEY (customer_id, transaction_id) REFERENCES ledger_transactions,
    CONSTRAINT grant_movements_known_grant
        FOREIGN KEY (customer_id, grant_id) REFERENCES grants
);
CREATE TRIGGER grant_movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON grant_movements
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON grant_movements FROM PUBLIC;

-- The movements of a transaction must sum up to the change of the customer's credit. Entries and
-- movements are inserted by one statement: triggers fire at its end, and see both. Two functions,
-- so that each looks up no more than its own rows leave open.
CREATE FUNCTION ledger_refuse_unmoved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM inserted i
        WHERE i.account = 'customer_credit' AND i.amount_nano IS DISTINCT FROM (
            SELECT sum(m.amount_nano) FROM grant_movements m
            WHERE m.customer_id = i.customer_id AND m.transaction_id = i.transaction_id)
    ) THEN
        RAISE EXCEPTION 'the movements of grants are not the change of the credit'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'grants_moved';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER grants_moved AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_unmoved();

CREATE FUNCTION ledger_refuse_uncredited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (
            SELECT customer_id, transaction_id FROM inserted GROUP BY customer_id, transaction_id
        ) i
        WHERE (
            SELECT coalesce(sum(m.amount_nano), 0) FROM grant_movements m
            WHERE m.customer_id = i.customer_id AND m.transaction_id = i.transaction_id)
            <> coalesce((
            SELECT e.amount_nano FROM ledger_entries e
            WHERE e.customer_id = i.customer_id AND e.transaction_id = i.transaction_id
                AND e.account = 'customer_credit'), 0)
    ) THEN
        RAISE EXCEPTION 'the movements of grants are not the change of the credit'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'grants_moved';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER grants_moved AFTER INSERT ON grant_movements
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_uncredited();
