-- Rows to report: sealing, sending, listing, comparing with the provider's own sums.

-- name: seal_windows
-- Rows that settlement is adding to are skipped until the next round. Stripe takes at most five
-- minutes of future, and an event must not leave its window, hence event_at's two bounds; a window
-- whose hour is still to come, by the clock of a client that is ahead, waits for it.
-- Meters that have an instant of their own ($4, $5) go by that. Lanes are inserted in key order,
-- so that two seals cannot wait for each other.
WITH due AS (
    SELECT customer_id, row_id FROM report_windows
    WHERE state = 'open' AND provider = $1 AND window_start <= now()
        AND opened_at < coalesce(($5::timestamptz[])[array_position($4::text[], meter)], $2)
    ORDER BY opened_at LIMIT $3
    FOR UPDATE SKIP LOCKED),
sealed AS (
    UPDATE report_windows w
    SET state = CASE WHEN w.quantity = 0 THEN 'sent' ELSE 'pending' END,
        sealed_at = now(),
        next_attempt_at = CASE WHEN w.quantity = 0 THEN NULL ELSE now() END,
        finished_at = CASE WHEN w.quantity = 0 THEN now() END,
        last_detail = CASE WHEN w.quantity = 0 THEN 'nothing to report' ELSE '' END,
        event_at = greatest(w.window_start, least(
            w.window_start + interval '3599 seconds', date_trunc('second', now()))),
        identifier = 'sc1:' || encode(sha256(convert_to(json_build_array(
            i.ledger_id, w.customer_id, w.provider, w.meter,
            extract(epoch FROM w.window_start)::bigint, w.seq)::text, 'UTF8')), 'hex')
    FROM due, ledger_identity i
    WHERE w.customer_id = due.customer_id AND w.row_id = due.row_id
    RETURNING w.customer_id, w.provider, w.meter),
lanes AS (
    INSERT INTO report_lanes (customer_id, provider, meter)
    SELECT DISTINCT customer_id, provider, meter FROM sealed ORDER BY customer_id, provider, meter
    ON CONFLICT (customer_id, provider, meter) DO NOTHING)
SELECT count(*) FROM sealed

-- name: fence_reports
-- Providers remember an identifier for at least 24 h; after 23 h a resend could count twice. The
-- lane is compared with the provider's sums next.
WITH fenced AS (
    UPDATE report_windows w
    SET state = 'uncertain', next_attempt_at = NULL, finished_at = now()
    WHERE w.provider = $1 AND w.state = 'pending'
        AND w.first_attempt_at <= now() - interval '23 hours'
        AND NOT EXISTS (
            SELECT FROM report_lanes l
            WHERE l.customer_id = w.customer_id AND l.provider = w.provider
                AND l.meter = w.meter AND l.row_id = w.row_id AND l.lease_until > now())
    RETURNING w.customer_id, w.meter, w.row_id, w.identifier),
due AS (
    UPDATE report_lanes l SET checked_at = '-infinity'
    FROM (SELECT DISTINCT customer_id, meter FROM fenced) f
    WHERE l.customer_id = f.customer_id AND l.provider = $1 AND l.meter = f.meter)
SELECT row_id, identifier FROM fenced

-- name: refuse_test_reports
-- Whoever is marked as a test after usage was settled is not billed for it either.
UPDATE report_windows w
SET state = 'failed', error_code = 'test_customer', uncounted = true, next_attempt_at = NULL,
    finished_at = now(), last_detail = 'the customer is marked as a test'
FROM customers c
WHERE w.provider = $1 AND w.state = 'pending' AND w.tries = 0
    AND c.customer_id = w.customer_id AND c.labels ->> 'test' = 'true'
RETURNING w.row_id, w.identifier

-- name: refuse_foreign_reports
-- Whom the provider bills in another currency than ours: what it would make of the usage is not
-- what we rated. The row is kept, for people.
UPDATE report_windows w
SET state = 'failed', error_code = 'other_currency', uncounted = true, next_attempt_at = NULL,
    finished_at = now(), last_detail = 'the account is billed in ' || p.currency
        || ', the customer in ' || c.currency
