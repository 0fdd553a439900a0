-- name: put_payer
INSERT INTO payers AS p (
    customer_id, provider, provider_customer_id, email, authorization_code, collect,
    collect_since)
SELECT customer_id, $2, $3, $4, CASE WHEN $7 THEN '' ELSE $5 END, $6, CASE WHEN $6 THEN now() END
FROM customers WHERE customer_id = $1
ON CONFLICT (customer_id, provider) DO UPDATE SET
    provider_customer_id = excluded.provider_customer_id,
    email = excluded.email,
    authorization_code = CASE WHEN $7 THEN p.authorization_code
        ELSE excluded.authorization_code END,
    collect = excluded.collect,
    collect_since = CASE WHEN excluded.collect THEN coalesce(p.collect_since, now()) END,
    updated_at = now()
RETURNING customer_id, provider, provider_customer_id, email, authorization_code, collect

-- name: read_payer
SELECT customer_id, provider, provider_customer_id, email, authorization_code, collect
FROM payers WHERE customer_id = $1 AND provider = $2

-- name: list_payers
SELECT customer_id, provider, provider_customer_id, email, authorization_code, collect
FROM payers WHERE customer_id = $1 ORDER BY provider

-- name: delete_payer
DELETE FROM payers WHERE customer_id = $1 AND provider = $2

-- name: erase_payers
DELETE FROM payers WHERE customer_id = $1

-- name: adopt_collections
INSERT INTO collections (
    customer_id, invoice_id, provider, currency, attempts_max, reference, next_look_at)
SELECT n.customer_id, n.invoice_id, n.provider, n.currency, n.attempts_max, n.reference, now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::text[])
    AS n (customer_id, invoice_id, provider, currency, attempts_max, reference)
ON CONFLICT (customer_id, invoice_id) DO NOTHING

