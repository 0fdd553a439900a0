-- What a hold gives back of a running total can be worth more than what it used, also where two
-- reports that differ came before its capture.
ALTER TABLE usage_events
    DROP CONSTRAINT usage_events_check1,
    ADD CONSTRAINT usage_events_check1 CHECK (amount_nano >= 0 OR kind <> 'orphan') NOT VALID,
    DROP CONSTRAINT usage_events_check2,
    ADD CONSTRAINT usage_events_check2 CHECK (kind LIKE 'correction:%' OR late
        OR overage_nano <= greatest(0, amount_nano)) NOT VALID;

-- What of prepaid usage credit did not pay and the customer owes, where the plan says so; NULL of
-- all other usage. Of a line as of its event.
ALTER TABLE usage_events
    ADD COLUMN owed_nano bigint,
    ADD CONSTRAINT usage_events_owed CHECK (owed_nano IS NULL OR (prepaid AND overage_nano = 0))
        NOT VALID;
ALTER TABLE usage_lines ADD COLUMN owed_nano bigint;