FROM customers c, provider_currencies p
WHERE w.provider = $1 AND w.state = 'pending' AND w.tries = 0
    AND c.customer_id = w.customer_id AND p.provider = w.provider
    AND p.provider_customer_id = w.provider_customer_id AND p.currency <> c.currency
RETURNING w.row_id, w.identifier

-- name: house_reports
-- Rows that waited for their customer's account at the provider.
UPDATE report_windows w SET provider_customer_id = c.stripe_customer_id
FROM customers c
WHERE w.provider = $1 AND w.provider_customer_id = '' AND w.state IN ('open', 'pending')
    AND c.customer_id = w.customer_id AND c.stripe_customer_id IS NOT NULL

-- name: claim_reports
-- The lane's row is locked with the report's, so both are judged by their newest versions.
-- first_attempt_at is committed before the first send: the 23 h run from then, crash or not. Each
-- step is one look into an index, whatever the planner knows of the tables by now.
WITH due AS (
    SELECT w.customer_id, w.row_id, w.provider, w.meter, w.attempts
    FROM report_windows w
    JOIN report_lanes l USING (customer_id, provider, meter)
    WHERE w.provider = $1 AND w.state = 'pending' AND w.next_attempt_at <= now()
        AND w.provider_customer_id <> ''
        AND (w.first_attempt_at IS NULL OR w.first_attempt_at > now() - interval '23 hours')
        AND (l.lease_until IS NULL OR l.lease_until <= now())
        AND w.row_id = (
            SELECT o.row_id FROM report_windows o
            WHERE o.customer_id = w.customer_id AND o.provider = w.provider
                AND o.meter = w.meter AND o.state = 'pending' AND o.next_attempt_at <= now()
            ORDER BY o.row_id LIMIT 1)
    ORDER BY w.next_attempt_at, w.row_id LIMIT $3
    FOR UPDATE OF w, l SKIP LOCKED),
leased AS (
    UPDATE report_lanes l
    SET lease_owner = $2, lease_until = now() + $4::interval,
        row_id = due.row_id, attempt = due.attempts + 1
    FROM due
    WHERE l.customer_id = due.customer_id AND l.provider = due.provider AND l.meter = due.meter)
UPDATE report_windows w
SET attempts = w.attempts + 1, tries = w.tries + 1,
    first_attempt_at = coalesce(w.first_attempt_at, now())
FROM due
WHERE w.customer_id = due.customer_id AND w.row_id = due.row_id
RETURNING w.row_id, w.customer_id, w.provider_customer_id, w.meter, w.quantity, w.identifier,
    w.event_at, w.http_generation, w.attempts, w.first_attempt_at

-- name: finish_reports
-- Delivered is true whoever says it. Any other word counts only from the newest attempt: a
-- worker whose lease ran out must not undo what its successor found. Nor does an attempt under a
-- name that the row no longer has. A first attempt that was refused is known not to be counted.
WITH told AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::integer[], $6::text[],
        $7::integer[], $8::timestamptz[], $9::text[], $10::text[], $11::text[])
        AS t (customer_id, meter, row_id, attempts, state, rotation, retry_at, detail, identifier,
            code)),
finished AS (
    UPDATE report_windows w
    SET state = t.state, http_generation = w.http_generation + t.rotation,
        next_attempt_at = t.retry_at,
        finished_at = CASE WHEN t.state = 'pending' THEN NULL ELSE now() END,
        last_detail = t.detail, uncounted = (t.state = 'failed' AND w.tries = 1),
        error_code = CASE WHEN t.state = 'failed' THEN t.code ELSE '' END
    FROM told t
    WHERE w.customer_id = t.customer_id AND w.row_id = t.row_id AND w.identifier = t.identifier
        AND w.state IN ('pending', 'uncertain')
        AND (t.state = 'sent' OR (w.attempts = t.attempts AND w.state = 'pending')))
UPDATE report_lanes l
SET lease_owner = NULL, lease_until = NULL, row_id = NULL, attempt = NULL
FROM told t
WHERE l.customer_id = t.customer_id AND l.provider = $1 AND l.meter = t.meter
    AND l.row_id = t.row_id AND l.attempt = t.attempts

