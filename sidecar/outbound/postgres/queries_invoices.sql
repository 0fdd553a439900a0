-- Statements about invoices.

-- name: unenrolled_customers
SELECT c.customer_id FROM customers c
WHERE NOT EXISTS (SELECT FROM invoice_cursors i WHERE i.customer_id = c.customer_id)
ORDER BY c.customer_id LIMIT $1

-- name: first_usage
SELECT c.customer_id, c.currency,
    (SELECT min(e.occurred_at) FROM usage_events e WHERE e.customer_id = c.customer_id) AS first_at
FROM customers c WHERE c.customer_id = ANY ($1::text[])

-- name: insert_cursors
INSERT INTO invoice_cursors (customer_id, currency, closed_until, period_end)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
ON CONFLICT (customer_id) DO NOTHING
RETURNING customer_id

-- name: read_cursor
SELECT i.customer_id, i.currency, i.anchor, i.closed_until, i.period_end, c.plan,
    c.stripe_customer_id IS NOT NULL AS at_stripe
FROM invoice_cursors i JOIN customers c USING (customer_id)
WHERE i.customer_id = $1

-- name: describe_customer
SELECT c.customer_id, c.currency, c.plan, c.stripe_customer_id IS NOT NULL AS at_stripe,
    coalesce((SELECT min(e.occurred_at) FROM usage_events e
        WHERE e.customer_id = c.customer_id), now()) AS first_at
FROM customers c WHERE c.customer_id = $1

-- name: ask_close
UPDATE invoice_cursors SET asked_at = coalesce(asked_at, now())
WHERE customer_id = $1 AND period_end = $2
RETURNING customer_id

-- name: set_anchor
UPDATE invoice_cursors SET anchor = $2, period_end = $3
WHERE customer_id = $1 AND closed_until < $3
RETURNING customer_id

-- name: due_cursors
WITH due AS (
    SELECT i.customer_id FROM invoice_cursors i
    WHERE (i.period_end <= $1 OR (i.asked_at IS NOT NULL AND i.period_end <= $2))
        AND (i.leased_until IS NULL OR i.leased_until <= now())
        AND NOT EXISTS (
            SELECT FROM invoices d WHERE d.customer_id = i.customer_id AND d.state = 'draft')
    ORDER BY i.period_end, i.customer_id LIMIT $3
    FOR UPDATE OF i SKIP LOCKED)
UPDATE invoice_cursors i SET leased_until = now() + $4::interval
FROM due JOIN customers c USING (customer_id)
WHERE i.customer_id = due.customer_id
RETURNING i.customer_id, i.currency, i.anchor, i.closed_until, i.period_end, c.plan,
    c.stripe_customer_id IS NOT NULL AS at_stripe

-- name: offset_of_shard
SELECT stream_offset FROM shards WHERE shard = $1

-- name: cut_periods
-- Under the lock of the shard's row: whatever settlement posts from here on reads the new instant.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
        $6::timestamptz[], $7::timestamptz[], $8::text[])
        AS k (customer_id, invoice_id, currency, provider, period_start, period_end, next_end,
            late)),
moved AS (
    UPDATE invoice_cursors i
    SET closed_until = k.period_end, period_end = k.next_end, asked_at = NULL, leased_until = NULL
    FROM wanted k
    WHERE i.customer_id = k.customer_id AND i.closed_until = k.period_start
        AND i.period_end = k.period_end
    RETURNING i.customer_id),
made AS (
    INSERT INTO invoices (
        customer_id, invoice_id, currency, sequence, provider, period_start, period_end)
    SELECT k.customer_id, k.invoice_id, k.currency, 0, k.provider, k.period_start, k.period_end
    FROM wanted k JOIN moved USING (customer_id)
    RETURNING customer_id, invoice_id),
noted AS (
    INSERT INTO invoice_periods (customer_id, period_start, period_end)
    SELECT k.customer_id, k.period_start, k.period_end FROM wanted k JOIN moved USING (customer_id)
    ON CONFLICT (customer_id, period_start) DO NOTHING),
