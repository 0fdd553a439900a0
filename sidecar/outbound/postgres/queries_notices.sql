-- Notices, deliveries, and what the sources of notices look at.

-- name: put_notices
-- The anti-join spares the numbers of repeats. Between two at a time any of the keys decides: the
-- id is a hash of what the other key holds, and either may be the one that is found taken.
INSERT INTO notices (customer_id, notice_id, kind, fact_key, facts, amounts, occurred_at)
SELECT p.customer_id,
    'ntc_' || left(encode(sha256(convert_to(json_build_array(
        i.ledger_id, p.kind, p.customer_id, p.fact_key)::text, 'UTF8')), 'hex'), 32),
    p.kind, p.fact_key, p.facts::jsonb, p.amounts::jsonb, p.occurred_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
    AS p (customer_id, kind, fact_key, facts, amounts, occurred_at), ledger_identity i
WHERE NOT EXISTS (
    SELECT FROM notices n
    WHERE n.customer_id = p.customer_id AND n.kind = p.kind AND n.fact_key = p.fact_key)
ON CONFLICT DO NOTHING
RETURNING kind

-- name: transaction_time
SELECT now()

-- name: unrouted_notices
SELECT n.customer_id, n.notice_id, n.kind, n.fact_key, n.facts::text AS facts,
    n.amounts::text AS amounts, n.occurred_at, coalesce(c.labels ->> $1::text, '') AS email
FROM notices n LEFT JOIN customers c USING (customer_id)
WHERE n.routed_at IS NULL AND n.kind = ANY ($3::text[])
ORDER BY n.notice_number LIMIT $2

-- name: insert_notice_deliveries
INSERT INTO notice_deliveries (customer_id, notice_id, channel, target)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (customer_id, notice_id, channel, target) DO NOTHING

-- name: note_routed
UPDATE notices n SET routed_at = now()
FROM unnest($1::text[], $2::text[]) AS r (customer_id, notice_id)
WHERE n.customer_id = r.customer_id AND n.notice_id = r.notice_id AND n.routed_at IS NULL

-- name: claim_notice_deliveries
-- The attempt is committed before anything is sent: a crash in between costs a try, no more.
WITH due AS (
    SELECT customer_id, notice_id, channel, target FROM notice_deliveries
    WHERE state = 'pending' AND channel = $1 AND next_attempt_at <= now()
        AND (lease_until IS NULL OR lease_until <= now())
    ORDER BY next_attempt_at LIMIT $3
    FOR UPDATE SKIP LOCKED),
leased AS (
    UPDATE notice_deliveries d
    SET attempts = d.attempts + 1, lease_owner = $2, lease_until = now() + $4::interval
    FROM due
    WHERE d.customer_id = due.customer_id AND d.notice_id = due.notice_id
        AND d.channel = due.channel AND d.target = due.target
    RETURNING d.customer_id, d.notice_id, d.target, d.attempts)
SELECT l.customer_id, l.notice_id, l.target, l.attempts, n.kind, n.fact_key,
    n.facts::text AS facts, n.amounts::text AS amounts, n.occurred_at,
    coalesce(c.labels ->> $5::text, '') AS email
FROM leased l
JOIN notices n USING (customer_id, notice_id)
LEFT JOIN customers c USING (customer_id)
ORDER BY n.notice_number

-- name: finish_notice_delivery
-- Sent is true whoever says it. Any other word counts only from the newest attempt: a worker whose
-- lease ran out must not undo what its successor found.
UPDATE notice_deliveries
SET state = $6,
    next_attempt_at = CASE WHEN $6 = 'pending' THEN now() + $9::interval END,
    finished_at = CASE WHEN $6 <> 'pending' THEN now() END,
    lease_owner = NULL, lease_until = NULL, last_detail = $8
WHERE customer_id = $1 AND notice_id = $2 AND channel = $3 AND target = $4
    AND (($6 = 'sent' AND state <> 'sent')
        OR (state = 'pending' AND attempts = $5 AND lease_owner = $7))