-- name: note_report_error
-- A later word that it was delivered does not undo this: the provider took it, and counted nothing.
WITH noted AS (
    UPDATE report_windows
    SET state = 'failed', uncounted = true, error_code = $3, last_detail = $4,
        next_attempt_at = NULL, finished_at = now()
    WHERE provider = $1 AND identifier = $2
        AND (state IN ('pending', 'sent', 'uncertain') OR (state = 'failed' AND NOT uncounted))
    RETURNING customer_id, meter, row_id),
due AS (
    UPDATE report_lanes l SET checked_at = '-infinity'
    FROM noted n
    WHERE l.customer_id = n.customer_id AND l.provider = $1 AND l.meter = n.meter)
SELECT customer_id, meter, row_id FROM noted

-- name: list_settlements
SELECT row_id, customer_id, provider, provider_customer_id, meter, window_start, seq, kind,
    quantity, state, identifier, attempts, error_code, uncounted, opened_at, sealed_at, event_at,
    first_attempt_at, next_attempt_at, finished_at, last_detail
FROM report_windows
WHERE row_id > $1 AND ($2 = '' OR customer_id = $2) AND ($3 = '' OR state = $3)
ORDER BY row_id LIMIT $4

-- name: read_settlement
SELECT row_id, customer_id, provider, provider_customer_id, meter, window_start, seq, kind,
    quantity, state, identifier, attempts, error_code, uncounted, opened_at, sealed_at, event_at,
    first_attempt_at, next_attempt_at, finished_at, last_detail
FROM report_windows WHERE row_id = $1

-- name: reopen_report
-- Under the next name, to the account that the customer has now.
UPDATE report_windows w
SET state = 'pending', retry_number = w.retry_number + 1, http_generation = 0, tries = 0,
    identifier = regexp_replace(w.identifier, ':r[0-9]+$', '') || ':r' || w.retry_number + 1,
    first_attempt_at = CASE WHEN w.attempts > 0 THEN now() END,
    next_attempt_at = now(), finished_at = NULL, uncounted = false, error_code = '',
    last_detail = '', provider_customer_id = coalesce(c.stripe_customer_id, '')
FROM customers c
WHERE w.row_id = $1 AND w.customer_id = $2 AND w.state = 'failed' AND w.uncounted
    AND w.attempts = $3 AND c.customer_id = w.customer_id
RETURNING w.row_id

-- name: report_states
SELECT state, count(*) AS rows,
    coalesce(min(coalesce(finished_at, sealed_at, opened_at)), now()) AS oldest
FROM report_windows WHERE provider = $1 AND state <> 'sent' GROUP BY state

-- name: homeless_reports
SELECT count(*) FROM report_windows WHERE provider = $1 AND provider_customer_id = ''

-- name: claim_lanes
-- Whoever claims a lane has it until it is due again.
WITH due AS (
    SELECT customer_id, provider, meter FROM report_lanes
    WHERE provider = $1 AND checked_at < $2
    ORDER BY checked_at, customer_id, meter LIMIT $3
    FOR UPDATE SKIP LOCKED)
UPDATE report_lanes l SET checked_at = $4
FROM due
WHERE l.customer_id = due.customer_id AND l.provider = due.provider AND l.meter = due.meter
RETURNING l.customer_id, l.meter

-- name: lanes_of_customer
SELECT customer_id, meter FROM report_lanes
WHERE provider = $1 AND customer_id = $2 ORDER BY meter LIMIT $3

-- name: postpone_lane
UPDATE report_lanes SET checked_at = $4
WHERE customer_id = $1 AND provider = $2 AND meter = $3

-- name: reported_rows
SELECT row_id, kind, window_start, quantity, state, retry_number, attempts, tries, uncounted, error_code,
    identifier, provider_customer_id, finished_at
FROM report_windows
WHERE customer_id = $1 AND provider = $2 AND meter = $3
    AND window_start >= $4 AND window_start < $5 AND state <> 'open'
ORDER BY window_start, row_id LIMIT $6

-- name: read_reconciliation
SELECT customer_id, meter, period_start, period_end, outcome, expected, found, confirmed, resent,
    cancelled, corrected, detail, evidence, read_at, acted_at
