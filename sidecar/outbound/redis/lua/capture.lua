-- Burn an event's amount, release the rest of its hold, append it to the shard's stream.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 estimated, 5 digest of the usage, 6 who pays (as place),
--   7 currency, 8 price version, 9 event, 10 count of the steps of running totals that the amounts
--   were made of ('' where they are to be booked as they are), 11 count of parts, then per part:
--   meter or '', amount (they sum up to the amount; below 0 where a step back gives more than was
--   paid); then count of lines, then per line: counter's field, actual quantity; at last the block that
--   the hold was placed from, or ''
-- Reply: status ('unregistered': its owner has not opened it yet; nothing was booked), booked, overspent, held, available (overdraft with it), epoch, seq, and whether
--   the hold was put back from its token

local customer, shard, done, expiry, open, usage =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local block_id = table.remove(ARGV)
local id, amount, estimated, digest = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local prepaid, owing = ARGV[6] ~= '0', ARGV[6] == '2'

-- A key of the wrong type must fail here, before the first write.
local expires = call('ZSCORE', expiry, id) or '0'
local opened_for = call('HGET', open, id)
call('XLEN', usage)
call('ZCARD', where.windows)
call('SCARD', where.touched)
local moment = moment_of(shard)
local record = call('HGET', done, id)
local marker = record and read_marker(record)
local names = { 'rev', 'h:' .. id, 'r:' .. id }
local names_before_book = #names
name_book(names)
local row = call('HMGET', customer, unpack(names))
local parts, position = read_parts(11)
local lines = {}
for i = position + 1, #ARGV, 2 do lines[#lines + 1] = { ARGV[i], ARGV[i + 1] } end
local actual = {}
for _, line in ipairs(lines) do actual[line[1]] = line[2] end
local book = open_book(row, names_before_book)
local hold

local function reply(status, booked, overspent, held)
  return {
    status, booked or '0', overspent or '0', held or '0',
    book and plus(book.avail, book.overdraft) or '0', moment.epoch, text(moment.seq),
    -- Only restore.lua writes a hold without a fingerprint.
    hold and hold.fingerprint == '' and '1' or '0',
  }
end

-- Why nothing may be booked now, or nil.
local function refusal(counted)
  if not row[1] then return 'no_customer' end
  if not book or not counters_fit(counted, false) or not counters_fit(lines, true) then
    return 'out_of_bounds'
  end
  advance(book, moment.instant)
  return nil
end

