-- Every statement that Sidecar sends to Postgres: parameters only, columns listed.

-- name: insert_customer
INSERT INTO customers (customer_id, plan, currency, labels, stripe_customer_id, overdraft_nano)
VALUES ($1, $2, $3, $4::jsonb, $5, $6)
ON CONFLICT (customer_id) DO NOTHING

-- name: read_customer
SELECT customer_id, plan, currency, labels, stripe_customer_id, overdraft_nano, created_at
FROM customers WHERE customer_id = $1

-- name: update_customer
UPDATE customers SET plan = $2, labels = $3::jsonb, stripe_customer_id = $4, overdraft_nano = $5
WHERE customer_id = $1
RETURNING customer_id, plan, currency, labels, stripe_customer_id, overdraft_nano, created_at

-- name: erase_customer
UPDATE customers SET labels = '{}', stripe_customer_id = NULL
WHERE customer_id = $1
RETURNING customer_id, plan, currency, labels, stripe_customer_id, overdraft_nano, created_at

-- name: erase_credentials
UPDATE credentials SET name = '', user_id = '', team_id = '',
    revoked_at = coalesce(revoked_at, now())
WHERE customer_id = $1

-- name: erase_standing
WITH override AS (UPDATE standing_overrides SET reason = '' WHERE customer_id = $1)
UPDATE standings SET reason = '' WHERE customer_id = $1

-- name: erase_withdrawals
UPDATE withdrawals SET reason = '' WHERE customer_id = $1 AND reason <> ''

-- name: list_customers
SELECT customer_id, plan, currency, labels, stripe_customer_id, overdraft_nano, created_at
FROM customers WHERE customer_id > $1 ORDER BY customer_id LIMIT $2