-- name: claim_collections
WITH due AS (
    SELECT customer_id, invoice_id FROM collections
    WHERE next_look_at <= now() AND provider = ANY ($1::text[])
        AND (lease_until IS NULL OR lease_until <= now())
    ORDER BY next_look_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
UPDATE collections c SET claim = c.claim + 1, lease_until = now() + $3::interval
FROM due WHERE c.customer_id = due.customer_id AND c.invoice_id = due.invoice_id
RETURNING c.*

-- name: note_collection_try
-- The amount and the way of a reference are fixed when it is first sent.
WITH tried AS (
    UPDATE collections SET
        state = CASE WHEN state = 'demanded' THEN 'sent' ELSE state END,
        amount_minor = CASE WHEN tries = 0 THEN $4 ELSE amount_minor END,
        way = CASE WHEN tries = 0 THEN $5 ELSE way END,
        tries = tries + 1,
        sent_at = coalesce(sent_at, now())
    WHERE customer_id = $1 AND invoice_id = $2 AND claim = $3 AND lease_until > now()
        AND ended_at IS NULL
    RETURNING *),
noted AS (
    INSERT INTO collection_attempts (
        customer_id, invoice_id, attempt, provider, reference, way, currency, amount_minor)
    SELECT customer_id, invoice_id, attempt, provider, reference, way, currency, amount_minor
    FROM tried
    ON CONFLICT (customer_id, invoice_id, attempt) DO NOTHING)
SELECT * FROM tried

-- name: note_collection_name
WITH named AS (
    UPDATE collections SET provider_reference = $4
    WHERE customer_id = $1 AND invoice_id = $2 AND claim = $3 AND lease_until > now()
        AND provider_reference IN ('', $4) AND ended_at IS NULL
    RETURNING customer_id, invoice_id, attempt)
UPDATE collection_attempts a SET provider_reference = $4
FROM named n
WHERE a.customer_id = n.customer_id AND a.invoice_id = n.invoice_id AND a.attempt = n.attempt
RETURNING a.attempt

-- name: finish_collection
-- $4 state, $5 attempt, $6 reference of that attempt, $7 wait (none: it has ended), $8 outcome, $9 the provider's name,
-- $10 detail. The lease may have run out, but nobody else may have had one since.
WITH finished AS (
    UPDATE collections SET
        state = $4,
        attempt = $5,
        reference = $6,
        tries = CASE WHEN attempt = $5 THEN tries ELSE 0 END,
        unclear = CASE WHEN $8 IN ('unknown', 'absent') THEN unclear + 1 ELSE 0 END,
        sent_at = CASE WHEN attempt = $5 THEN sent_at END,
        provider_reference = CASE
            WHEN attempt <> $5 THEN ''
            WHEN provider_reference <> '' THEN provider_reference
            ELSE $9 END,
        detail = $10,
        lease_until = NULL,
        next_look_at = now() + CASE WHEN woken = claim THEN $7::interval * 0 ELSE $7::interval END,
        ended_at = CASE WHEN $7::interval IS NULL THEN now() END
    WHERE customer_id = $1 AND invoice_id = $2 AND claim = $3 AND ended_at IS NULL
    RETURNING *),
ended AS (
    UPDATE collection_attempts a SET
        outcome = CASE WHEN $8 IN ('paid', 'failed', 'refused') THEN $8 ELSE 'pending' END,
        provider_reference = CASE
            WHEN a.provider_reference <> '' THEN a.provider_reference ELSE $9 END,
        detail = $10,
        ended_at = CASE WHEN $8 IN ('paid', 'failed', 'refused') THEN now() END
    FROM finished f
    WHERE a.customer_id = f.customer_id AND a.invoice_id = f.invoice_id AND a.attempt = $11)
SELECT * FROM finished

-- name: put_collected_invoice
-- What a customer was asked for, as standing sees it: $3 minor units, $4 nano of the currency
-- (none: not known), $5 from when it was first asked for until it is due. What nobody was asked for is
-- no debt. The first due date stays. Stripe's own invoices come from the inbox. Answers a row if
-- something has changed.
INSERT INTO provider_invoices AS i (
    customer_id, provider, invoice_id, provider_customer_id, state, currency, amount_due_minor,
    amount_nano, due_at, attempts, fence)
SELECT c.customer_id, c.provider, c.invoice_id, coalesce(p.provider_customer_id, ''),
    CASE c.state WHEN 'paid' THEN 'paid' WHEN 'withdrawn' THEN 'void' ELSE 'open' END,
    c.currency, CASE WHEN c.state IN ('paid', 'withdrawn') THEN 0 ELSE $3::bigint END,
    CASE WHEN c.state IN ('paid', 'withdrawn') THEN 0
        WHEN u.currency = c.currency THEN $4::bigint END,
    a.first_at + $5::interval, a.attempts, c.claim
FROM collections c
JOIN customers u ON u.customer_id = c.customer_id
JOIN LATERAL (
    SELECT min(sent_at) AS first_at, count(*)::integer AS attempts FROM collection_attempts t
    WHERE t.customer_id = c.customer_id AND t.invoice_id = c.invoice_id
) a ON a.attempts > 0
LEFT JOIN payers p ON p.customer_id = c.customer_id AND p.provider = c.provider
WHERE c.customer_id = $1 AND c.invoice_id = $2 AND c.provider <> 'stripe'
ON CONFLICT (customer_id, provider, invoice_id) DO UPDATE
SET provider_customer_id = excluded.provider_customer_id, state = excluded.state,
    amount_due_minor = excluded.amount_due_minor, amount_nano = excluded.amount_nano,
    attempts = excluded.attempts, fence = excluded.fence, fetched_at = now()
WHERE (i.state, i.amount_due_minor, i.amount_nano, i.attempts) IS DISTINCT FROM
    (excluded.state, excluded.amount_due_minor, excluded.amount_nano, excluded.attempts)
RETURNING customer_id

-- name: list_collections
SELECT * FROM collections
WHERE invoice_id > $1 AND ($2::text IS NULL OR customer_id = $2)
    AND ($3::text IS NULL OR state = $3)
ORDER BY invoice_id LIMIT $4

-- name: read_collection
SELECT * FROM collections WHERE invoice_id = $1 LIMIT 1

-- name: list_collection_attempts
SELECT attempt, reference, way, currency, amount_minor, provider_reference, outcome, detail,
    sent_at, ended_at
FROM collection_attempts WHERE customer_id = $1 AND invoice_id = $2 ORDER BY attempt

-- name: retry_collection
-- What was never sent begins anew; of what was, the reference is asked about first.
UPDATE collections SET
    state = CASE WHEN tries = 0 THEN 'demanded' ELSE 'unknown' END,
    attempts_max = least(greatest(attempts_max, attempt + 1), $2),
    next_look_at = now(), ended_at = NULL
WHERE invoice_id = $1 AND state = 'failed'
RETURNING *

-- name: wake_collection
-- A row that is being worked on is looked at again as soon as that is finished.
WITH named AS (
    SELECT customer_id, invoice_id, attempt FROM collection_attempts
    WHERE provider = $1 AND (reference = $2 OR provider_reference = $2)
    LIMIT 1),
woken AS (
    UPDATE collections c SET next_look_at = now(), woken = c.claim
    FROM named n
    WHERE c.customer_id = n.customer_id AND c.invoice_id = n.invoice_id
        AND c.attempt = n.attempt AND c.ended_at IS NULL)
SELECT CASE WHEN c.attempt = n.attempt THEN c.state ELSE 'stale' END AS state
FROM named n JOIN collections c USING (customer_id, invoice_id)
