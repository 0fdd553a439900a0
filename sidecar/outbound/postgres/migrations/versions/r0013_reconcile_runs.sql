-- Summaries of the newest comparisons of all live balances with the ledger, for people. `counts` and
-- `nano` are by kind of difference; amounts in it are texts, since a JSON number may be rounded.
CREATE TABLE reconcile_runs (
    run_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now(),
    customers bigint NOT NULL CHECK (customers >= 0),
    unread bigint NOT NULL CHECK (unread >= 0),
    wrong bigint NOT NULL CHECK (wrong >= 0),
    counts jsonb NOT NULL,
    nano jsonb NOT NULL
);