-- name: insert_credential
INSERT INTO credentials (
    customer_id, credential_id, secret_hash, team_id, user_id, name, generation, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (customer_id, credential_id) DO NOTHING
RETURNING credential_id

-- name: insert_credential_hash
INSERT INTO credential_hashes (secret_hash, customer_id, credential_id) VALUES ($1, $2, $3)

-- name: read_credential
SELECT credential_id, customer_id, secret_hash, team_id, user_id, name, generation, created_at,
    expires_at, revoked_at, replaced_by
FROM credentials WHERE customer_id = $1 AND credential_id = $2

-- name: list_credentials
SELECT credential_id, customer_id, secret_hash, team_id, user_id, name, generation, created_at,
    expires_at, revoked_at, replaced_by
FROM credentials WHERE customer_id = $1 AND credential_id > $2 ORDER BY credential_id LIMIT $3

-- name: find_credential
SELECT credential_id, customer_id, secret_hash, team_id, user_id, name, generation, created_at,
    expires_at, revoked_at, replaced_by
FROM credentials WHERE credential_id = $1 LIMIT 2

-- name: lock_credential
SELECT replaced_by, revoked_at IS NOT NULL OR coalesce(expires_at <= now(), false) AS ended
FROM credentials WHERE customer_id = $1 AND credential_id = $2 FOR UPDATE

-- name: retire_credential
-- An end of its own that comes earlier stays.
UPDATE credentials SET replaced_by = $3, expires_at = least(expires_at, $4),
    revoked_at = CASE WHEN $4::timestamptz IS NULL THEN now() END
WHERE customer_id = $1 AND credential_id = $2

-- name: renew_credential
UPDATE credentials SET secret_hash = $3, generation = generation + 1
WHERE customer_id = $1 AND credential_id = $2

-- name: revoke_credential
UPDATE credentials SET revoked_at = coalesce(revoked_at, now())
WHERE customer_id = $1 AND credential_id = $2
RETURNING credential_id, customer_id, secret_hash, team_id, user_id, name, generation, created_at,
    expires_at, revoked_at, replaced_by

-- name: insert_grant
INSERT INTO grants (
    customer_id, grant_id, amount_nano, currency, kind, priority, effective_at, expires_at, meters,
    rolls_from, rolls_least_nano, rolls_most_nano, schedule_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (customer_id, grant_id) DO NOTHING

-- name: read_grant
SELECT grant_id, customer_id, amount_nano, currency, kind, priority, effective_at, expires_at,
    meters, rolls_from, rolls_least_nano, rolls_most_nano, schedule_id, state, remaining_nano,
    created_at, refusal
FROM grants WHERE customer_id = $1 AND grant_id = $2

-- name: list_grants
SELECT grant_id, customer_id, amount_nano, currency, kind, priority, effective_at, expires_at,
    meters, rolls_from, rolls_least_nano, rolls_most_nano, schedule_id, state, remaining_nano,
    created_at, refusal
FROM grants WHERE customer_id = $1 AND grant_id > $2 ORDER BY grant_id LIMIT $3

-- name: pending_grants
-- What begins later and has been applied rests until it begins; then it is applied once more,
-- should the live store have lost it meanwhile. What was taken back before it began never comes.
SELECT grant_id, customer_id, amount_nano, currency, kind, priority, effective_at, expires_at,
    meters, rolls_from, rolls_least_nano, rolls_most_nano, schedule_id, state, remaining_nano,
    created_at, refusal
FROM grants g
WHERE state = 'intent' AND coalesce(retry_at, created_at) <= now()
    AND (applied_at IS NULL OR coalesce(effective_at, created_at) <= now())
    AND NOT EXISTS (
        SELECT FROM withdrawals w
        WHERE w.customer_id = g.customer_id AND w.grant_id = g.grant_id
            AND w.state = 'applied' AND w.withdrawn_nano = 0)
ORDER BY coalesce(retry_at, created_at), grant_id LIMIT $1

-- name: note_applied
UPDATE grants SET applied_at = coalesce(applied_at, now()) WHERE customer_id = $1 AND grant_id = $2

-- name: refuse_grant
UPDATE grants SET state = 'refused', refused_at = now(), refusal = $3
WHERE customer_id = $1 AND grant_id = $2 AND state = 'intent'

-- name: put_grant_behind
-- It waits as long again as it has waited, within bounds.
UPDATE grants SET retry_at = now() + least(greatest(now() - created_at, $3), $4)
WHERE customer_id = $1 AND grant_id = $2 AND state = 'intent'

-- name: insert_withdrawal
INSERT INTO withdrawals (customer_id, withdrawal_id, grant_id, kind, amount_nano, reason)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (customer_id, withdrawal_id) DO NOTHING

-- name: read_withdrawal
SELECT withdrawal_id, customer_id, grant_id, kind, amount_nano, reason, state, withdrawn_nano,
    created_at, refusal
FROM withdrawals WHERE customer_id = $1 AND withdrawal_id = $2

-- name: finish_withdrawal
UPDATE withdrawals SET state = $3, withdrawn_nano = $4, refusal = $5, finished_at = now()
WHERE customer_id = $1 AND withdrawal_id = $2 AND state = 'intent'

-- name: put_withdrawal_behind
UPDATE withdrawals SET retry_at = now() + least(greatest(now() - created_at, $3), $4)
WHERE customer_id = $1 AND withdrawal_id = $2 AND state = 'intent'

-- name: list_withdrawals
SELECT withdrawal_id, customer_id, grant_id, kind, amount_nano, reason, state, withdrawn_nano,
    created_at, refusal
FROM withdrawals WHERE customer_id = $1 AND withdrawal_id > $2 ORDER BY withdrawal_id LIMIT $3

-- name: pending_withdrawals
SELECT withdrawal_id, customer_id, grant_id, kind, amount_nano, reason, state, withdrawn_nano,
    created_at, refusal
FROM withdrawals WHERE state = 'intent' AND coalesce(retry_at, created_at) <= now()
ORDER BY coalesce(retry_at, created_at), withdrawal_id LIMIT $1

-- name: insert_schedule
INSERT INTO grant_schedules (
    customer_id, schedule_id, amount_nano, currency, kind, priority, meters, unit, every, anchor,
    tz, starts_at, ends_at, rolls_least_nano, rolls_most_nano, next_start, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (customer_id, schedule_id) DO NOTHING

-- name: read_schedule
SELECT schedule_id, customer_id, amount_nano, currency, unit, anchor, starts_at, every, tz, ends_at,
    kind, priority, meters, rolls_least_nano, rolls_most_nano, next_start, created_at
FROM grant_schedules WHERE customer_id = $1 AND schedule_id = $2

-- name: list_schedules
SELECT schedule_id, customer_id, amount_nano, currency, unit, anchor, starts_at, every, tz, ends_at,
    kind, priority, meters, rolls_least_nano, rolls_most_nano, next_start, created_at
FROM grant_schedules WHERE customer_id = $1 AND schedule_id > $2 ORDER BY schedule_id LIMIT $3

-- name: end_schedule
UPDATE grant_schedules SET ends_at = least(ends_at, $3),
    next_start = CASE WHEN next_start < $3 THEN next_start END,
    due_at = CASE WHEN next_start < $3 THEN due_at END
WHERE customer_id = $1 AND schedule_id = $2
RETURNING schedule_id, customer_id, amount_nano, currency, unit, anchor, starts_at, every, tz, ends_at,
    kind, priority, meters, rolls_least_nano, rolls_most_nano, next_start, created_at

-- name: due_schedules
WITH due AS (
    SELECT customer_id, schedule_id FROM grant_schedules
    WHERE due_at <= $1 AND (leased_until IS NULL OR leased_until <= now())
    ORDER BY due_at LIMIT $2
    FOR UPDATE SKIP LOCKED),
leased AS (
    UPDATE grant_schedules s SET leased_until = now() + $3::interval
    FROM due WHERE s.customer_id = due.customer_id AND s.schedule_id = due.schedule_id
    RETURNING s.*)
SELECT schedule_id, customer_id, amount_nano, currency, unit, anchor, starts_at, every, tz, ends_at,
    kind, priority, meters, rolls_least_nano, rolls_most_nano, next_start, created_at
FROM leased ORDER BY due_at, customer_id, schedule_id

-- name: advance_schedule
-- The schedule may have been given an end since it was read.
UPDATE grant_schedules
SET next_start = n.next_start, due_at = CASE WHEN n.next_start IS NOT NULL THEN $5::timestamptz END,
    leased_until = NULL
FROM (SELECT customer_id, schedule_id,
        CASE WHEN ends_at IS NULL OR $4 < ends_at THEN $4::timestamptz END AS next_start
    FROM grant_schedules WHERE customer_id = $1 AND schedule_id = $2) n
WHERE grant_schedules.customer_id = n.customer_id AND grant_schedules.schedule_id = n.schedule_id
    AND grant_schedules.next_start = $3::timestamptz

-- name: put_standing
INSERT INTO standings (
    customer_id, standing, reason, until, overdue_since, overdue_nano, disputed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (customer_id) DO UPDATE
SET standing = excluded.standing, reason = excluded.reason, until = excluded.until,
    overdue_since = excluded.overdue_since, overdue_nano = excluded.overdue_nano,
    disputed = excluded.disputed, updated_at = now()

-- name: read_standing
SELECT standing, reason, until, overdue_since, overdue_nano, disputed FROM standings WHERE customer_id = $1

-- name: begin_idempotent
-- A first use, or one that has stayed without an answer so long that its process must be gone.
INSERT INTO idempotency_keys (principal, key, route, body_hash) VALUES ($1, $2, $3, $4)
ON CONFLICT (principal, key) DO UPDATE SET created_at = now()
WHERE idempotency_keys.status IS NULL
    AND idempotency_keys.route = excluded.route
    AND idempotency_keys.body_hash = excluded.body_hash
    AND idempotency_keys.created_at <= now() - $5::interval
RETURNING key

-- name: read_idempotent
SELECT route, body_hash, status, response FROM idempotency_keys WHERE principal = $1 AND key = $2

-- name: finish_idempotent
UPDATE idempotency_keys SET status = $3, response = $4
WHERE principal = $1 AND key = $2 AND status IS NULL

-- name: abandon_idempotent
DELETE FROM idempotency_keys WHERE principal = $1 AND key = $2 AND status IS NULL

-- name: sweep_idempotent
DELETE FROM idempotency_keys WHERE (principal, key) IN (
    SELECT principal, key FROM idempotency_keys
    WHERE created_at < now() - $1::interval ORDER BY created_at LIMIT $2
    FOR UPDATE SKIP LOCKED)

-- name: ensure_shard
INSERT INTO shards (shard) SELECT $1::integer
WHERE NOT EXISTS (SELECT FROM shards WHERE shard = $1)
ON CONFLICT (shard) DO NOTHING

-- name: claim_shard
-- A row that is locked is being settled by its owner: skip it rather than wait.
WITH free AS (
    SELECT shard FROM shards
    WHERE shard = $1 AND (lease_owner IS NULL OR lease_owner = $2 OR lease_until <= now())
    FOR UPDATE SKIP LOCKED)
UPDATE shards
SET fence = fence + CASE WHEN lease_owner = $2 THEN 0 ELSE 1 END,
    lease_owner = $2, lease_until = now() + $3::interval
FROM free WHERE shards.shard = free.shard
RETURNING fence, stream_offset, epoch

-- name: lease_left
SELECT greatest(0, extract(epoch FROM lease_until - now()))::float8
FROM shards WHERE shard = $1 AND lease_owner <> $2

-- name: lock_shard
-- now() is the database transaction's, so it is posted_at of whatever the batch writes.
SELECT epoch, stream_offset, fence, lease_owner, chain_seq, chain_hash, chain_began,
    now() AS posted_at
FROM shards WHERE shard = $1 FOR UPDATE

-- name: advance_offset
UPDATE shards SET stream_offset = $2, chain_seq = $3, chain_hash = $4,
    settled_epoch = greatest(settled_epoch, $5),
    settled_seq = CASE WHEN $5 > settled_epoch THEN $6
        WHEN $5 = settled_epoch THEN greatest(settled_seq, $6) ELSE settled_seq END
WHERE shard = $1

-- name: begin_chain
UPDATE shards SET chain_seq = $2, chain_hash = $3, chain_began = $4 WHERE shard = $1

-- name: unchained_of_shard
-- What the shard posted before its chain began, after the last that is linked already.
SELECT t.customer_id, t.transaction_id
FROM ledger_transactions t
WHERE t.shard = $1
    AND NOT EXISTS (
        SELECT FROM ledger_chain c
        WHERE c.customer_id = t.customer_id AND c.transaction_id = t.transaction_id)
    AND t.posted_at >= coalesce((
        SELECT l.posted_at FROM ledger_chain c
        JOIN ledger_transactions l USING (customer_id, transaction_id)
        WHERE c.chain = $1 AND c.seq = $2), '-infinity')
ORDER BY t.posted_at, t.customer_id, t.transaction_id LIMIT $3

-- name: read_transactions
SELECT t.customer_id, t.transaction_id, t.kind, t.currency, t.shard, t.first_entry_id,
    t.last_entry_id, t.event_count, t.posted_at
FROM unnest($1::text[], $2::text[]) AS k (customer_id, transaction_id)
JOIN ledger_transactions t USING (customer_id, transaction_id)

-- name: read_entries
SELECT e.customer_id, e.transaction_id, e.account, e.amount_nano
FROM unnest($1::text[], $2::text[]) AS k (customer_id, transaction_id)
JOIN ledger_entries e USING (customer_id, transaction_id)

-- name: read_movements
SELECT m.customer_id, m.transaction_id, m.grant_id, m.amount_nano
FROM unnest($1::text[], $2::text[]) AS k (customer_id, transaction_id)
JOIN grant_movements m USING (customer_id, transaction_id)

-- name: read_posted_events
SELECT customer_id, transaction_id, hold_id, kind, amount_nano, overage_nano, prepaid,
    coalesce(owed_nano, 0) AS owed_nano
FROM usage_events
WHERE shard = $1 AND posted_at BETWEEN $2 AND $3 AND transaction_id = ANY ($4::text[])

-- name: read_links
SELECT chain, seq, customer_id, transaction_id, content_hash, hash
FROM ledger_chain WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- name: read_heads
-- Also of chains whose shard's row is gone.
SELECT chain, s.chain_seq, s.chain_hash, coalesce(s.chain_began, false) AS chain_began
FROM (SELECT DISTINCT chain FROM ledger_chain) c
FULL JOIN (SELECT shard AS chain, chain_seq, chain_hash, chain_began FROM shards) s USING (chain)
WHERE $1::integer IS NULL OR chain = $1
ORDER BY chain

-- name: count_unchained
SELECT t.shard AS chain, count(*) AS transactions,
    (array_agg(t.customer_id ORDER BY t.posted_at, t.transaction_id))[1] AS customer_id,
    (array_agg(t.transaction_id ORDER BY t.posted_at, t.transaction_id))[1] AS transaction_id
FROM ledger_transactions t
LEFT JOIN ledger_chain c USING (customer_id, transaction_id)
WHERE c.chain IS NULL AND ($1::integer IS NULL OR t.shard = $1)
GROUP BY t.shard ORDER BY t.shard

-- name: count_stray_entries
SELECT e.customer_id, e.transaction_id, count(*) OVER () AS strays
FROM ledger_entries e
LEFT JOIN ledger_transactions t USING (customer_id, transaction_id)
WHERE t.shard IS NULL
ORDER BY e.customer_id, e.transaction_id LIMIT 1

-- name: count_stray_movements
SELECT m.customer_id, m.transaction_id, count(*) OVER () AS strays
FROM grant_movements m
LEFT JOIN ledger_transactions t USING (customer_id, transaction_id)
WHERE t.shard IS NULL
ORDER BY m.customer_id, m.transaction_id LIMIT 1

-- name: grants_that_differ
SELECT g.customer_id, g.grant_id, g.remaining_nano,
    g.opening_nano + coalesce(m.moved_nano, 0) AS moved_nano, count(*) OVER () AS grants
FROM grants g
LEFT JOIN (
    SELECT customer_id, grant_id, sum(amount_nano) AS moved_nano
    FROM grant_movements GROUP BY customer_id, grant_id) m USING (customer_id, grant_id)
WHERE g.remaining_nano <> g.opening_nano + coalesce(m.moved_nano, 0)
ORDER BY g.customer_id, g.grant_id LIMIT 1

-- name: count_events
SELECT shard AS chain, count(*) AS events FROM usage_events
WHERE $1::integer IS NULL OR shard = $1
GROUP BY shard

-- name: lock_roots
SELECT pg_advisory_xact_lock($1)

-- name: root_heads
-- One statement, so one moment of all chains; each head must be its chain's own last link.
SELECT s.shard AS chain, s.chain_seq AS seq, s.chain_hash AS hash, c.hash = s.chain_hash AS linked
FROM shards s
LEFT JOIN ledger_chain c ON c.chain = s.shard AND c.seq = s.chain_seq
WHERE s.chain_seq > 0
ORDER BY s.shard

-- name: read_ledger_id
SELECT ledger_id::text FROM ledger_identity

-- name: insert_root
INSERT INTO ledger_roots (
    root_number, day, daily, made_at, heads, previous, key_id, signature)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8)

-- name: newest_root
SELECT root_number, day, daily, made_at, heads, previous, key_id, signature
FROM ledger_roots ORDER BY root_number DESC LIMIT 1

-- name: daily_root
SELECT root_number, day, daily, made_at, heads, previous, key_id, signature
FROM ledger_roots WHERE daily AND day = $1

-- name: list_roots
SELECT root_number, day, daily, made_at, heads, previous, key_id, signature
FROM ledger_roots WHERE root_number > $1 ORDER BY root_number LIMIT $2

-- name: heads_that_differ
SELECT k.chain, k.seq, k.hash, c.hash AS linked
FROM unnest($1::integer[], $2::bigint[], $3::bytea[]) AS k (chain, seq, hash)
LEFT JOIN ledger_chain c USING (chain, seq)
WHERE c.hash IS DISTINCT FROM k.hash
ORDER BY k.chain

-- name: settled_customers
-- Those whose account at the provider is still to come have ''; whoever is marked as a test, or was
-- erased, is never reported, and nobody waits for an account whose invoices a provider collects.
SELECT c.customer_id, c.currency,
    CASE WHEN c.labels ->> 'test' = 'true' THEN NULL
        -- Whoever else is told of quantities knows our customers by our ids.
        WHEN $3 <> 'stripe' THEN c.customer_id
        WHEN c.stripe_customer_id IS NOT NULL THEN c.stripe_customer_id
        WHEN $2 AND p.state IS DISTINCT FROM 'ended' AND NOT EXISTS (
            SELECT FROM payers r WHERE r.customer_id = c.customer_id AND r.collect)
            THEN '' END AS account_id,
    -- Read under the lock of the shard's row, under which it is moved.
    i.closed_until
FROM customers c
LEFT JOIN provider_customers p ON p.customer_id = c.customer_id AND p.provider = $3
LEFT JOIN invoice_cursors i ON i.customer_id = c.customer_id
WHERE c.customer_id = ANY ($1::text[])

-- name: insert_events
INSERT INTO usage_events (
    customer_id, day, hold_id, kind, transaction_id, shard, entry_id, currency,
    amount_nano, overage_nano, held_nano, prepaid, late,
    plan, price_version, model, user_id, credential_id, route, edge, gateway_id, status,
    input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, reasoning_tokens,
    total_tokens, duration_ms, request_bytes, response_bytes, estimated, estimate_reason,
    client_key, request_id, occurred_at, received_at, decided_at, owed_nano)
SELECT * FROM unnest(
    $1::text[], $2::date[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[],
    $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::boolean[], $13::boolean[],
    $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],
    $21::text[], $22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[],
    $27::bigint[], $28::bigint[], $29::bigint[], $30::bigint[], $31::bigint[], $32::boolean[],
    $33::text[], $34::text[], $35::bytea[], $36::timestamptz[], $37::timestamptz[],
    $38::timestamptz[], $39::bigint[])
ON CONFLICT (customer_id, day, hold_id, kind) DO NOTHING
RETURNING customer_id, hold_id, kind

-- name: stored_amounts
SELECT e.customer_id, e.hold_id, e.kind, e.amount_nano, e.currency
FROM unnest($1::text[], $2::date[], $3::text[], $4::text[])
    AS k (customer_id, day, hold_id, kind)
JOIN usage_events e USING (customer_id, day, hold_id, kind)

-- name: stored_lines
SELECT l.customer_id, l.hold_id, l.meter,
    sum(l.quantity)::bigint AS quantity, sum(l.amount_nano)::bigint AS amount_nano
FROM unnest($1::text[], $2::date[], $3::text[]) AS k (customer_id, day, hold_id)
JOIN usage_lines l USING (customer_id, day, hold_id)
GROUP BY l.customer_id, l.hold_id, l.meter

-- name: insert_client_keys
INSERT INTO usage_client_keys (customer_id, client_key, hold_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (customer_id, client_key) DO NOTHING

-- name: clashing_client_keys
SELECT k.client_key
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (customer_id, client_key, hold_id)
JOIN usage_client_keys s USING (customer_id, client_key)
WHERE s.hold_id <> k.hold_id
LIMIT 1

-- name: post_grants
-- The stream is what was decided: it wins over a refusal that another attempt was told.
UPDATE grants SET state = 'posted', posted_at = now(), refused_at = NULL, refusal = ''
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
    AS k (customer_id, grant_id, amount_nano, currency)
WHERE grants.customer_id = k.customer_id AND grants.grant_id = k.grant_id
    AND grants.amount_nano = k.amount_nano AND grants.currency = k.currency
    AND grants.state <> 'posted'
RETURNING grants.customer_id, grants.grant_id

-- name: posted_grants
SELECT g.customer_id, g.grant_id, g.amount_nano, g.currency
FROM unnest($1::text[], $2::text[]) AS k (customer_id, grant_id)
JOIN grants g USING (customer_id, grant_id)
WHERE g.state = 'posted'

-- name: kinds_of_grants
SELECT g.customer_id, g.grant_id, g.kind
FROM unnest($1::text[], $2::text[]) AS k (customer_id, grant_id)
JOIN grants g USING (customer_id, grant_id)

-- name: known_withdrawals
SELECT w.customer_id, w.withdrawal_id, w.grant_id, w.kind
FROM unnest($1::text[], $2::text[]) AS k (customer_id, withdrawal_id)
JOIN withdrawals w USING (customer_id, withdrawal_id)

-- name: insert_entries
-- With their movements: the triggers, which fire at the statement's end, compare the two. An
-- unknown grant and one that would have less than nothing left are refused by constraints.
WITH movements AS (
    SELECT * FROM unnest($5::text[], $6::text[], $7::text[], $8::bigint[])
        AS m (customer_id, transaction_id, grant_id, amount_nano)),
moved AS (
    INSERT INTO grant_movements (customer_id, transaction_id, grant_id, amount_nano)
    SELECT customer_id, transaction_id, grant_id, amount_nano FROM movements),
remaining AS (
    UPDATE grants SET remaining_nano = grants.remaining_nano + m.amount_nano
    FROM (SELECT customer_id, grant_id, sum(amount_nano) AS amount_nano
        FROM movements GROUP BY customer_id, grant_id) m
    WHERE grants.customer_id = m.customer_id AND grants.grant_id = m.grant_id)
INSERT INTO ledger_entries (customer_id, transaction_id, account, amount_nano)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])

-- name: add_to_balances
INSERT INTO account_balances AS b (
    customer_id, currency, customer_credit_nano, customer_overage_nano,
    customer_receivable_nano, funding_nano, promotion_nano, breakage_nano, revenue_nano,
    clearing_nano, tax_nano, granted_nano, used_nano, used_prepaid_nano, voided_nano, expired_nano)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
    $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[])
ON CONFLICT (customer_id, currency) DO UPDATE SET
    customer_credit_nano = b.customer_credit_nano + excluded.customer_credit_nano,
    customer_overage_nano = b.customer_overage_nano + excluded.customer_overage_nano,
    customer_receivable_nano = b.customer_receivable_nano + excluded.customer_receivable_nano,
    funding_nano = b.funding_nano + excluded.funding_nano,
    promotion_nano = b.promotion_nano + excluded.promotion_nano,
    breakage_nano = b.breakage_nano + excluded.breakage_nano,
    revenue_nano = b.revenue_nano + excluded.revenue_nano,
    clearing_nano = b.clearing_nano + excluded.clearing_nano,
    tax_nano = b.tax_nano + excluded.tax_nano,
    granted_nano = b.granted_nano + excluded.granted_nano,
    used_nano = b.used_nano + excluded.used_nano,
    used_prepaid_nano = b.used_prepaid_nano + excluded.used_prepaid_nano,
    voided_nano = b.voided_nano + excluded.voided_nano,
    expired_nano = b.expired_nano + excluded.expired_nano,
    updated_at = now()

-- name: read_available
SELECT coalesce(
    b.granted_nano - b.voided_nano - b.expired_nano - b.used_nano, 0
) AS available_nano
FROM customers c LEFT JOIN account_balances b USING (customer_id, currency)
WHERE c.customer_id = $1

-- name: insert_quarantine
INSERT INTO quarantine (shard, reason, key, customer_id, entry_id, problem, payload)
SELECT * FROM unnest(
    $1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
ON CONFLICT (shard, reason, key) DO NOTHING
RETURNING reason

-- name: add_to_windows
-- The proposed seq is used only where no row is open. Settlement of a customer is serial (its
-- shard's row is locked), so nobody else adds a seq meanwhile; a seal that is under way is
-- waited for, and then the next seq is inserted.
INSERT INTO report_windows AS w (
    customer_id, provider, meter, window_start, seq, provider_customer_id, quantity)
SELECT a.customer_id, $1, a.meter, a.window_start,
    coalesce((
        SELECT max(o.seq) FROM report_windows o
        WHERE o.customer_id = a.customer_id AND o.provider = $1 AND o.meter = a.meter
            AND o.window_start = a.window_start AND o.seq > 0
    ), 0) + 1,
    a.provider_customer_id, a.quantity
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[])
    AS a (customer_id, meter, window_start, provider_customer_id, quantity)
ON CONFLICT (customer_id, provider, meter, window_start) WHERE state = 'open'
DO UPDATE SET quantity = w.quantity + excluded.quantity
RETURNING w.customer_id, w.meter, w.window_start, w.seq

-- name: query_meter
-- A hold counts once: what its capture and corrections sum up to, under the groups that its
-- newest line tells. Groups beyond $10 of a subject and window, by the time of their first use,
-- are joined under "other". $4 is "" for one window over all; $11 bounds the rows.
WITH holds AS (
    SELECT l.customer_id, l.hold_id,
        sum(l.quantity)::bigint AS quantity,
        (array_agg(l.groups ORDER BY o.place DESC))[1] AS groups,
        (array_agg(l.text_hash ORDER BY o.place DESC))[1] AS text_hash,
        min(e.occurred_at) AS occurred_at
    FROM usage_events e
    JOIN usage_lines l USING (customer_id, day, hold_id, kind)
    CROSS JOIN LATERAL (SELECT CASE WHEN l.kind = 'orphan' THEN 0 WHEN l.kind = 'capture' THEN 1
        ELSE 1 + split_part(l.kind, ':', 2)::integer END AS place) o
    WHERE l.meter = $1 AND e.occurred_at >= $2 AND e.occurred_at < $3
        AND ($6::text[] IS NULL OR e.customer_id = ANY ($6))
    GROUP BY l.customer_id, l.hold_id),
placed AS (
    SELECT h.customer_id, h.hold_id, h.quantity, h.text_hash, h.occurred_at,
        CASE WHEN $4 = '' THEN $2 ELSE date_trunc($4, h.occurred_at, $5) END AS window_start,
        CASE WHEN $7 THEN h.customer_id ELSE '' END AS subject,
        ARRAY(SELECT coalesce(h.groups ->> g.name, '')
            FROM unnest($8::text[]) WITH ORDINALITY AS g (name, place) ORDER BY g.place) AS wanted
    FROM holds h
    WHERE NOT EXISTS (
        SELECT FROM jsonb_each($9::jsonb) f
        WHERE NOT f.value ? coalesce(h.groups ->> f.key, ''))),
seen AS (
    SELECT subject, window_start, wanted,
        row_number() OVER (
            PARTITION BY subject, window_start ORDER BY min(occurred_at), wanted) AS place
    FROM placed GROUP BY subject, window_start, wanted),
bounded AS (
    SELECT p.subject, p.window_start, p.quantity, p.text_hash, p.occurred_at, p.hold_id,
        CASE WHEN s.place <= $10 THEN p.wanted
            ELSE array_fill('other'::text, ARRAY[cardinality(p.wanted)]) END AS wanted
    FROM placed p JOIN seen s USING (subject, window_start, wanted))
SELECT subject, window_start, wanted,
    sum(quantity)::text AS total, max(quantity) AS largest,
    count(DISTINCT text_hash) FILTER (WHERE quantity > 0) AS distinct_values,
    (array_agg(quantity ORDER BY occurred_at DESC, hold_id DESC))[1] AS newest
FROM bounded
GROUP BY subject, window_start, wanted
ORDER BY window_start, subject, wanted
LIMIT $11

-- name: record_thresholds
INSERT INTO threshold_events
    (customer_id, quota, subject, period_start, percent, used, quota_limit)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::smallint[],
    $6::numeric[], $7::numeric[])
ON CONFLICT (customer_id, quota, subject, period_start, percent) DO NOTHING
RETURNING customer_id, quota, subject, period_start, percent, used, quota_limit

-- name: list_thresholds
SELECT customer_id, quota, subject, period_start, percent, used, quota_limit
FROM threshold_events WHERE customer_id = $1
ORDER BY event_number DESC LIMIT $2

-- name: put_top_up_rule
INSERT INTO top_up_rules (customer_id, threshold_nano, amount_nano, target_nano)
SELECT customer_id, $2, $3, $4 FROM customers WHERE customer_id = $1
ON CONFLICT (customer_id) DO UPDATE SET threshold_nano = excluded.threshold_nano,
    amount_nano = excluded.amount_nano, target_nano = excluded.target_nano,
    looked_at = '-infinity'
RETURNING threshold_nano, amount_nano, target_nano

-- name: read_top_up_rule
SELECT threshold_nano, amount_nano, target_nano FROM top_up_rules WHERE customer_id = $1

-- name: delete_top_up_rule
DELETE FROM top_up_rules WHERE customer_id = $1

-- name: claim_top_up_rules
WITH due AS (
    SELECT customer_id FROM top_up_rules WHERE looked_at <= $1::timestamptz - $3::interval
    ORDER BY looked_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
UPDATE top_up_rules r SET looked_at = $1
FROM due WHERE r.customer_id = due.customer_id
RETURNING r.customer_id, r.threshold_nano, r.amount_nano, r.target_nano

-- name: list_top_up_attempts
SELECT customer_id, number, amount_nano, currency, state, tries, asked_at, tried_at, ended_at,
    provider_reference
FROM top_up_attempts WHERE customer_id = $1 ORDER BY number DESC LIMIT $2

-- name: begin_top_up_attempt
INSERT INTO top_up_attempts (customer_id, number, amount_nano, currency, state, asked_at)
VALUES ($1, $2, $3, $4, 'asked', $5)
ON CONFLICT DO NOTHING
RETURNING number

-- name: note_top_up_try
UPDATE top_up_attempts SET tries = tries + 1, tried_at = $4
WHERE customer_id = $1 AND number = $2 AND tries = $3 AND state = 'asked'
RETURNING customer_id, number, amount_nano, currency, state, tries, asked_at, tried_at, ended_at,
    provider_reference

-- name: note_top_up_state
UPDATE top_up_attempts
SET state = $3, provider_reference = $4, ended_at = CASE WHEN $3 <> 'paid' THEN $5::timestamptz END
WHERE customer_id = $1 AND number = $2
    AND (state, $3::text) IN (('asked', 'paid'), ('asked', 'declined'), ('paid', 'given'))

-- name: read_top_up_attempt
SELECT customer_id, number, amount_nano, currency, state, tries, asked_at, tried_at, ended_at,
    provider_reference
FROM top_up_attempts WHERE customer_id = $1 AND number = $2

-- name: insert_decisions
INSERT INTO decisions (
    customer_id, day, decision_id, allowed, decided_at, epoch, seq, unplaced, shard, entry_id,
    policy_version, code, rule, record)
SELECT * FROM unnest(
    $1::text[], $2::date[], $3::text[], $4::boolean[], $5::timestamptz[], $6::bigint[],
    $7::bigint[], $8::boolean[], $9::integer[], $10::text[], $11::text[], $12::text[],
    $13::text[], $14::text[])
ON CONFLICT (customer_id, day, decision_id, allowed) DO NOTHING

-- name: forget_decisions
DELETE FROM decisions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM decisions WHERE decided_at < now() - $1::interval
    ORDER BY decided_at LIMIT $2))