-- Move the balance from what was booked for this id before to the event's amount, end its hold if
-- there is one, and note the decision. Answers what changed: booked; overspent, which is what went
-- beyond all credit and overdraft. What a hold took within them is never overspent, so the exposure
-- is compared with that before the hold ended, with what it took `beyond` them given back.
-- The decision is noted before what it gives back can expire: so no grant has less than nothing.
local function settle_book(kind, ended, pins, hold, late)
  local exposed = above_zero(minus(exposure(book), hold and hold.beyond or '0'))
  local returned = kind ~= 'capture'
  local booked, overage, moves, rests, owed = minus(amount, ended.amount), '0', {}, {}, nil
  shift(book, 'used', booked)
  shift(book, 'avail', negate(booked))
  if hold then end_held(book, hold) end
  if owing then
    local before, rows, _ = {}, nil, nil
    for _, row in ipairs(ended.burned) do
      if row[1] == OWED then before[row[2]] = row[3] end
    end
    rows, _, ended.burned, moves, rests = burn(book, parts, pins, before, returned, leave_owed)
    owed = owed_changes(before, rows)
    for _, row in ipairs(rows) do ended.burned[#ended.burned + 1] = row end
  elseif prepaid then
    overage, ended.overage, ended.burned, moves, rests =
      burn(book, parts, pins, ended.overage, returned, leave_deficit)
    shift(book, 'deficit', overage)
  elseif returned then
    pins = {}
  else
    for at, row in ipairs(pins) do rests[at] = row[3] end
  end
  book.records[#book.records + 1] = {
    kind = kind, id = id, currency = ARGV[7], amount = booked, held = hold and hold.amount or '0',
    overage = overage, avail = book.avail, prepaid = prepaid and '1' or '0', late = late,
    price_version = ARGV[8], event = ARGV[9], moves = moves, counted = moved, owed = owed,
  }
  unpin_rests(book, pins, rests)
  local bounded = prepaid and not owing
  return booked, bounded and above_zero(minus(exposure(book), exposed)) or '0'
end

-- Whether the id's steps are others than those that the amounts were made of, because somebody else
-- has finished it meanwhile. So a total is never moved by one report and paid by another.
local function moved_on(steps)
  return ARGV[10] ~= '' and ARGV[10] ~= text(#steps)
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
  append_record(usage, moment, {
    kind = 'claim', id = id, currency = ARGV[7], amount = amount, avail = book.avail,
    prepaid = prepaid and '1' or '0', late = '1', price_version = ARGV[8], event = ARGV[9],
    counted = moved,
  })
  return reply('claimed')
end

-- A second event for a captured id.
local function compare()
  if marker.digest == digest then
    -- A correction that has begun ends as one.
    if marker.estimated == '1' and estimated == '0' and not row[3] then
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
  local reservation = row[3] and read_reservation(row[3])
  if row[3] and not reservation then return reply('out_of_bounds') end
  local steps = reservation and reservation.rows or marker.reserved
  if moved_on(steps) then return reply('moved') end
  -- Who paid the estimate pays the correction, whatever the plan says since. What credit paid is
  -- all burned or owed.
  -- (What the ledger told of an earlier life of the store does not say who paid.)
  local told, paid = marker.burned[1] and marker.burned[1][1] == '?', {}
  local owed = false
  for _, row in ipairs(marker.burned) do
    if row[1] == OWED then owed = true else paid[#paid + 1] = row end
  end
  if owed then
    prepaid, owing = true, true
  elseif marker.amount ~= '0' and not told then
    prepaid, owing = plus(pinned_sum(paid), marker.overage) == marker.amount, false
  end
  local corrections = text(tonumber(marker.corrections) + 1)
  local booked, overspent =
    settle_book('correction:' .. corrections, marker, paid, nil, '0')
  if not book_fits(book) then return reply('out_of_bounds') end
  uncount_captured(marker.lines)
  count_captured(lines, moment.instant)
  marker.corrections = corrections
  marker.amount, marker.estimated, marker.digest, marker.lines = amount, '0', digest, lines
  marker.reserved = steps
  if reservation then close(customer, expiry, open, id) end
  remember(done, id, marker)
  commit(shard, moment)
  write_book(book, usage, moment)
  return reply('corrected', booked, overspent)
end

-- An id belongs to one customer.
if opened_for and opened_for ~= ARGV[2] then return reply('conflict') end
if marker and (marker.state == 'unreadable' or marker.customer ~= ARGV[2]) then
  return reply('conflict')
end
if marker and marker.state == 'captured' then return compare() end

if not row[2] and not marker and block_id ~= ''
  and call('HEXISTS', customer, 'b:' .. block_id) == 1 then
  return reply('unregistered')
end
hold = row[2] and read_hold(row[2])
local reservation = row[3] and read_reservation(row[3])
if (row[2] and not hold) or (row[3] and not reservation) then return reply('out_of_bounds') end
local refused = refusal(hold and hold.lines or {})
if refused then return reply(refused) end
if (marker and marker.state == 'claimed')
  or not (hold or marker) and forgotten(shard, id, moment.instant) then
  return claim()
end
if moved_on(reservation and reservation.rows or {}) then return reply('moved') end
-- Only a correction can give back.
if negative(amount) then return reply('out_of_bounds') end
if hold and not pins_fit(book, hold.pins) then return reply('out_of_bounds') end

local ended = marker or tombstone('captured', ARGV[2])
local held = hold and hold.amount or '0'
local booked, overspent =
  settle_book('capture', ended, hold and hold.pins or {}, hold, hold and '0' or '1')
if not book_fits(book) then return reply('out_of_bounds') end
if hold then
  uncount_hold(hold, actual, moment.instant)
  ended.decided, ended.expires, ended.terms = hold.decided, expires, hold.terms
elseif not marker then
  ended.decided, ended.expires = text(moment.instant), text(moment.instant)
end
count_captured(lines, moment.instant)
ended.state, ended.customer, ended.amount = 'captured', ARGV[2], amount
ended.estimated, ended.digest, ended.lines = estimated, digest, lines
ended.reserved = reservation and reservation.rows or {}
close(customer, expiry, open, id)
remember(done, id, ended)
commit(shard, moment)
write_book(book, usage, moment)
return reply(hold and 'captured' or 'late', booked, overspent, held)
