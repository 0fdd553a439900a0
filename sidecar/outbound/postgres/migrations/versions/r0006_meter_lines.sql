-- What a line's quantity is grouped by, and what stands for a distinct value; NULL where its
-- meter has neither. A text is kept as a hash: it is compared, never shown.
ALTER TABLE usage_lines
    ADD COLUMN groups jsonb CHECK (jsonb_typeof(groups) = 'object'),
    ADD COLUMN text_hash text COLLATE "C" CHECK (text_hash ~ '^[0-9a-f]{32}$');

-- Queries over all customers read a span of time. Events arrive nearly in its order, so that
-- block ranges find them at almost no cost for the inserts.
CREATE INDEX usage_events_span ON usage_events USING brin (occurred_at);