-- name: find_decision
SELECT record FROM decisions WHERE decision_id = $1 ORDER BY allowed DESC LIMIT 1

-- name: page_decisions
SELECT decided_at, epoch, seq, unplaced, decision_id, allowed, record
FROM decisions
WHERE decided_at >= $1 AND decided_at < $2
    AND (decided_at, epoch, seq, unplaced, decision_id, allowed)
        > ($3::timestamptz, $4::bigint, $5::bigint, $6::boolean, $7::text, $8::boolean)
ORDER BY decided_at, epoch, seq, unplaced, decision_id, allowed LIMIT $9

-- name: page_customer_decisions
SELECT decided_at, epoch, seq, unplaced, decision_id, allowed, record
FROM decisions
WHERE decided_at >= $1 AND decided_at < $2
    AND (decided_at, epoch, seq, unplaced, decision_id, allowed)
        > ($3::timestamptz, $4::bigint, $5::bigint, $6::boolean, $7::text, $8::boolean)
    AND customer_id = $10
ORDER BY decided_at, epoch, seq, unplaced, decision_id, allowed LIMIT $9

-- name: idle_at_leisure
SET LOCAL idle_in_transaction_session_timeout = 0

-- name: read_usage
SELECT e.customer_id, e.hold_id, e.kind, e.currency, e.amount_nano, e.plan, e.price_version,
    e.model, e.occurred_at, e.decided_at,
    coalesce(e.input_tokens + e.output_tokens, e.total_tokens) AS tokens,
    (SELECT json_object_agg(l.meter, l.quantity)::text FROM usage_lines l
        WHERE l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
            AND l.kind = e.kind) AS quantities