late AS (
    UPDATE late_usage u SET invoice_id = made.invoice_id
    FROM made JOIN wanted k USING (customer_id)
    WHERE u.customer_id = made.customer_id AND u.invoice_id IS NULL AND u.write_off_id IS NULL
        AND (k.late = 'next_period' OR u.prepaid OR u.amount_nano < 0
            OR (u.amount_nano = 0 AND NOT (u.of_period AND k.late = 'invoice_item'))))
SELECT count(*) FROM made

-- name: lease_drafts
WITH due AS (
    SELECT customer_id, invoice_id FROM invoices
    WHERE state = 'draft' AND (leased_until IS NULL OR leased_until <= now())
    ORDER BY customer_id LIMIT $1
    FOR UPDATE SKIP LOCKED)
UPDATE invoices i SET leased_until = now() + $2::interval
FROM due JOIN customers c USING (customer_id)
WHERE i.customer_id = due.customer_id AND i.invoice_id = due.invoice_id
RETURNING i.customer_id, i.invoice_id, i.currency, i.sequence, i.provider, i.period_start,
    i.period_end, c.plan

-- name: sum_usage
-- Each invoice by itself, so that the plan is one for a customer, however many there are: events by
-- the index of their time (what is late by its own table), lines by one range of theirs. Their
-- days bound that range; looking each event's lines up costs four times the pages.
SELECT k.place, s.late, s.month, s.price_version, s.meter, s.model, s.prepaid, s.events,
    s.corrections, s.quantity, s.amount_nano, s.owed_nano
