-- Which plan a customer was on from when: fees of a period are charged by it. The first row counts
-- since ever, since what was before nobody wrote down.
CREATE TABLE customer_plans (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    since timestamptz NOT NULL,
    plan text NOT NULL,
    PRIMARY KEY (customer_id, since)
);
INSERT INTO customer_plans (customer_id, since, plan)
SELECT customer_id, created_at, plan FROM customers;

-- Whoever changes a plan, an older version too, has it noted here: with the owner's rights, so that
-- nobody needs any for it. It runs under the lock of the customer's row, so that starts are in the order in
-- which the changes count, which a transaction's own time need not be.
CREATE FUNCTION note_customer_plan() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I.customer_plans (customer_id, since, plan)'
        ' SELECT $1, greatest(clock_timestamp(), max(since) + interval ''1 microsecond''), $2'
        ' FROM %I.customer_plans WHERE customer_id = $1', TG_TABLE_SCHEMA, TG_TABLE_SCHEMA)
        USING NEW.customer_id, NEW.plan;
    RETURN NULL;
END $$;
CREATE TRIGGER customers_plan_begun AFTER INSERT ON customers FOR EACH ROW
    EXECUTE FUNCTION note_customer_plan();
CREATE TRIGGER customers_plan_changed AFTER UPDATE OF plan ON customers FOR EACH ROW
    WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION note_customer_plan();

-- Each period that was cut, also where no invoice came of it: usage that is late has one of these.
CREATE TABLE invoice_periods (
    customer_id text COLLATE "C" NOT NULL REFERENCES customers,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    PRIMARY KEY (customer_id, period_start),
    CHECK (period_start < period_end)
);
INSERT INTO invoice_periods (customer_id, period_start, period_end)
SELECT customer_id, period_start, period_end FROM invoices WHERE sequence = 0;

-- Whether a period's end decides a price of it, so that its amount of 0 says nothing of what it costs.
ALTER TABLE late_usage ADD COLUMN of_period boolean NOT NULL DEFAULT false;
