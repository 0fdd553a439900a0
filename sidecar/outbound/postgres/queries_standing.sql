-- name: mark_standing
-- An input has changed.
INSERT INTO standing_looks AS l (customer_id, look_at) VALUES ($1, '-infinity')
ON CONFLICT (customer_id) DO UPDATE SET version = l.version + 1, look_at = '-infinity'

-- name: lock_standing
-- Whoever holds this decides; inputs are read after it is held.
INSERT INTO standing_looks AS l (customer_id) VALUES ($1)
ON CONFLICT (customer_id) DO UPDATE SET version = l.version
RETURNING version, shown, plan_shown, subscribed_plan

-- name: standing_customer
SELECT currency, plan FROM customers WHERE customer_id = $1

-- name: standing_invoices
-- Only those that can make a standing worse; the worst first, should there be too many. Of an
-- invoice of ours that a provider collects, what credit notes took since is not owed any more.
SELECT i.state, i.due_at, CASE
    WHEN v.invoice_id IS NULL THEN i.amount_nano
    WHEN v.state <> 'closed' OR n.void OR v.due_nano <= n.amount_nano THEN 0
    WHEN i.amount_nano IS NOT NULL THEN least(i.amount_nano, v.due_nano - n.amount_nano)
END AS amount_nano, EXISTS (
    SELECT FROM provider_payments p
    WHERE p.customer_id = i.customer_id AND p.provider = i.provider
        AND p.invoice_id = i.invoice_id AND p.disputed
) AS disputed
FROM provider_invoices i
LEFT JOIN invoices v ON v.customer_id = i.customer_id AND v.invoice_id = i.invoice_id
    AND i.provider <> 'stripe'
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.amount_nano), 0)::bigint AS amount_nano,
        coalesce(bool_or(o.void), false) AS void
    FROM credit_notes o
    WHERE o.customer_id = v.customer_id AND o.invoice_id = v.invoice_id) n
WHERE i.customer_id = $1 AND (i.state IN ('open', 'uncollectible') OR EXISTS (
    SELECT FROM provider_payments p
    WHERE p.customer_id = i.customer_id AND p.provider = i.provider
        AND p.invoice_id = i.invoice_id AND p.disputed
))
ORDER BY i.due_at NULLS FIRST LIMIT $2

-- name: standing_subscriptions
SELECT subscription_id, status, plan FROM provider_subscriptions
WHERE customer_id = $1 ORDER BY (status IN ('canceled', 'incomplete_expired')), subscription_id
LIMIT $2

-- name: read_override
SELECT standing, reason, until, overdue_since, overdue_nano, disputed FROM standing_overrides
WHERE customer_id = $1

-- name: put_override
INSERT INTO standing_overrides (
    customer_id, standing, reason, until, overdue_since, overdue_nano, disputed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (customer_id) DO UPDATE
SET standing = excluded.standing, reason = excluded.reason, until = excluded.until,
    overdue_since = excluded.overdue_since, overdue_nano = excluded.overdue_nano,
    disputed = excluded.disputed, set_at = now()

-- name: delete_override
DELETE FROM standing_overrides WHERE customer_id = $1

-- name: put_subscribed_plan
UPDATE customers SET plan = $2 WHERE customer_id = $1 AND plan <> $2

-- name: note_standing
-- What changes is a new version, so that whoever has shown an older one does not settle it.
UPDATE standing_looks
SET version = version + $2::boolean::int, shown = $3, plan_shown = $4, derived = $5,
    derived_reason = $6, subscribed_plan = $7,
    look_at = CASE WHEN $3 AND $4 THEN look_at
        ELSE least(coalesce(look_at, 'infinity'), $8::timestamptz) END
WHERE customer_id = $1
RETURNING version

-- name: settle_standing
UPDATE standing_looks SET shown = true, plan_shown = true, look_at = $3
WHERE customer_id = $1 AND version = $2

-- name: forget_look
DELETE FROM standing_looks WHERE customer_id = $1

-- name: claim_standings
-- The lease is in `look_at`: whoever dies is followed once it is over.
WITH due AS (
    SELECT customer_id FROM standing_looks WHERE look_at <= $1
    ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE standing_looks l SET look_at = $1::timestamptz + $3::interval
FROM due WHERE l.customer_id = due.customer_id
RETURNING l.customer_id

-- name: read_derived
SELECT derived, derived_reason FROM standing_looks WHERE customer_id = $1
