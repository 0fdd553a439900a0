-- Place a hold: everything it touches, or nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 fingerprint, 5 deadline ms, 6 ttl ms,
--   7 credential id or '', 8 generation, 9 facts revision, 10 credit required, 11 probe,
--   12 who pays: 0 an invoice, 1 credit, 2 credit first and an invoice after it; 13 terms,
--   14 count of invoice demands, then per demand: grace ms or '', minimum, except disputed, hard;
--   then count of parts, then per part: meter or '', amount (they sum up to the amount);
--   then count of counters, then per counter: field, hard, quantity, limit, and by its kind
--     q: window start ms, window end ms, 0
--     v: slice start ms, slice end ms, instant ms at which the slice leaves
--     l: ms that the limit is for, burst, 0
--     f: 0, 0, 0
--   at last who asks, or ''
-- Reply: status, instant, expires, epoch, seq, available (overdraft with it), standing, due since or '', due amount
--   or '', disputed, failed credit, then per counter: used, over, retry at ms or 0

-- Whether it would fit if every block of credit that is out came back. What a probe only asks, and
-- what invoices, rates or holds in flight refuse, they do refuse.
local function fits_without_blocks(judged)
  if ARGV[11] == '1' or judged.unpaid then return false end
  local out = call('HGET', customer, 'blocks') or ''
  local free, counted = judged.had, {}
  for block_id in out:gmatch('[^\n]+') do
    local block = read_hold(call('HGET', customer, 'h:' .. block_id) or '')
    for _, line in ipairs(block and block.lines or {}) do
      counted[line[1]] = plus(counted[line[1]] or '0', line[2])
    end
    if block then free = plus(free, block.amount) end
  end
  if out == '' or judged.failed_credit and cmp(free, amount) < 0 then return false end
  for _, take in ipairs(takes) do
    if take.hard and take.over then
      local back = counted[take.field]
      if not back or cmp(minus(take.after, back), take.limit) > 0 then return false end
    end
  end
  return true
end

-- 1. A known id repeats its answer.
if row[4] then
  local hold = read_hold(row[4])
  if not hold or hold.fingerprint ~= ARGV[4] or hold.amount ~= amount then
    return refuse('mismatch')
  end
  if not readable() or not expires then return refuse('out_of_bounds') end
  settle_standing()
  judge_again(takes, hold)
  -- Who is told of a hold again answers for it from now on: what an earlier try gives back, this
  -- one may have let pass.
  if asked_by ~= '' then
    call('HSET', customer, 'o:' .. id, asked_by)
    commit(shard, moment)
  end
  return answer('repeated', hold.decided, text(tonumber(expires)))
end
if call('HEXISTS', done, id) == 1 then return refuse('closed') end
if opened_for then return refuse('mismatch') end

-- 2. The request itself.
local refused = refusal()
if refused then return refuse(refused) end

-- 3. The demands. What blocks of credit hold is not spent: whoever has them is told to give it back.
local judged = judge()
if judged.denied then
  local status = 'denied'
  if fits_without_blocks(judged) then
    status = 'recalled'
    call('PUBLISH', 'sc:push', cjson.encode({ kind = 'recall', id = ARGV[2] }))
  end
  return answer(status, text(moment.instant), '0', judged.had, judged.failed_credit)
end
if not book_fits(book) then
  book = open_book(row, names_before_book)
  return refuse('out_of_bounds')
end

-- 4. Write. Nothing below can fail: types and bounds were checked above.
local lines = write_takes(takes, moment.instant)
local expires_at = text(moment.instant + tonumber(ARGV[6]))
call('HSET', customer, 'h:' .. id, write_hold({
  decided = text(moment.instant), amount = amount, beyond = judged.beyond,
  fingerprint = ARGV[4], lines = lines, pins = judged.pins, terms = ARGV[13],
}))
call('ZADD', expiry, expires_at, id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
write_book(book, KEYS[6], moment)
return answer('placed', text(moment.instant), expires_at)