FROM usage_events e
WHERE e.decided_at >= $1 AND e.decided_at < $2 AND ($3 = '' OR e.customer_id = $3)
ORDER BY e.decided_at, e.customer_id, e.hold_id, e.kind

-- name: count_orphans
-- Of the newest holds alone, so that a busy customer costs no more than others. A hold whose
-- usage came after all is none.
SELECT count(*) AS holds, count(*) FILTER (WHERE orphaned) AS orphans
FROM (
    SELECT bool_and(kind = 'orphan' OR (kind = 'capture' AND estimate_reason = 'orphaned'))
        AS orphaned
    FROM (
        SELECT hold_id, kind, estimate_reason FROM usage_events
        WHERE customer_id = $1 AND occurred_at >= $2
        ORDER BY occurred_at DESC LIMIT $3
    ) newest
    GROUP BY hold_id
) ended

-- name: add_to_counters
INSERT INTO counter_totals AS t (customer_id, field, quantity)
SELECT * FROM unnest($1::text[], $2::text[], $3::numeric[])
ON CONFLICT (customer_id, field) DO UPDATE
SET quantity = t.quantity + excluded.quantity, moved_at = now()

-- name: forget_counters
DELETE FROM counter_totals WHERE (customer_id, field) IN (
    SELECT customer_id, field FROM counter_totals WHERE moved_at < now() - $1::interval
    LIMIT $2)