-- name: list_notices
SELECT n.customer_id, n.notice_id, n.notice_number, n.kind, n.fact_key, n.facts::text AS facts,
    n.amounts::text AS amounts, n.occurred_at, n.created_at, n.routed_at IS NOT NULL AS routed
FROM notices n
WHERE n.notice_number < $1 AND ($2 = '' OR n.customer_id = $2)
    AND ($3 = '' OR n.notice_id = $3)
    AND ($4 = '' OR EXISTS (
        SELECT FROM notice_deliveries d
        WHERE d.customer_id = n.customer_id AND d.notice_id = n.notice_id AND d.state = $4))
ORDER BY n.notice_number DESC LIMIT $5

-- name: list_notice_deliveries
SELECT d.notice_id, d.channel, d.target, d.state, d.attempts, d.next_attempt_at, d.finished_at,
    d.last_detail
FROM notice_deliveries d
JOIN unnest($1::text[], $2::text[]) AS w (customer_id, notice_id) USING (customer_id, notice_id)
ORDER BY d.notice_id, d.channel, d.target

-- name: retry_notice_deliveries
UPDATE notice_deliveries
SET state = 'pending', attempts = 0, next_attempt_at = now(), finished_at = NULL,
    lease_owner = NULL, lease_until = NULL, last_detail = ''
WHERE customer_id = $1 AND notice_id = $2 AND state = 'failed'

-- name: forget_notices
DELETE FROM notices WHERE (customer_id, notice_id) IN (
    SELECT customer_id, notice_id FROM notices
    WHERE created_at < now() - $1::interval ORDER BY notice_number LIMIT $2)

-- name: erase_notices
-- A fact may name a user. What is still to be sent is not: it could not say what happened.
WITH stopped AS (
    UPDATE notice_deliveries
    SET state = 'failed', next_attempt_at = NULL, finished_at = now(), lease_owner = NULL,
        lease_until = NULL, last_detail = 'the customer was erased'
    WHERE customer_id = $1 AND state = 'pending')
UPDATE notices SET facts = '{}', amounts = '{}', routed_at = coalesce(routed_at, now())
WHERE customer_id = $1

-- name: ensure_notice_source
INSERT INTO notice_sources (source) VALUES ($1) ON CONFLICT (source) DO NOTHING

-- name: begin_notice_look
-- `since` reaches back over what a transaction that was under way may have committed meanwhile.
UPDATE notice_sources s
SET lease_owner = $2, lease_until = now() + $3::interval
FROM (SELECT source FROM notice_sources
    WHERE source = $1 AND (lease_until IS NULL OR lease_until <= now())
    FOR UPDATE SKIP LOCKED) free
WHERE s.source = free.source
RETURNING s.looked_to - $5::interval AS since, now() AS until,
    s.all_at <= now() - $4::interval AS everything, s.all_at = '-infinity' AS first

-- name: renew_notice_look
UPDATE notice_sources SET lease_until = now() + $3::interval
WHERE source = $1 AND lease_owner = $2 AND lease_until > now()
RETURNING source

-- name: finish_notice_look
UPDATE notice_sources
SET looked_to = $3, all_at = CASE WHEN $4 THEN $3 ELSE all_at END,
    lease_owner = NULL, lease_until = NULL
WHERE source = $1 AND lease_owner = $2

-- name: put_notice_states
INSERT INTO notice_states (customer_id, source, state, mark, episode)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (customer_id, source) DO UPDATE
SET state = excluded.state, mark = excluded.mark, episode = excluded.episode, changed_at = now()

-- name: seen_thresholds
SELECT customer_id, quota, subject, period_start, percent, reached_at, event_number
FROM threshold_events
WHERE reached_at >= $1 AND reached_at < $2 AND (reached_at, event_number) > ($3, $4)
ORDER BY reached_at, event_number LIMIT $5

