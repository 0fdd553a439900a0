-- A grant that the live store will never take is refused, with its words. One that it cannot take
-- now is tried again at `retry_at`, so that it keeps no other waiting; withdrawals likewise.
ALTER TABLE grants
    ADD COLUMN refused_at timestamptz,
    ADD COLUMN refusal text NOT NULL DEFAULT '' CHECK (octet_length(refusal) <= 1024),
    ADD COLUMN retry_at timestamptz,
    DROP CONSTRAINT grants_state_check,
    ADD CONSTRAINT grants_state_check CHECK (state IN ('intent', 'posted', 'refused')),
    ADD CHECK ((state = 'refused') = (refused_at IS NOT NULL)),
    ADD CHECK (state = 'refused' OR refusal = '');
DROP INDEX grants_intent;
CREATE INDEX grants_intent ON grants (coalesce(retry_at, created_at), grant_id)
    WHERE state = 'intent';

ALTER TABLE withdrawals
    ADD COLUMN refusal text NOT NULL DEFAULT '' CHECK (octet_length(refusal) <= 1024),
    ADD COLUMN retry_at timestamptz,
    ADD CHECK (state = 'refused' OR refusal = '');
DROP INDEX withdrawals_intent;
CREATE INDEX withdrawals_intent ON withdrawals (coalesce(retry_at, created_at), withdrawal_id)
    WHERE state = 'intent';