-- name: list_shards
SELECT shard, epoch, settled_epoch, settled_seq, stream_offset FROM shards

-- name: adopt_epoch
INSERT INTO shards (shard, epoch) VALUES ($1, $2)
ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE shards.epoch = 0

-- name: any_customer
SELECT EXISTS (SELECT FROM customers)

-- name: open_shards
INSERT INTO shards (shard, epoch) SELECT n, 1 FROM unnest($1::integer[]) AS n ORDER BY n
ON CONFLICT (shard) DO UPDATE SET epoch = 1 WHERE shards.epoch = 0
RETURNING shard, epoch

-- name: ensure_shards
INSERT INTO shards (shard) SELECT n FROM unnest($1::integer[]) AS n ORDER BY n
ON CONFLICT (shard) DO NOTHING

-- name: lock_shards
-- In order, so that two rebuilds cannot wait for each other.
SELECT shard, epoch FROM shards WHERE shard = ANY ($1::integer[]) ORDER BY shard FOR UPDATE

-- name: raise_epochs
-- The stream begins anew, and whoever had a lease reads its offset again.
UPDATE shards SET epoch = epoch + 1, stream_offset = '0-0', fence = fence + 1,
    lease_owner = NULL, lease_until = NULL
WHERE shard = ANY ($1::integer[])
RETURNING shard, epoch, settled_epoch, settled_seq