FROM report_reconciliations
WHERE customer_id = $1 AND provider = $2 AND meter = $3 AND period_start = $4

-- name: lock_reconciliation
SELECT outcome, evidence FROM report_reconciliations
WHERE customer_id = $1 AND provider = $2 AND meter = $3 AND period_start = $4
FOR UPDATE

-- name: list_reconciliations
SELECT customer_id, meter, period_start, period_end, outcome, expected, found, confirmed, resent,
    cancelled, corrected, detail, evidence, read_at, acted_at
FROM report_reconciliations
WHERE provider = $1 AND ($2 = '' OR customer_id = $2) AND ($3 = '' OR outcome = $3)
ORDER BY read_at DESC, customer_id, meter LIMIT $4

-- name: put_reconciliation
-- Counts of what was mended add up over the period.
INSERT INTO report_reconciliations AS r (
    customer_id, provider, meter, period_start, period_end, outcome, expected, found, confirmed,
    resent, cancelled, corrected, detail, evidence, read_at, acted_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, now(),
    CASE WHEN $15 THEN now() END)
ON CONFLICT (customer_id, provider, meter, period_start) DO UPDATE
SET period_end = excluded.period_end, outcome = excluded.outcome, expected = excluded.expected,
    found = excluded.found, confirmed = r.confirmed + excluded.confirmed,
    resent = r.resent + excluded.resent, cancelled = r.cancelled + excluded.cancelled,
    corrected = r.corrected + excluded.corrected, detail = excluded.detail,
    evidence = excluded.evidence, read_at = excluded.read_at,
    acted_at = coalesce(excluded.acted_at, r.acted_at)

-- name: confirm_reports
UPDATE report_windows w
SET state = 'sent', uncounted = false, error_code = '', last_detail = 'the provider counted it'
FROM unnest($2::bigint[], $3::integer[]) AS a (row_id, attempts)
WHERE w.customer_id = $1 AND w.row_id = a.row_id AND w.attempts = a.attempts
    AND w.state IN ('uncertain', 'failed') AND NOT w.uncounted
RETURNING w.row_id

-- name: resend_reports
-- What was refused before it could be counted is left to people, who know what was mended.
UPDATE report_windows w
SET state = CASE WHEN w.state = 'failed' THEN 'failed' ELSE 'pending' END,
    uncounted = (w.state = 'failed'),
    retry_number = w.retry_number + (w.state <> 'failed')::integer,
    identifier = CASE WHEN w.state = 'failed' THEN w.identifier ELSE
        regexp_replace(w.identifier, ':r[0-9]+$', '') || ':r' || w.retry_number + 1 END,
    http_generation = 0, tries = 0, first_attempt_at = now(),
    next_attempt_at = CASE WHEN w.state = 'failed' THEN NULL ELSE now() END,
    finished_at = CASE WHEN w.state = 'failed' THEN w.finished_at END,
    last_detail = 'the provider did not count it'
FROM unnest($2::bigint[], $3::integer[]) AS a (row_id, attempts)
WHERE w.customer_id = $1 AND w.row_id = a.row_id AND w.attempts = a.attempts AND w.attempts > 0
    AND (w.state IN ('sent', 'uncertain') OR (w.state = 'failed' AND NOT w.uncounted))
RETURNING w.row_id

-- name: insert_correction
-- One at a time: the key refuses the second of two.
INSERT INTO report_windows (
    customer_id, provider, meter, window_start, seq, kind, provider_customer_id, quantity, state,
    sealed_at, event_at, next_attempt_at, identifier, last_detail)
SELECT $1, $2, $3, $4, n.seq, 'correction', $5, $6, 'pending', now(),
    $4::timestamptz + interval '3599 seconds', now(),
    'sc1:' || encode(sha256(convert_to(json_build_array(
        i.ledger_id, $1, $2, $3, extract(epoch FROM $4::timestamptz)::bigint, n.seq)::text,
        'UTF8')), 'hex'),
    $7
FROM ledger_identity i, (
    SELECT coalesce(min(o.seq) FILTER (WHERE o.seq < 0), 0) - 1 AS seq
    FROM report_windows o
    WHERE o.customer_id = $1 AND o.provider = $2 AND o.meter = $3 AND o.window_start = $4) n