-- name: seen_credits
-- A window begins with the newest sample that is as old as it, at the window's own beginning;
-- where there is none, with the oldest sample.
SELECT b.customer_id, b.currency,
    b.customer_credit_nano + b.customer_overage_nano + c.overdraft_nano AS available_nano,
    b.granted_nano, b.used_prepaid_nano AS used_nano,
    e.state AS exhausted_state, e.mark AS exhausted_mark, e.episode AS exhausted_episode,
    r.state AS running_state, r.mark AS running_mark, r.episode AS running_episode,
    ARRAY(
        SELECT ROW(greatest(s.sampled_at, $3::timestamptz - w.back), s.used_nano)
        FROM unnest($6::interval[]) AS w (back)
        CROSS JOIN LATERAL (
            (SELECT true AS as_old, sampled_at, used_nano FROM credit_samples o
                WHERE o.customer_id = b.customer_id AND o.currency = b.currency
                    AND o.sampled_at <= $3::timestamptz - w.back
                ORDER BY sampled_at DESC LIMIT 1)
            UNION ALL
            (SELECT false, sampled_at, used_nano FROM credit_samples o
                WHERE o.customer_id = b.customer_id AND o.currency = b.currency
                    AND o.sampled_at > $3::timestamptz - w.back
                ORDER BY sampled_at LIMIT 1)
            ORDER BY as_old DESC LIMIT 1) s) AS samples
FROM account_balances b
JOIN customers c USING (customer_id, currency)
LEFT JOIN notice_states e ON e.customer_id = b.customer_id AND e.source = 'credit.exhausted'
LEFT JOIN notice_states r ON r.customer_id = b.customer_id AND r.source = 'credit.running_out'
WHERE b.customer_id > $1 AND b.granted_nano > 0 AND ($2 OR b.updated_at >= $4)
ORDER BY b.customer_id LIMIT $5

-- name: sample_credit
-- Where nothing was used since the last sample, that one still says it.
INSERT INTO credit_samples (customer_id, currency, sampled_at, used_nano)
SELECT b.customer_id, b.currency, now(), b.used_prepaid_nano
FROM account_balances b
WHERE b.customer_id = ANY ($1::text[]) AND b.granted_nano > 0
    AND b.used_prepaid_nano IS DISTINCT FROM (
    SELECT s.used_nano FROM credit_samples s
    WHERE s.customer_id = b.customer_id AND s.currency = b.currency
    ORDER BY s.sampled_at DESC LIMIT 1)
ON CONFLICT (customer_id, currency, sampled_at) DO NOTHING

-- name: forget_credit_samples
-- The newest sample that is as old as the longest window stays: windows may begin with it.
DELETE FROM credit_samples s
WHERE s.customer_id = ANY ($1::text[]) AND s.sampled_at < now() - $2::interval AND EXISTS (
    SELECT FROM credit_samples o
    WHERE o.customer_id = s.customer_id AND o.currency = s.currency
        AND o.sampled_at > s.sampled_at AND o.sampled_at <= now() - $2::interval)

-- name: seen_standings
SELECT s.customer_id,
    CASE WHEN s.until <= $3 THEN 'good' ELSE s.standing END AS standing,
    CASE WHEN s.until <= $3 THEN NULL ELSE s.until END AS until, t.state, t.mark, t.episode
FROM standings s
LEFT JOIN notice_states t ON t.customer_id = s.customer_id AND t.source = 'standing.changed'
WHERE s.customer_id > $1
    AND ($2 OR s.updated_at >= $4 OR (s.until >= $4 AND s.until <= $3))
ORDER BY s.customer_id LIMIT $5

-- name: seen_reports
SELECT provider, meter, state = 'uncertain' AS uncertain,
    date_trunc('hour', finished_at, 'UTC') AS hour, count(*) AS row_count,
    count(DISTINCT customer_id) AS customer_count, min(finished_at) AS first_at
FROM report_windows
WHERE state IN ('failed', 'uncertain') AND finished_at >= $1 AND finished_at < $2
GROUP BY 1, 2, 3, 4 ORDER BY 4, 1, 2, 3 LIMIT $3