-- name: last_decided
SELECT decided_at FROM usage_events WHERE shard = $1 ORDER BY posted_at DESC LIMIT 1

-- name: rebuild_ids
SELECT customer_id FROM customers WHERE customer_id > $1 ORDER BY customer_id LIMIT $2

-- name: rebuild_customers
SELECT c.customer_id, c.plan, c.currency, c.labels, c.overdraft_nano,
    coalesce(b.granted_nano, 0)::bigint AS granted_nano,
    coalesce(b.used_nano, 0)::bigint AS used_nano,
    coalesce(b.voided_nano, 0)::bigint AS voided_nano,
    coalesce(b.expired_nano, 0)::bigint AS expired_nano,
    coalesce(b.customer_credit_nano + b.customer_overage_nano, 0)::bigint AS prepaid_nano,
    s.standing, s.reason, s.until, s.overdue_since, s.overdue_nano, s.disputed
FROM customers c
LEFT JOIN account_balances b USING (customer_id, currency)
LEFT JOIN standings s USING (customer_id)
WHERE c.customer_id = ANY ($1::text[])

-- name: rebuild_credentials
SELECT customer_id, credential_id, secret_hash, team_id, user_id, generation, expires_at,
    revoked_at IS NOT NULL AS revoked
FROM credentials WHERE customer_id = ANY ($1::text[])

