-- Burn an event's amount, release the rest of its hold, append it to the shard's stream.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 estimated, 5 digest of the usage, 6 prepaid,
--   7 currency, 8 price version, 9 event, 10 highest used, 11 lowest available that the amount
--   still fits, 12 count of lines, then per line: counter's field, actual quantity
-- Reply: status, booked, overage, held, available, instant, epoch, seq

local customer, shard, done, expiry, open, usage =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, amount, estimated, digest = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local prepaid = ARGV[6] == '1'

-- A key of the wrong type must fail here, before the first write.
local expires = call('ZSCORE', expiry, id) or '0'
local opened_for = call('HGET', open, id)
call('XLEN', usage)
call('ZCARD', where.windows)
call('SCARD', where.touched)
local moment = moment_of(shard)
local record = call('HGET', done, id)
local marker = record and read_marker(record)
local row = call('HMGET', customer, 'rev', 'used', 'held', 'avail', 'h:' .. id, 'r:' .. id)
local lines = {}
for i = 13, #ARGV, 2 do lines[#lines + 1] = { ARGV[i], ARGV[i + 1] } end
local actual = {}
for _, line in ipairs(lines) do actual[line[1]] = line[2] end

local function reply(status, booked, overage, held)
  local avail = call('HGET', customer, 'avail')
  return {
    status, booked or '0', overage or '0', held or '0', sane(avail) and avail or '0',
    text(moment.instant), moment.epoch, text(moment.seq),
  }
end

-- Why nothing may be booked now, or nil.
local function refusal(counted)
  if not row[1] then return 'no_customer' end
  if not (sane(row[2]) and sane(row[3]) and sane(row[4]))
    or cmp(row[2], ARGV[10]) > 0 or cmp(row[4], ARGV[11]) < 0
    or not counters_fit(counted, false) or not counters_fit(lines, true) then
    return 'out_of_bounds'
  end
  return nil
end

-- Move the balance from what was booked for this id before to the event's amount.
-- What a hold covered is never overage: the debt is compared with that before the hold ended,
-- with the part that found no credit when it was placed (`uncovered`) given back.
local function burn(booked_before, overage_before, held, uncovered)
  add(customer, 'used', amount)
  add(customer, 'used', negate(booked_before))
  add(customer, 'held', negate(held))
  add(customer, 'avail', uncovered)
  local from = call('HGET', customer, 'avail')
  add(customer, 'avail', negate(uncovered))
  add(customer, 'avail', held)
  add(customer, 'avail', booked_before)
  add(customer, 'avail', negate(amount))
  local to = call('HGET', customer, 'avail')
  local booked = difference(customer, amount, booked_before)
  if not prepaid then return booked, '0' end
  if not negative(booked) then return booked, debt_growth(customer, from, to) end
  -- A refund takes back at most the overage that this id has booked.
  local relief = debt_growth(customer, to, from)
  if cmp(relief, overage_before) > 0 then relief = overage_before end
  return booked, negate(relief)
end

local function append(kind, booked, overage, held, late)
  call('XADD', usage, '*', 'v', '1', 'k', kind, 'id', id, 'c', ARGV[2], 'cur', ARGV[7],
    'amt', booked, 'held', held, 'ov', overage, 'avail', call('HGET', customer, 'avail'),
    'at', text(moment.instant), 'pre', ARGV[6], 'late', late, 'pv', ARGV[8], 'ev', ARGV[9],
    'qt', table.concat(moved, '\n'), 'seq', text(moment.seq), 'ep', moment.epoch)
end

-- Ask Postgres by way of the stream, once for each thing that is said of the id.
local function claim()
  if marker and marker.digest == digest then return reply('claimed') end
  local claimed = tombstone('claimed', ARGV[2])
  claimed.digest, claimed.estimated = digest, estimated
  remember(done, id, claimed)
  commit(shard, moment)
  for _, line in ipairs(lines) do
    moved[#moved + 1] = line[1]
    moved[#moved + 1] = line[2]
  end
  append('claim', amount, '0', '0', '1')
  return reply('claimed')
end

-- A second event for a captured id.
local function compare()
  if marker.digest == digest then
    if marker.estimated == '1' and estimated == '0' then
      marker.estimated = '0'
      remember(done, id, marker)
      commit(shard, moment)
    end
    return reply('duplicate')
  end
  if estimated == '1' then return reply('duplicate') end
  if marker.estimated == '0' then return reply('conflict') end
  local refused = refusal(marker.lines)
  if refused then return reply(refused) end
  local booked, overage = burn(marker.amount, marker.overage, '0', '0')
  uncount_captured(marker.lines)
  count_captured(lines, moment.instant)
  marker.overage = difference(customer, marker.overage, negate(overage))
  marker.corrections = text(tonumber(marker.corrections) + 1)
  marker.amount, marker.estimated, marker.digest, marker.lines = amount, '0', digest, lines
  remember(done, id, marker)
  commit(shard, moment)
  append('correction:' .. marker.corrections, booked, overage, '0', '0')
  return reply('corrected', booked, overage)
end

-- An id belongs to one customer.
if opened_for and opened_for ~= ARGV[2] then return reply('conflict') end
if marker and (marker.state == 'unreadable' or marker.customer ~= ARGV[2]) then
  return reply('conflict')
end
if marker and marker.state == 'captured' then return compare() end

local reservation = row[6] and read_reservation(row[6])
local hold = row[5] and read_hold(row[5])
if (row[5] and not hold) or (row[6] and not reservation) then return reply('out_of_bounds') end
local refused = refusal(hold and hold.lines or {})
if refused then return reply(refused) end
if (marker and marker.state == 'claimed')
  or not (hold or marker or reservation) and forgotten(shard, id, moment.instant) then
  return claim()
end

local ended = marker or tombstone('captured', ARGV[2])
local held = hold and hold.amount or '0'
local booked, overage = burn(ended.amount, ended.overage, held, hold and hold.uncovered or '0')
if hold then
  uncount_hold(hold, actual, moment.instant)
  ended.decided, ended.expires, ended.terms = hold.decided, expires, hold.terms
elseif not marker then
  ended.decided, ended.expires = text(moment.instant), text(moment.instant)
end
count_captured(lines, moment.instant)
ended.overage = difference(customer, ended.overage, negate(overage))
ended.state, ended.customer, ended.amount = 'captured', ARGV[2], amount
ended.estimated, ended.digest, ended.lines = estimated, digest, lines
ended.reserved = reservation and reservation.rows or {}
close(customer, expiry, open, id)
remember(done, id, ended)
commit(shard, moment)
append('capture', booked, overage, held, hold and '0' or '1')
return reply(hold and 'captured' or 'late', booked, overage, held)
