-- Place a hold: everything it touches, or nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 fingerprint, 5 deadline ms, 6 ttl ms,
--   7 credential id or '', 8 generation, 9 facts revision, 10 credit required, 11 refuse delinquent,
--   12 highest held, 13 lowest available that the amount still fits, 14 terms, 15 count of quotas,
--   then per quota: field, window start ms, window end ms, hard, quantity, highest counter
-- Reply: status, instant, expires, epoch, seq, available, standing, failed credit,
--   failed standing, then per quota: counter, failed

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, amount = ARGV[1], ARGV[3]

-- A key of the wrong type must fail here, before the first write.
local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
call('XLEN', KEYS[6])
local moment = moment_of(shard)

local names = { 'rev', 'avail', 'held', 'standing', 'standing_until', 'h:' .. id, 'k:' .. ARGV[7] }
local quotas = {}
for i = 16, #ARGV, 6 do
  quotas[#quotas + 1] = {
    field = ARGV[i], from = tonumber(ARGV[i + 1]), till = tonumber(ARGV[i + 2]),
    hard = ARGV[i + 3] == '1', quantity = ARGV[i + 4], ceiling = ARGV[i + 5],
  }
  names[#names + 1] = ARGV[i]
end
local row = call('HMGET', customer, unpack(names))
local rev, avail, held, standing, till = row[1], row[2], row[3], row[4] or 'good', row[5] or ''
for i, quota in ipairs(quotas) do quota.used = row[7 + i] or '0' end

local function answer(status, instant, expires_at)
  local reply = {
    status, instant, expires_at, moment.epoch, text(moment.seq), avail or '0', standing, '0', '0',
  }
  for _, quota in ipairs(quotas) do
    reply[#reply + 1] = quota.used
    reply[#reply + 1] = '0'
  end
  return reply
end

local function refuse(status)
  return answer(status, text(moment.instant), '0')
end

local function readable()
  if not (sane(avail) and sane(held)) then return false end
  for _, quota in ipairs(quotas) do
    if not sane(quota.used) then return false end
  end
  return (standing == 'good' or standing == 'grace' or standing == 'delinquent')
    and (till == '' or tonumber(till) ~= nil)
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
for _, quota in ipairs(quotas) do
  if moment.instant < quota.from or moment.instant >= quota.till then
    return refuse('window_moved')
  end
end
if not readable() or cmp(held, ARGV[12]) > 0 or cmp(avail, ARGV[13]) < 0 then
  return refuse('out_of_bounds')
end
settle_standing()

-- 4. Every demand is tried, so that the answer can name all that failed.
local reply = refuse('denied')
local denied = false
if ARGV[10] == '1' and cmp(avail, amount) < 0 then
  reply[8], denied = '1', true
end
if ARGV[11] == '1' and standing == 'delinquent' then
  reply[9], denied = '1', true
end
for i, quota in ipairs(quotas) do
  if quota.hard and cmp(quota.used, quota.ceiling) > 0 then
    reply[9 + 2 * i], denied = '1', true
  end
end
if denied then return reply end

-- 5. Write. Nothing below can fail: types and bounds were checked above.
local before = avail
add(customer, 'held', amount)
add(customer, 'avail', negate(amount))
avail = call('HGET', customer, 'avail')
local lines = {}
for i, quota in ipairs(quotas) do
  if not row[7 + i] then open_window(customer, quota.field, quota.till, moment.instant) end
  call('HINCRBY', customer, quota.field, quota.quantity)
  quota.used = call('HGET', customer, quota.field)
  lines[i] = { quota.field, quota.quantity }
end
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
