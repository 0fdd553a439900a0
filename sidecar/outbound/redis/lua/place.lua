-- Place a hold: everything it touches, or nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 fingerprint, 5 deadline ms, 6 ttl ms,
--   7 credential id or '', 8 generation, 9 facts revision, 10 credit required, 11 probe,
--   12 highest held, 13 lowest available that the amount still fits, 14 terms,
--   15 count of invoice demands, then per demand: grace ms or '', minimum, except disputed, hard;
--   then count of counters, then per counter: field, hard, quantity, limit, and by its kind
--     q: window start ms, window end ms, 0
--     v: slice start ms, slice end ms, instant ms at which the slice leaves
--     l: ms that the limit is for, burst, 0
--     f: 0, 0, 0
-- Reply: status, instant, expires, epoch, seq, available, standing, due since or '', due amount
--   or '', disputed, failed credit, then per counter: used, over, retry at ms or 0

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, amount = ARGV[1], ARGV[3]

-- A key of the wrong type must fail here, before the first write.
local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
call('XLEN', KEYS[6])
call('ZCARD', where.windows)
local moment = moment_of(shard)

local names = { 'rev', 'avail', 'held', 'standing', 'standing_until', 'h:' .. id, 'k:' .. ARGV[7],
  'due_since', 'due_nano', 'due_disputed' }
local names_before_takes = #names
local demands, position = {}, 16
for i = 1, tonumber(ARGV[15]) do
  demands[i] = {
    grace = ARGV[position], minimum = ARGV[position + 1],
    except_disputed = ARGV[position + 2] == '1', hard = ARGV[position + 3] == '1',
  }
  position = position + 4
end
local takes = read_takes(position + 1)
name_takes(takes, names)
local row = call('HMGET', customer, unpack(names))
local rev, avail, held, standing, till = row[1], row[2], row[3], row[4] or 'good', row[5] or ''
local due_since, due_nano, disputed = row[8] or '', row[9] or '', row[10] == '1'

local function answer(status, instant, expires_at)
  local reply = {
    status, instant, expires_at, moment.epoch, text(moment.seq), avail or '0', standing,
    due_since, due_nano, disputed and '1' or '0', '0',
  }
  for _, take in ipairs(takes) do
    reply[#reply + 1] = take.used
    reply[#reply + 1] = take.over and '1' or '0'
    reply[#reply + 1] = text(take.retry_at)
  end
  return reply
end

local function refuse(status)
  return answer(status, text(moment.instant), '0')
end

local function readable()
  return sane(avail) and sane(held)
    and (standing == 'good' or standing == 'grace' or standing == 'delinquent')
    and (till == '' or tonumber(till) ~= nil)
    and (due_since == '' or sane(due_since)) and (due_nano == '' or sane(due_nano))
    and judge_takes(takes, row, names_before_takes, moment.instant)
end

-- Whether unpaid invoices refuse; in the words of InvoiceDemand.fails.
local function fails(demand)
  if disputed and demand.except_disputed then return false end
  if due_nano ~= '' and cmp(due_nano, demand.minimum) < 0 then return false end
  if demand.grace == '' or due_since == '' then return standing == 'delinquent' end
  return moment.instant >= tonumber(due_since) + tonumber(demand.grace)
end

local function settle_standing()
  if till ~= '' and moment.instant >= tonumber(till) then standing = 'good' end
end

-- 1. A known id repeats its answer.
if row[6] then
  local hold = read_hold(row[6])
  if not hold or hold.fingerprint ~= ARGV[4] or hold.amount ~= amount then
    return refuse('mismatch')
  end
  if not readable() or not expires then return refuse('out_of_bounds') end
  settle_standing()
  judge_again(takes, hold)
  return answer('repeated', hold.decided, text(tonumber(expires)))
end
if call('HEXISTS', done, id) == 1 then return refuse('closed') end
if opened_for then return refuse('mismatch') end

-- 2. Nobody waits for the answer any more.
if moment.raw > tonumber(ARGV[5]) then return refuse('too_late') end

-- 3. What the caller knew still holds.
if not rev then return refuse('no_customer') end
if ARGV[7] ~= '' and not credential_holds(row[7], ARGV[8], moment.instant) then
  return refuse('unknown_credential')
end
if rev ~= ARGV[9] then return refuse('stale_facts') end
for _, take in ipairs(takes) do
  local kind = kind_of(take.field)
  if (kind == 'q' or kind == 'v') and (moment.instant < take.a or moment.instant >= take.b) then
    return refuse('window_moved')
  end
end
if not readable() or cmp(held, ARGV[12]) > 0 or cmp(avail, ARGV[13]) < 0 then
  return refuse('out_of_bounds')
end
settle_standing()

-- 4. Every demand is tried, so that the answer can name all that failed.
local reply = refuse('denied')
local denied = ARGV[11] == '1'
if ARGV[10] == '1' and cmp(avail, amount) < 0 then
  reply[11], denied = '1', true
end
for _, demand in ipairs(demands) do
  if demand.hard and fails(demand) then denied = true end
end
for _, take in ipairs(takes) do
  if take.hard and take.over then denied = true end
end
if denied then return reply end

-- 5. Write. Nothing below can fail: types and bounds were checked above.
local before = avail
add(customer, 'held', amount)
add(customer, 'avail', negate(amount))
avail = call('HGET', customer, 'avail')
local lines = write_takes(takes, moment.instant)
local uncovered = '0'
if negative(avail) then uncovered = negative(before) and amount or negate(avail) end
local expires_at = text(moment.instant + tonumber(ARGV[6]))
call('HSET', customer, 'h:' .. id, write_hold({
  decided = text(moment.instant), amount = amount, uncovered = uncovered, fingerprint = ARGV[4],
  lines = lines, terms = ARGV[14],
}))
call('ZADD', expiry, expires_at, id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
return answer('placed', text(moment.instant), expires_at)
