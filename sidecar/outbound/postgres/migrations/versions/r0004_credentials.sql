ALTER TABLE credentials
    ADD COLUMN team_id text NOT NULL DEFAULT '',
    -- The end that was set at the start or by a rotation; the live store enforces it.
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN replaced_by text COLLATE "C" CHECK (replaced_by <> credential_id);

-- Not unique, since a unique key of a distributed table begins with the customer. The ids are ours:
-- 96 random bits, or a hash of the request that made them.
CREATE INDEX credentials_id ON credentials (credential_id);

ALTER TABLE standings
    ADD COLUMN overdue_since timestamptz,
    ADD COLUMN overdue_nano bigint CHECK (overdue_nano BETWEEN 0 AND 4000000000000000000),
    ADD COLUMN disputed boolean NOT NULL DEFAULT false;