FROM unnest($1::integer[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
    AS k (place, customer_id, invoice_id, starts, ends)
CROSS JOIN LATERAL (
    WITH e AS MATERIALIZED (
        SELECT false AS late, o.day, o.hold_id, o.kind, o.occurred_at, o.price_version, o.model,
            o.prepaid
        FROM usage_events o
        WHERE o.customer_id = k.customer_id AND o.occurred_at >= k.starts
            AND o.occurred_at < k.ends AND NOT EXISTS (
                SELECT FROM late_usage u
                WHERE u.customer_id = o.customer_id AND u.day = o.day AND u.hold_id = o.hold_id
                    AND u.kind = o.kind)
        UNION ALL
        SELECT true, o.day, o.hold_id, o.kind, o.occurred_at, o.price_version, o.model, o.prepaid
        FROM late_usage u
        JOIN usage_events o ON o.customer_id = u.customer_id AND o.day = u.day
            AND o.hold_id = u.hold_id AND o.kind = u.kind
        WHERE u.customer_id = k.customer_id AND u.write_off_id IS NULL
            AND u.invoice_id IS NOT DISTINCT FROM k.invoice_id)
    SELECT e.late, date_trunc('month', e.occurred_at, 'UTC') AS month, e.price_version, l.meter,
        e.model, e.prepaid, count(*) AS events,
        count(*) FILTER (WHERE e.kind LIKE 'correction:%') AS corrections,
        sum(l.quantity) AS quantity, sum(l.amount_nano)::bigint AS amount_nano,
        sum(CASE WHEN e.prepaid THEN coalesce(l.owed_nano, 0) ELSE l.amount_nano END)::bigint
            AS owed_nano
    FROM e JOIN usage_lines l ON l.customer_id = k.customer_id AND l.day = e.day
        AND l.hold_id = e.hold_id AND l.kind = e.kind
        AND l.day >= (SELECT min(day) FROM e) AND l.day <= (SELECT max(day) FROM e)
    GROUP BY e.late, 2, e.price_version, l.meter, e.model, e.prepaid) s

-- name: sum_months
SELECT e.customer_id, k.month, e.price_version, l.meter, e.model, sum(l.quantity) AS quantity,
    sum(l.amount_nano)::bigint AS amount_nano,
    count(*) FILTER (WHERE e.kind LIKE 'correction:%') AS corrections
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS k (customer_id, month, ends)
JOIN usage_events e ON e.customer_id = k.customer_id AND e.occurred_at >= k.month
    AND e.occurred_at < k.ends
JOIN usage_lines l ON l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
    AND l.kind = e.kind
GROUP BY e.customer_id, k.month, e.price_version, l.meter, e.model

-- name: plans_within
-- The plan that runs when a period starts (the customer's first one, if it began later), and those
-- that begin within.
SELECT k.place, p.since, p.plan
FROM unnest($1::integer[], $2::text[], $3::timestamptz[], $4::timestamptz[])
    AS k (place, customer_id, starts, ends)
CROSS JOIN LATERAL (
    SELECT coalesce(max(b.since) FILTER (WHERE b.since <= k.starts), min(b.since)) AS since
    FROM customer_plans b WHERE b.customer_id = k.customer_id) f
JOIN customer_plans p ON p.customer_id = k.customer_id AND p.since >= f.since
    AND (p.since = f.since OR p.since < k.ends)
ORDER BY k.place, p.since

-- name: late_periods
-- The periods that late usage of an invoice is of; null where it is of none that was cut.
SELECT DISTINCT k.place, p.period_start, p.period_end
FROM unnest($1::integer[], $2::text[], $3::text[]) AS k (place, customer_id, invoice_id)
JOIN late_usage u ON u.customer_id = k.customer_id AND u.write_off_id IS NULL
    AND u.invoice_id IS NOT DISTINCT FROM k.invoice_id
JOIN usage_events e ON e.customer_id = u.customer_id AND e.day = u.day AND e.hold_id = u.hold_id
    AND e.kind = u.kind
LEFT JOIN LATERAL (
    SELECT i.period_start, i.period_end FROM invoice_periods i
    WHERE i.customer_id = e.customer_id AND i.period_start <= e.occurred_at
    ORDER BY i.period_start DESC LIMIT 1) p ON p.period_end > e.occurred_at
ORDER BY k.place, p.period_start

-- name: sum_periods
-- All usage of a period that is on invoices, and apart from it what is late on this one.
SELECT k.place, u.hold_id IS NOT NULL AND u.invoice_id IS NOT DISTINCT FROM k.invoice_id AS late,
    k.starts AS month, e.price_version, l.meter, e.model, e.prepaid, count(*) AS events,
    count(*) FILTER (WHERE e.kind LIKE 'correction:%') AS corrections,
    sum(l.quantity) AS quantity, sum(l.amount_nano)::bigint AS amount_nano
FROM unnest($1::integer[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
    AS k (place, customer_id, invoice_id, starts, ends)
JOIN usage_events e ON e.customer_id = k.customer_id AND e.occurred_at >= k.starts
    AND e.occurred_at < k.ends
JOIN usage_lines l ON l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
    AND l.kind = e.kind
LEFT JOIN late_usage u ON u.customer_id = e.customer_id AND u.day = e.day
    AND u.hold_id = e.hold_id AND u.kind = e.kind
WHERE u.hold_id IS NULL OR (u.write_off_id IS NULL
    AND (u.invoice_id IS NOT NULL OR k.invoice_id IS NULL))
GROUP BY 1, 2, k.starts, e.price_version, l.meter, e.model, e.prepaid
ORDER BY 1, 2, e.price_version, l.meter, e.model, e.prepaid

-- name: sum_overage
SELECT k.place, coalesce((
        SELECT sum(e.overage_nano) FROM usage_events e
        WHERE e.customer_id = k.customer_id AND e.occurred_at >= k.starts AND e.occurred_at < k.ends
            AND e.overage_nano <> 0 AND NOT EXISTS (
                SELECT FROM late_usage u
                WHERE u.customer_id = e.customer_id AND u.day = e.day AND u.hold_id = e.hold_id
                    AND u.kind = e.kind)), 0)
    + coalesce((
        SELECT sum(e.overage_nano)
        FROM late_usage u JOIN usage_events e USING (customer_id, day, hold_id, kind)
        WHERE u.customer_id = k.customer_id AND u.write_off_id IS NULL
            AND u.invoice_id IS NOT DISTINCT FROM k.invoice_id), 0) AS overage_nano
FROM unnest($1::integer[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
    AS k (place, customer_id, invoice_id, starts, ends)

-- name: lock_drafts
SELECT d.customer_id, d.invoice_id, c.carried_nano, c.carried_minor, c.invoices_made,
    EXISTS (SELECT FROM late_usage u
        WHERE u.customer_id = d.customer_id AND u.invoice_id = d.invoice_id) AS has_late
FROM unnest($1::text[], $2::text[]) AS k (customer_id, invoice_id)
JOIN invoices d USING (customer_id, invoice_id)
JOIN invoice_cursors c USING (customer_id)
WHERE d.state = 'draft'
ORDER BY d.customer_id
FOR UPDATE OF d, c

-- name: drop_drafts
DELETE FROM invoices i
USING unnest($1::text[], $2::text[]) AS k (customer_id, invoice_id)
WHERE i.customer_id = k.customer_id AND i.invoice_id = k.invoice_id AND i.state = 'draft'

-- name: close_drafts
WITH wanted AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[],
        $13::jsonb[], $14::bigint[], $15::bigint[])
        AS k (customer_id, invoice_id, number, total_nano, credit_nano, overage_nano, carried_nano,
            carried_minor, due_nano, due_minor, charged_nano, transaction_id, findings, left_nano,
            left_minor)),
counted AS (
    UPDATE invoice_cursors c
    SET invoices_made = k.number, carried_nano = k.left_nano, carried_minor = k.left_minor
    FROM wanted k WHERE c.customer_id = k.customer_id)
UPDATE invoices i
SET state = 'closed', number = k.number, total_nano = k.total_nano, credit_nano = k.credit_nano,
    overage_nano = k.overage_nano, carried_nano = k.carried_nano,
    carried_minor = k.carried_minor, due_nano = k.due_nano, due_minor = k.due_minor,
    charged_nano = k.charged_nano, transaction_id = k.transaction_id, findings = k.findings,
    closed_at = now(), leased_until = NULL
FROM wanted k
WHERE i.customer_id = k.customer_id AND i.invoice_id = k.invoice_id
RETURNING i.invoice_id, i.number, i.due_nano, i.closed_at

-- name: insert_invoice_lines
INSERT INTO invoice_lines (
    customer_id, invoice_id, line_number, meter, models, plan, price_version, price, rounding,
    charge, late, period_start, period_end, events, quantity, amount_nano, credit_nano,
    amount_minor, due_minor)
SELECT customer_id, invoice_id, line_number, meter, array(SELECT json_array_elements_text(models)),
    plan, price_version, price, rounding, charge, late, period_start, period_end, events, quantity,
    amount_nano, credit_nano, amount_minor, due_minor
FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::text[], $5::json[], $6::text[], $7::text[],
    $8::jsonb[], $9::text[], $10::boolean[], $11::boolean[], $12::timestamptz[],
    $13::timestamptz[], $14::bigint[], $15::numeric[], $16::bigint[], $17::bigint[],
    $18::bigint[], $19::bigint[])
    AS l (customer_id, invoice_id, line_number, meter, models, plan, price_version, price,
        rounding, charge, late, period_start, period_end, events, quantity, amount_nano,
        credit_nano, amount_minor, due_minor)

-- name: insert_invoice_parts
INSERT INTO invoice_parts (
    customer_id, invoice_id, line_number, late, month, price_version, meter, model, prepaid,
    events, quantity, amount_nano)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::boolean[], $5::timestamptz[], $6::text[],
    $7::text[], $8::text[], $9::boolean[], $10::bigint[], $11::numeric[], $12::bigint[])

-- name: insert_late_usage
-- A volume price comes to 0 in the ledger, so that the amount does not say whether something is due.
WITH noted AS (
    SELECT k.*, e.price_version
    FROM unnest($1::text[], $2::date[], $3::text[], $4::text[], $5::bigint[], $6::boolean[])
        AS k (customer_id, day, hold_id, kind, amount_nano, prepaid)
    JOIN usage_events e USING (customer_id, day, hold_id, kind)),
volumes AS MATERIALIZED (
    SELECT DISTINCT v.price_version, line ->> 'meter' AS meter
    FROM invoice_price_versions v
    CROSS JOIN LATERAL json_array_elements(v.content::json -> 'lines') AS line
    WHERE v.price_version IN (SELECT n.price_version FROM noted n)
        AND line -> 'price' ->> 'model' = 'volume')
INSERT INTO late_usage (customer_id, day, hold_id, kind, amount_nano, prepaid, of_period)
SELECT n.customer_id, n.day, n.hold_id, n.kind, n.amount_nano, n.prepaid, EXISTS (
    SELECT FROM volumes v JOIN usage_lines l ON l.meter = v.meter
    WHERE v.price_version = n.price_version AND l.customer_id = n.customer_id AND l.day = n.day
        AND l.hold_id = n.hold_id AND l.kind = n.kind)
FROM noted n

-- name: late_customers
SELECT i.customer_id, i.currency, i.anchor, i.closed_until, i.period_end, c.plan,
    c.stripe_customer_id IS NOT NULL AS at_stripe
FROM (
    SELECT l.customer_id FROM late_usage l JOIN customers o USING (customer_id)
    WHERE l.invoice_id IS NULL AND l.write_off_id IS NULL AND l.noted_at <= $1
        AND NOT l.prepaid AND (l.amount_nano > 0 OR (l.amount_nano = 0 AND l.of_period))
        AND (o.plan = ANY ($3::text[])) <> $4::boolean
    GROUP BY l.customer_id ORDER BY min(l.noted_at) LIMIT $2) u
JOIN invoice_cursors i USING (customer_id)
JOIN customers c USING (customer_id)
WHERE NOT EXISTS (
    SELECT FROM invoices d WHERE d.customer_id = i.customer_id AND d.state = 'draft')

-- name: next_sequence
SELECT coalesce(max(sequence), 0) + 1 FROM invoices
WHERE customer_id = $1 AND currency = $2 AND period_start = $3

-- name: insert_late_invoice
WITH made AS (
    INSERT INTO invoices (
        customer_id, invoice_id, currency, sequence, provider, period_start, period_end)
    SELECT $1, $2, $3, $4, $5, $6, $7
    WHERE EXISTS (
        SELECT FROM late_usage
        WHERE customer_id = $1 AND invoice_id IS NULL AND write_off_id IS NULL
            AND NOT prepaid AND (amount_nano > 0 OR (amount_nano = 0 AND of_period)))
    RETURNING customer_id, invoice_id)
UPDATE late_usage u SET invoice_id = made.invoice_id
FROM made
WHERE u.customer_id = made.customer_id AND u.invoice_id IS NULL AND u.write_off_id IS NULL
RETURNING u.hold_id

-- name: lock_late_to_write_off
SELECT u.day, u.hold_id, u.kind, u.amount_nano, c.currency
FROM late_usage u JOIN customers c USING (customer_id)
WHERE u.customer_id = $1 AND u.invoice_id IS NULL AND u.write_off_id IS NULL
    AND NOT u.prepaid AND u.amount_nano > 0
ORDER BY u.noted_at, u.hold_id, u.kind LIMIT $2
FOR UPDATE OF u

-- name: insert_write_off
INSERT INTO write_offs (customer_id, write_off_id, currency, amount_nano, events, transaction_id)
VALUES ($1, $2, $3, $4, $5, $6)

-- name: note_written_off
UPDATE late_usage u SET write_off_id = $2
FROM unnest($3::date[], $4::text[], $5::text[]) AS k (day, hold_id, kind)
WHERE u.customer_id = $1 AND u.day = k.day AND u.hold_id = k.hold_id AND u.kind = k.kind

-- name: read_price_version
SELECT content FROM invoice_price_versions WHERE price_version = $1

-- name: note_price_versions
INSERT INTO invoice_price_versions (price_version, content)
SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (price_version) DO NOTHING

-- name: page_invoices
SELECT i.customer_id, i.invoice_id, i.currency, i.sequence, i.period_start, i.period_end, i.state,
    i.provider, i.number, i.total_nano, i.credit_nano, i.overage_nano, i.carried_nano,
    i.carried_minor, i.due_nano, i.due_minor, i.charged_nano, i.findings, i.cut_at, i.closed_at,
    i.voided_at, coalesce((
        SELECT sum(n.amount_nano) FROM credit_notes n
        WHERE n.customer_id = i.customer_id AND n.invoice_id = i.invoice_id), 0)::bigint
        AS credited_nano
FROM invoices i
WHERE ($1::text IS NULL OR i.customer_id = $1) AND ($2::text IS NULL OR i.state = $2)
    AND ($3::timestamptz IS NULL OR i.period_end >= $3)
    AND ($4::timestamptz IS NULL OR i.period_end < $4)
    AND ($5::timestamptz IS NULL OR (i.period_end, i.invoice_id) < ($5, $6::text))
ORDER BY i.period_end DESC, i.invoice_id DESC LIMIT $7

-- name: read_invoice
SELECT i.customer_id, i.invoice_id, i.currency, i.sequence, i.period_start, i.period_end, i.state,
    i.provider, i.number, i.total_nano, i.credit_nano, i.overage_nano, i.carried_nano,
    i.carried_minor, i.due_nano, i.due_minor, i.charged_nano, i.findings, i.cut_at, i.closed_at,
    i.voided_at, coalesce((
        SELECT sum(n.amount_nano) FROM credit_notes n
        WHERE n.customer_id = i.customer_id AND n.invoice_id = i.invoice_id), 0)::bigint
        AS credited_nano
FROM invoices i WHERE i.invoice_id = $1

-- name: read_invoice_lines
SELECT line_number, meter, models, plan, price_version, price, rounding, charge, late,
    period_start, period_end, events, quantity, amount_nano, credit_nano, amount_minor, due_minor
FROM invoice_lines WHERE customer_id = $1 AND invoice_id = $2 ORDER BY line_number

-- name: line_events
SELECT e.customer_id, e.hold_id, e.kind, l.meter, e.model, l.quantity, l.amount_nano, l.owed_nano,
    e.occurred_at, e.transaction_id
FROM invoice_parts p
JOIN invoices i USING (customer_id, invoice_id)
JOIN usage_events e ON e.customer_id = p.customer_id AND e.price_version = p.price_version
    AND e.model = p.model AND e.prepaid = p.prepaid
    AND e.occurred_at >= p.month AND e.occurred_at < p.month + interval '1 month'
    AND (p.late OR (e.occurred_at >= i.period_start AND e.occurred_at < i.period_end))
JOIN usage_lines l ON l.customer_id = e.customer_id AND l.day = e.day AND l.hold_id = e.hold_id
    AND l.kind = e.kind AND l.meter = p.meter
LEFT JOIN late_usage u ON u.customer_id = e.customer_id AND u.day = e.day
    AND u.hold_id = e.hold_id AND u.kind = e.kind
WHERE p.customer_id = $1 AND p.invoice_id = $2 AND p.line_number = $3
    AND CASE WHEN p.late THEN coalesce(u.invoice_id = p.invoice_id, false)
        ELSE u.hold_id IS NULL END
    AND (e.hold_id, e.kind) > ($4::text, $5::text)
ORDER BY e.hold_id, e.kind LIMIT $6

-- name: trace_hold
-- Without the customer the hold is looked for by its second, which is near the event's own.
SELECT e.customer_id, e.hold_id, e.kind, l.meter, e.model, e.plan, e.price_version, l.quantity,
    l.amount_nano, l.owed_nano, e.currency, e.prepaid, u.hold_id IS NOT NULL AS late, e.occurred_at,
    e.posted_at, e.transaction_id, c.chain, c.seq AS chain_seq,
    w.identifier AS report_identifier, w.state AS report_state,
    i.invoice_id, i.state AS invoice_state, i.number, p.line_number, u.write_off_id
FROM usage_events e
JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN ledger_chain c ON c.customer_id = e.customer_id AND c.transaction_id = e.transaction_id
LEFT JOIN report_windows w ON w.customer_id = l.customer_id AND w.meter = l.meter
    AND w.window_start = l.window_start AND w.seq = l.window_seq
LEFT JOIN late_usage u ON u.customer_id = e.customer_id AND u.day = e.day
    AND u.hold_id = e.hold_id AND u.kind = e.kind
LEFT JOIN invoices i ON i.customer_id = e.customer_id AND CASE
    WHEN u.hold_id IS NOT NULL THEN i.invoice_id = u.invoice_id
    ELSE i.sequence = 0 AND e.occurred_at >= i.period_start AND e.occurred_at < i.period_end END
LEFT JOIN invoice_parts p ON p.customer_id = i.customer_id AND p.invoice_id = i.invoice_id
    AND p.late = (u.hold_id IS NOT NULL)
    AND p.month = date_trunc('month', e.occurred_at, 'UTC')
    AND p.price_version = e.price_version AND p.meter = l.meter AND p.model = e.model
    AND p.prepaid = e.prepaid
WHERE e.hold_id = $1 AND CASE WHEN $2::text IS NULL
        THEN e.occurred_at >= $3 AND e.occurred_at < $4 ELSE e.customer_id = $2 END
    AND ($2::text IS NULL OR e.day = $5)
ORDER BY e.kind, l.meter LIMIT $6

-- name: lock_invoice
SELECT customer_id, invoice_id, currency, state, provider, total_nano, credit_nano
FROM invoices WHERE invoice_id = $1 FOR UPDATE

-- name: read_credit_note
SELECT credit_note_id, customer_id, invoice_id, void, currency, amount_nano, amount_minor, lines,
    reason, created_at, posted_at
FROM credit_notes WHERE customer_id = $1 AND credit_note_id = $2

-- name: credit_notes_of_invoice
SELECT credit_note_id, customer_id, invoice_id, void, currency, amount_nano, amount_minor, lines,
    reason, created_at, posted_at
FROM credit_notes WHERE customer_id = $1 AND invoice_id = $2
ORDER BY created_at, credit_note_id LIMIT $3

-- name: insert_credit_note
INSERT INTO credit_notes (
    customer_id, credit_note_id, invoice_id, void, currency, amount_nano, amount_minor, lines,
    reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9)

-- name: lines_left
SELECT line_number, amount_nano - credit_nano AS due_nano FROM invoice_lines
WHERE customer_id = $1 AND invoice_id = $2 AND line_number = ANY ($3::integer[])

-- name: erase_credit_notes
UPDATE credit_notes SET reason = '' WHERE customer_id = $1 AND reason <> ''

-- name: unposted_credit_notes
SELECT customer_id, credit_note_id FROM credit_notes WHERE posted_at IS NULL
ORDER BY created_at, credit_note_id LIMIT $1

-- name: lock_credit_note
SELECT n.credit_note_id, n.invoice_id, n.void, n.currency, n.amount_nano, i.carried_nano,
    i.carried_minor, i.total_nano - i.credit_nano AS due_nano,
    (SELECT coalesce(sum(l.due_minor), 0) FROM invoice_lines l
        WHERE l.customer_id = n.customer_id AND l.invoice_id = n.invoice_id)::bigint
        AS lines_due_minor
FROM credit_notes n JOIN invoices i USING (customer_id, invoice_id)
WHERE n.customer_id = $1 AND n.credit_note_id = $2 AND n.posted_at IS NULL
FOR UPDATE OF n

-- name: finish_credit_note
UPDATE credit_notes SET posted_at = now(), transaction_id = $3
WHERE customer_id = $1 AND credit_note_id = $2

-- name: void_invoice
UPDATE invoices SET state = 'void', voided_at = now()
WHERE customer_id = $1 AND invoice_id = $2 AND state = 'closed'

-- name: carry_back
-- What the void invoice took of what was carried comes back for the next one.
UPDATE invoice_cursors SET carried_nano = carried_nano + $2, carried_minor = carried_minor + $3
WHERE customer_id = $1