-- name: rebuild_grants
-- What was given; what the live store had been given but not the ledger, which begins anew, if only
-- to expire at once; and what was taken back before it began: that must stay known, or it would be
-- given when somebody asks again.
SELECT g.customer_id, g.grant_id, g.amount_nano, g.currency, g.kind, g.priority, g.effective_at,
    g.expires_at, g.meters, g.rolls_from, g.rolls_least_nano, g.rolls_most_nano, g.schedule_id,
    g.state, g.remaining_nano, g.created_at, g.refusal, w.kind AS ended_kind, w.withdrawal_id AS ended_by
FROM grants g
LEFT JOIN LATERAL (
    SELECT w.kind, w.withdrawal_id FROM withdrawals w
    WHERE w.customer_id = g.customer_id AND w.grant_id = g.grant_id AND w.state = 'applied'
        AND w.kind <> 'dispute' AND (w.amount_nano IS NULL OR w.withdrawn_nano = 0)
    ORDER BY w.finished_at LIMIT 1) w ON true
WHERE g.customer_id = ANY ($1::text[])
    AND (g.state = 'posted' OR w.withdrawal_id IS NOT NULL
        OR (g.state = 'intent' AND g.applied_at IS NOT NULL))

-- name: forget_unposted_withdrawals
UPDATE withdrawals SET state = 'intent', withdrawn_nano = 0, finished_at = NULL
WHERE customer_id = ANY ($1::text[]) AND state = 'applied' AND posted_at IS NULL
    AND withdrawn_nano > 0

-- name: rebuild_withdrawals
SELECT customer_id, withdrawal_id, grant_id, kind, amount_nano, withdrawn_nano FROM withdrawals
WHERE customer_id = ANY ($1::text[]) AND state = 'applied'

-- name: note_posted_withdrawals
UPDATE withdrawals w SET posted_at = now()
FROM unnest($1::text[], $2::text[]) AS k (customer_id, withdrawal_id)
WHERE w.customer_id = k.customer_id AND w.withdrawal_id = k.withdrawal_id AND w.posted_at IS NULL

-- name: rebuild_counters
SELECT customer_id, field, quantity::bigint AS quantity FROM counter_totals
WHERE customer_id = ANY ($1::text[]) AND quantity > 0

-- name: rebuild_prices
-- A correction moved its hold's whole quantity to what it is priced by itself.
WITH corrected AS (
    SELECT DISTINCT ON (customer_id, day, hold_id)
        customer_id, day, hold_id, price_version, model
    FROM usage_events
    WHERE customer_id = ANY ($1::text[]) AND kind LIKE 'correction:%'
        AND occurred_at >= date_trunc('month', now(), 'UTC') - interval '1 month'
    ORDER BY customer_id, day, hold_id, split_part(kind, ':', 2)::integer DESC)
SELECT e.customer_id, coalesce(c.price_version, e.price_version) AS price_version,
    coalesce(c.model, e.model) AS model, l.meter,
    date_trunc('month', e.occurred_at, 'UTC') AS month, sum(l.quantity)::bigint AS quantity
FROM usage_events e JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN corrected c USING (customer_id, day, hold_id)
WHERE e.customer_id = ANY ($1::text[])
    -- Usage of last month may still be late.
    AND e.occurred_at >= date_trunc('month', now(), 'UTC') - interval '1 month'
GROUP BY 1, 2, 3, 4, 5

-- name: ended_holds
-- Every event of each hold that was settled since, the newest of a hold last.
WITH recent AS (
    SELECT DISTINCT customer_id, day, hold_id FROM usage_events
    WHERE shard = $1 AND posted_at >= now() - $2::interval)
SELECT e.customer_id, e.hold_id, e.kind, e.amount_nano, e.overage_nano, e.estimated, e.model,
    e.status, e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_creation_tokens,
    e.reasoning_tokens, e.total_tokens, e.decided_at, e.occurred_at, e.price_version,
    e.owed_nano, q.quantities, q.amounts, q.owed
FROM recent r JOIN usage_events e USING (customer_id, day, hold_id)
LEFT JOIN LATERAL (
    SELECT json_object_agg(l.meter, l.quantity)::text AS quantities,
        json_object_agg(l.meter, l.amount_nano)::text AS amounts,
        json_object_agg(l.meter, coalesce(l.owed_nano, 0))::text AS owed
    FROM usage_lines l
    WHERE l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
        AND l.kind = e.kind) q ON true
ORDER BY e.customer_id, e.hold_id, CASE WHEN e.kind = 'orphan' THEN 0 WHEN e.kind = 'capture' THEN 1
    ELSE 1 + split_part(e.kind, ':', 2)::integer END

-- name: claimed_hold
-- What a claim is about, as `ended_holds`.
SELECT e.customer_id, e.hold_id, e.kind, e.amount_nano, e.overage_nano, e.estimated, e.model,
    e.status, e.input_tokens, e.output_tokens, e.cache_read_tokens, e.cache_creation_tokens,
    e.reasoning_tokens, e.total_tokens, e.decided_at, e.occurred_at, e.price_version,
    e.owed_nano, q.quantities, q.amounts, q.owed
FROM usage_events e
LEFT JOIN LATERAL (
    SELECT json_object_agg(l.meter, l.quantity)::text AS quantities,
        json_object_agg(l.meter, l.amount_nano)::text AS amounts,
        json_object_agg(l.meter, coalesce(l.owed_nano, 0))::text AS owed
    FROM usage_lines l
    WHERE l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
        AND l.kind = e.kind) q ON true
WHERE e.customer_id = $1 AND e.day = $2 AND e.hold_id = $3
ORDER BY CASE WHEN e.kind = 'orphan' THEN 0 WHEN e.kind = 'capture' THEN 1
    ELSE 1 + split_part(e.kind, ':', 2)::integer END

