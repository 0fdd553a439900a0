-- What of prepaid usage credit did not pay and the customer owes, where the plan says so; NULL of
-- all other usage. Of a line as of its event.
ALTER TABLE usage_events
    ADD COLUMN owed_nano bigint,
    ADD CONSTRAINT usage_events_owed CHECK (owed_nano IS NULL OR (prepaid AND overage_nano = 0))
        NOT VALID;
ALTER TABLE usage_lines ADD COLUMN owed_nano bigint;
