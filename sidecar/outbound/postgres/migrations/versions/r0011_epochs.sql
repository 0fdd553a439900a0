-- The last decision of each shard that is settled. A live store whose numbers are lower has lost
-- what it decided since; shards.epoch, which was 0 until now, numbers its lives.
ALTER TABLE shards
    ADD COLUMN settled_epoch bigint NOT NULL DEFAULT 0 CHECK (settled_epoch >= 0),
    ADD COLUMN settled_seq bigint NOT NULL DEFAULT 0 CHECK (settled_seq >= 0);

-- What captures counted, by the counter's field in the live store: which events a quota counts is
-- not to be told from the events. A projection of the streams, from which windows are put back.
CREATE TABLE counter_totals (
    customer_id text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL,
    quantity numeric(40, 0) NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, field)
) WITH (fillfactor = 70);
CREATE INDEX counter_totals_moved ON counter_totals USING brin (moved_at);

-- When the ledger took a withdrawal in. One that the live store applied and lost before that has
-- not happened: a rebuild makes it an intent again.
ALTER TABLE withdrawals ADD COLUMN posted_at timestamptz;
UPDATE withdrawals SET posted_at = finished_at WHERE state = 'applied';