-- name: read_credit
-- One statement, so one moment: what is posted of a customer, and the offset it is posted up to.
-- $3 and $4 are open holds and their days. A grant that has nothing left is of no use any more. One
-- that the live store has been given and that has not begun is there as a whole, unless it is
-- being voided.
SELECT coalesce(s.stream_offset, '0-0') AS stream_offset,
    coalesce(b.granted_nano, 0) AS granted_nano, coalesce(b.used_nano, 0) AS used_nano,
    coalesce(b.used_prepaid_nano, 0) AS used_prepaid_nano,
    coalesce(b.voided_nano, 0) AS voided_nano, coalesce(b.expired_nano, 0) AS expired_nano,
    coalesce(-b.customer_overage_nano, 0) AS deficit_nano,
    ARRAY(
        SELECT e.hold_id FROM usage_events e
        WHERE e.customer_id = c.customer_id AND e.day = ANY ($3::date[])
            AND e.hold_id = ANY ($4::text[]) AND e.kind = 'capture') AS settled_holds,
    (SELECT json_agg(json_build_object(
            'grant_id', g.grant_id, 'kind', g.kind, 'priority', g.priority, 'state', g.state,
            'effective_ms', trunc(extract(epoch FROM coalesce(g.effective_at, g.created_at)) * 1000),
            'expires_ms', trunc(extract(epoch FROM g.expires_at) * 1000),
            'meters', array_to_string(g.meters, ','),
            'free_nano', CASE g.state WHEN 'posted' THEN g.remaining_nano ELSE g.amount_nano END,
            'rolls', coalesce(
                g.rolls_from || ' ' || g.rolls_least_nano || ' ' || g.rolls_most_nano, '')))
        FROM grants g
        WHERE g.customer_id = c.customer_id AND (g.remaining_nano <> 0 OR (
            g.state = 'intent' AND g.applied_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM withdrawals w
                WHERE w.customer_id = g.customer_id AND w.grant_id = g.grant_id
                    AND w.kind <> 'dispute' AND w.state <> 'refused'))))::text AS grants
FROM customers c
LEFT JOIN account_balances b USING (customer_id, currency)
LEFT JOIN shards s ON s.shard = $2
WHERE c.customer_id = $1

-- name: insert_reconcile_run
INSERT INTO reconcile_runs (customers, unread, wrong, counts, nano) VALUES ($1, $2, $3, $4, $5)

-- name: forget_reconcile_runs
DELETE FROM reconcile_runs WHERE run_number NOT IN (
    SELECT run_number FROM reconcile_runs ORDER BY run_number DESC LIMIT $1)

-- name: list_reconcile_runs
SELECT run_number, finished_at, customers, unread, wrong, counts, nano
FROM reconcile_runs ORDER BY run_number DESC LIMIT $1

-- name: list_customer_ids
SELECT customer_id FROM customers WHERE customer_id > $1 ORDER BY customer_id LIMIT $2

-- name: unsummed_balances
WITH entries AS (
    SELECT t.customer_id, t.currency, e.account, sum(e.amount_nano) AS nano
    FROM ledger_transactions t JOIN ledger_entries e USING (customer_id, transaction_id)
    GROUP BY t.customer_id, t.currency, e.account),
balances AS (
    SELECT b.customer_id, b.currency, p.account, p.nano
    FROM account_balances b
    CROSS JOIN LATERAL (VALUES
        ('customer_credit', b.customer_credit_nano), ('customer_overage', b.customer_overage_nano),
        ('customer_receivable', b.customer_receivable_nano), ('funding', b.funding_nano),
        ('promotion', b.promotion_nano), ('breakage', b.breakage_nano),
        ('revenue', b.revenue_nano), ('clearing', b.clearing_nano), ('tax', b.tax_nano))
        AS p (account, nano))
SELECT customer_id, 'account ' || account AS what, coalesce(e.nano, 0) AS expected_nano,
    coalesce(b.nano, 0) AS found_nano
FROM entries e FULL JOIN balances b USING (customer_id, currency, account)
WHERE coalesce(e.nano, 0) <> coalesce(b.nano, 0)
ORDER BY customer_id, what LIMIT $1

-- name: unsummed_grants
SELECT g.customer_id, 'left of grant ' || g.grant_id AS what,
    g.opening_nano + coalesce(m.nano, 0) AS expected_nano, g.remaining_nano AS found_nano
FROM grants g
LEFT JOIN (
    SELECT customer_id, grant_id, sum(amount_nano) AS nano
    FROM grant_movements GROUP BY customer_id, grant_id) m USING (customer_id, grant_id)
WHERE g.remaining_nano <> g.opening_nano + coalesce(m.nano, 0)
ORDER BY g.customer_id, what LIMIT $1

-- name: resum_balances
-- Only a row whose accounts are wrong; the other sums follow from the kinds of transactions.
WITH entries AS (
    SELECT t.currency,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'customer_credit'), 0) AS credit,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'customer_overage'), 0) AS overage,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'customer_receivable'), 0) AS owed,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'funding'), 0) AS funding,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'promotion'), 0) AS promotion,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'breakage'), 0) AS breakage,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'revenue'), 0) AS revenue,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'clearing'), 0) AS clearing,
        coalesce(sum(e.amount_nano) FILTER (WHERE e.account = 'tax'), 0) AS tax,
        coalesce(sum(e.amount_nano) FILTER (
            WHERE t.kind = 'usage' AND e.account = 'revenue'), 0) AS used,
        coalesce(sum(e.amount_nano) FILTER (
            WHERE t.kind = 'usage' AND e.account IN ('revenue', 'customer_receivable')), 0)
            AS used_prepaid,
        coalesce(-sum(e.amount_nano) FILTER (
            WHERE t.kind IN ('grant', 'rollover') AND e.account IN ('funding', 'promotion')), 0)
            AS granted,
        coalesce(sum(e.amount_nano) FILTER (
            WHERE t.kind IN ('void', 'refund', 'dispute')
                AND e.account IN ('funding', 'promotion')), 0) AS voided,
        coalesce(sum(e.amount_nano) FILTER (
            WHERE t.kind = 'expire' AND e.account IN ('breakage', 'promotion')), 0) AS expired
    FROM ledger_transactions t JOIN ledger_entries e USING (customer_id, transaction_id)
    WHERE t.customer_id = $1
    GROUP BY t.currency)
UPDATE account_balances b SET
    customer_credit_nano = e.credit, customer_overage_nano = e.overage,
    customer_receivable_nano = e.owed, funding_nano = e.funding, promotion_nano = e.promotion,
    breakage_nano = e.breakage, revenue_nano = e.revenue, clearing_nano = e.clearing,
    tax_nano = e.tax, granted_nano = e.granted,
    used_nano = e.used, used_prepaid_nano = e.used_prepaid, voided_nano = e.voided,
    expired_nano = e.expired, updated_at = now()
FROM entries e
WHERE b.customer_id = $1 AND b.currency = e.currency

-- name: resum_grants
UPDATE grants g SET remaining_nano = g.opening_nano + coalesce((
    SELECT sum(m.amount_nano) FROM grant_movements m
    WHERE m.customer_id = g.customer_id AND m.grant_id = g.grant_id), 0)
WHERE g.customer_id = $1