RETURNING row_id

-- name: note_cancel_refused
UPDATE report_windows SET error_code = 'cancel_refused', last_detail = $3
WHERE customer_id = $1 AND row_id = $2 AND state = 'sent'

-- name: take_reads
INSERT INTO provider_reads AS r (provider, month, used)
SELECT $1, date_trunc('month', now(), 'UTC')::date, 1 WHERE $2 > 0
ON CONFLICT (provider, month) DO UPDATE SET used = r.used + 1
WHERE r.used < $2
RETURNING used

-- name: reads_used
SELECT used FROM provider_reads
WHERE provider = $1 AND month = date_trunc('month', now(), 'UTC')::date

-- name: enlist_customers
-- Not those whose invoices a provider collects: an account that meters their usage would end that.
INSERT INTO provider_customers (customer_id, provider, next_attempt_at)
SELECT c.customer_id, $1, now()
FROM customers c
WHERE c.stripe_customer_id IS NULL AND c.labels ->> 'test' IS DISTINCT FROM 'true'
    AND NOT EXISTS (
        SELECT FROM provider_customers p
        WHERE p.customer_id = c.customer_id AND p.provider = $1)
    AND NOT EXISTS (SELECT FROM payers p WHERE p.customer_id = c.customer_id AND p.collect)
ORDER BY c.customer_id LIMIT $2
ON CONFLICT (customer_id, provider) DO NOTHING
RETURNING customer_id

-- name: claim_provider_customers
-- The first attempt is committed before anything is sent; the next one is due when the lease ends.
WITH due AS (
    SELECT customer_id, provider FROM provider_customers
    WHERE provider = $1 AND next_attempt_at <= now()
    ORDER BY next_attempt_at, customer_id LIMIT $2
    FOR UPDATE SKIP LOCKED)
UPDATE provider_customers p
SET attempts = p.attempts + 1, first_attempt_at = coalesce(p.first_attempt_at, now()),
    next_attempt_at = now() + $3::interval
FROM due, customers c, ledger_identity i
WHERE p.customer_id = due.customer_id AND p.provider = due.provider
    AND c.customer_id = p.customer_id
RETURNING p.customer_id, p.state, p.key_number, p.attempts, p.first_attempt_at,
    p.provider_customer_id, c.plan, c.currency, c.stripe_customer_id AS mapped_id,
    c.labels ->> 'test' IS NOT DISTINCT FROM 'true' AS is_test,
    encode(sha256(convert_to(json_build_array(i.ledger_id, p.customer_id)::text, 'UTF8')), 'hex')
        AS key

-- name: map_provider_customer
-- Only the newest attempt may, and not for a customer who was erased meanwhile.
WITH moved AS (
    UPDATE provider_customers
    SET state = $5, provider_customer_id = $4, reason = '', key_number = 0, attempts = 0,
        first_attempt_at = NULL, next_attempt_at = CASE WHEN $5 = 'subscribing' THEN now() END
    WHERE customer_id = $1 AND provider = $2 AND attempts = $3 AND state = 'waiting'
    RETURNING customer_id)
UPDATE customers c SET stripe_customer_id = coalesce(c.stripe_customer_id, $4)
FROM moved WHERE c.customer_id = moved.customer_id
RETURNING c.customer_id

-- name: finish_provider_customer
UPDATE provider_customers
SET state = $4, subscription_id = $5, reason = $6, next_attempt_at = NULL
WHERE customer_id = $1 AND provider = $2 AND attempts = $3
    AND state IN ('waiting', 'subscribing')

-- name: put_provider_customer_behind
UPDATE provider_customers
SET key_number = key_number + $4::integer, reason = $5, next_attempt_at = $6
WHERE customer_id = $1 AND provider = $2 AND attempts = $3
    AND state IN ('waiting', 'subscribing')

-- name: end_provider_customer
-- Who was erased is not made anew.
INSERT INTO provider_customers (customer_id, provider, state)
SELECT customer_id, 'stripe', 'ended' FROM customers WHERE customer_id = $1
ON CONFLICT (customer_id, provider) DO UPDATE
SET state = 'ended', provider_customer_id = '', reason = '', next_attempt_at = NULL
