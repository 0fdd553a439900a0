-- name: inbox_want
-- One more event, or a look without one, which counts as one. What is parked gets another try.
INSERT INTO inbox_objects AS o (
    object_key, provider, kind, object_id, state, reason, events, event_type, livemode)
VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8)
ON CONFLICT (object_key) DO UPDATE
SET state = excluded.state, reason = excluded.reason, events = o.events + 1,
    event_type = coalesce(nullif(excluded.event_type, ''), o.event_type),
    livemode = coalesce(excluded.livemode, o.livemode),
    attempts = 0,
    wanted_at = CASE WHEN o.state = 'pending' THEN o.wanted_at ELSE now() END,
    retry_at = now()
RETURNING events

-- name: inbox_insert
INSERT INTO inbox (provider, event_id, event_type, object_key, number, done_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $4::text IS NULL THEN now() END)
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING 1

-- name: inbox_known
SELECT 1 FROM inbox WHERE provider = $1 AND event_id = $2

-- name: inbox_claim
WITH due AS (
    SELECT object_key FROM inbox_objects
    WHERE state = 'pending' AND retry_at <= now() AND lease_until <= now()
        AND ($4::text[] IS NULL OR provider = ANY ($4))
    ORDER BY retry_at LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE inbox_objects o
SET lease_owner = $1, lease_until = now() + $3::interval, fence = nextval('inbox_fences'),
    attempts = attempts + 1
FROM due WHERE o.object_key = due.object_key
RETURNING provider, kind, object_id, fence, events, attempts, livemode, ARRAY(
    SELECT DISTINCT i.event_type FROM inbox i
    WHERE i.object_key = o.object_key AND i.done_at IS NULL AND i.number <= o.events
    ORDER BY i.event_type LIMIT 100) AS types

-- name: inbox_lock
-- The objects that something is written of, in one order everywhere.
SELECT object_key, fence FROM inbox_objects WHERE object_key = ANY($1::text[])
ORDER BY object_key FOR UPDATE

-- name: inbox_stands
-- Nobody claims it before the transaction has ended.
SELECT 1 FROM inbox_objects WHERE object_key = $1 AND fence = $2 FOR SHARE

-- name: inbox_done
UPDATE inbox SET done_at = now() WHERE object_key = $1 AND number <= $2 AND done_at IS NULL

-- name: inbox_finish
-- An event that came since the claim leaves it wanted; what is put aside is put aside all the same
-- only if none came.
UPDATE inbox_objects
SET state = CASE WHEN events > $2 THEN 'pending' WHEN $3 <> '' THEN 'parked' ELSE 'idle' END,
    reason = $3, attempts = 0, handled_at = now(), lease_owner = '', lease_until = '-infinity'
WHERE object_key = $1

-- name: inbox_fail
UPDATE inbox_objects
SET state = CASE WHEN $4::interval IS NULL AND events <= $5 THEN 'parked' ELSE 'pending' END,
    reason = $3, retry_at = now() + coalesce($4::interval, '0'), lease_owner = '',
    lease_until = '-infinity'
WHERE object_key = $1 AND fence = $2

-- name: inbox_list
SELECT provider, kind, object_id, state, reason, events, attempts, event_type, livemode, wanted_at,
    retry_at, handled_at
FROM inbox_objects
WHERE object_key > $1 AND ($2::text IS NULL OR state = $2)
ORDER BY object_key LIMIT $3

-- name: inbox_retry
UPDATE inbox_objects
SET state = 'pending', reason = '', attempts = 0, wanted_at = now(), retry_at = now()
WHERE object_key = $1
RETURNING provider, kind, object_id, state, reason, events, attempts, event_type, livemode,
    wanted_at, retry_at, handled_at

-- name: inbox_count
SELECT state, count(*) AS count FROM inbox_objects WHERE state <> 'idle' GROUP BY state

-- name: inbox_forget_events
DELETE FROM inbox WHERE (provider, event_id) IN (
    SELECT provider, event_id FROM inbox WHERE done_at < now() - $1::interval
    ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED
)

-- name: inbox_forget_objects
DELETE FROM inbox_objects WHERE object_key IN (
    SELECT object_key FROM inbox_objects
    WHERE state = 'idle' AND handled_at < now() - $1::interval
    ORDER BY handled_at LIMIT $2 FOR UPDATE SKIP LOCKED
)

-- name: move_invoice
-- The customer of the provider's became somebody else's of ours.
DELETE FROM provider_invoices
WHERE provider = $1 AND invoice_id = $2 AND customer_id <> $3 AND fence < $4
RETURNING customer_id

-- name: put_invoice
INSERT INTO provider_invoices AS i (
    customer_id, provider, invoice_id, provider_customer_id, state, currency, amount_due_minor,
    amount_nano, due_at, attempts, reason, fence)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (customer_id, provider, invoice_id) DO UPDATE
SET provider_customer_id = excluded.provider_customer_id, state = excluded.state,
    currency = excluded.currency, amount_due_minor = excluded.amount_due_minor,
    amount_nano = excluded.amount_nano, due_at = excluded.due_at, attempts = excluded.attempts,
    reason = excluded.reason, fence = excluded.fence, fetched_at = now()
WHERE i.fence < excluded.fence

-- name: void_provider_invoice
UPDATE provider_invoices SET state = 'void', fence = $3, fetched_at = now()
WHERE provider = $1 AND invoice_id = $2 AND fence < $3
RETURNING customer_id

-- name: move_subscription
DELETE FROM provider_subscriptions
WHERE provider = $1 AND subscription_id = $2 AND customer_id <> $3 AND fence < $4
RETURNING customer_id

-- name: put_subscription
INSERT INTO provider_subscriptions AS s (
    customer_id, provider, subscription_id, provider_customer_id, status, plan, reason, fence)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (customer_id, provider, subscription_id) DO UPDATE
SET provider_customer_id = excluded.provider_customer_id, status = excluded.status,
    plan = excluded.plan, reason = excluded.reason, fence = excluded.fence, fetched_at = now()
WHERE s.fence < excluded.fence

-- name: end_subscription
UPDATE provider_subscriptions SET status = 'canceled', fence = $3, fetched_at = now()
WHERE provider = $1 AND subscription_id = $2 AND fence < $3
RETURNING customer_id

-- name: move_payment
DELETE FROM provider_payments
WHERE provider = $1 AND payment_id = $2 AND customer_id <> $3 AND fence < $4
RETURNING customer_id

-- name: put_payment
INSERT INTO provider_payments AS p (
    customer_id, provider, payment_id, invoice_id, reference, currency, amount_minor,
    refunded_minor, disputed, reason, fence)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (customer_id, provider, payment_id) DO UPDATE
SET invoice_id = excluded.invoice_id, reference = excluded.reference, currency = excluded.currency,
    amount_minor = excluded.amount_minor, refunded_minor = excluded.refunded_minor,
    disputed = excluded.disputed, reason = excluded.reason, fence = excluded.fence,
    fetched_at = now()
WHERE p.fence < excluded.fence

-- name: find_stripe_customers
SELECT customer_id, currency FROM customers WHERE stripe_customer_id = $1
ORDER BY customer_id LIMIT 2

-- name: find_payers
SELECT p.customer_id, c.currency FROM payers p JOIN customers c USING (customer_id)
WHERE p.provider = $1 AND p.provider_customer_id = $2 AND p.provider_customer_id <> ''
ORDER BY p.customer_id LIMIT 2

-- name: known_customer
SELECT customer_id, currency FROM customers WHERE customer_id = $1

-- name: unseen_open_invoices
SELECT DISTINCT invoice_id FROM provider_invoices
WHERE provider = $1 AND state = 'open' AND seen_at < $2 AND invoice_id > $3
ORDER BY invoice_id LIMIT $4

-- name: mark_seen
UPDATE provider_invoices SET seen_at = $3
WHERE provider = $1 AND invoice_id = ANY ($2::text[]) AND seen_at < $3

-- name: read_provider_invoices
SELECT provider, invoice_id, customer_id, provider_customer_id, state, currency, amount_due_minor,
    amount_nano, due_at, attempts, reason
FROM provider_invoices WHERE provider = $1 AND invoice_id = ANY ($2::text[])

-- name: name_payment
INSERT INTO payment_references (customer_id, provider, payment_id, reference)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING

-- name: read_payment_name
SELECT reference FROM payment_references
WHERE customer_id = $1 AND provider = $2 AND payment_id = $3

-- name: begin_sweep
-- The one who takes it has it for ten minutes; a sweep that is under way is taken up where it was.
INSERT INTO provider_sweeps AS s (provider, since, begun_at, next_at)
VALUES ($1, $2::timestamptz - $3::interval, $2, $2::timestamptz + interval '10 minutes')
ON CONFLICT (provider) DO UPDATE
SET next_at = excluded.next_at,
    begun_at = CASE WHEN s.part = '' THEN excluded.begun_at ELSE s.begun_at END
WHERE s.next_at <= $2
RETURNING since, begun_at, part, cursor

-- name: save_sweep
-- What was done since it began is covered, less an hour for events that are listed late.
UPDATE provider_sweeps
SET part = $2, cursor = $3, next_at = $4,
    since = CASE WHEN $5 THEN begun_at - interval '1 hour' ELSE since END
WHERE provider = $1

-- name: posted_payments
SELECT customer_id, currency, gross_nano, net_nano, seq FROM payment_postings
WHERE provider = $1 AND invoice_id = $2 AND payment_id = $3 AND kind = $4
ORDER BY customer_id

-- name: put_posted_payment
INSERT INTO payment_postings (
    customer_id, provider, invoice_id, payment_id, kind, currency, gross_nano, net_nano, seq)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (customer_id, provider, invoice_id, payment_id, kind) DO UPDATE
SET gross_nano = excluded.gross_nano, net_nano = excluded.net_nano, seq = excluded.seq,
    posted_at = now()

-- name: put_provider_currency
INSERT INTO provider_currencies AS p (provider, provider_customer_id, currency, fence)
VALUES ($1, $2, $3, $4)
ON CONFLICT (provider, provider_customer_id) DO UPDATE
SET currency = excluded.currency, fence = excluded.fence, fetched_at = now()
WHERE p.fence < excluded.fence
