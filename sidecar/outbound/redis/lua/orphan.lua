-- End an expired hold: give all of it back and append the fact to the stream.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 currency, 4 price version, 5 event
-- Reply: 'orphaned' | 'not_due' | 'broken' | 'interrupted', event of the capture to finish

local customer, shard, done, expiry, open, usage =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id = ARGV[1]

local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
call('HEXISTS', done, id)
call('XLEN', usage)
call('ZCARD', where.windows)
local moment = moment_of(shard)
if opened_for ~= ARGV[2] or not expires or tonumber(expires) > moment.instant then return { 'not_due', '' } end

local names = { 'h:' .. id, 'r:' .. id }
name_book(names)
local row = call('HMGET', customer, unpack(names))
local function look_again_later(status, event)
  call('ZADD', expiry, text(moment.instant + RESERVED_GRACE_MS), id)
  commit(shard, moment)
  return { status, event }
end
if row[2] then
  -- The capture that was interrupted gets the time to be finished before another look.
  local reservation = read_reservation(row[2])
  if not reservation then return look_again_later('broken', '') end
  return look_again_later('interrupted', reservation.event)
end
if not row[1] then
  -- Points to no hold (a customer's state was lost): nothing to end, but the sweep moves on.
  close(customer, expiry, open, id)
  commit(shard, moment)
  return { 'not_due', '' }
end
local hold, book = read_hold(row[1]), open_book(row, 2)
if not give_back(book, hold, moment.instant) then
  -- Later, so that it does not stand before the others for ever.
  return look_again_later('broken', '')
end
close(customer, expiry, open, id)
unlist_block(id)
local marker = tombstone('orphaned', ARGV[2])
marker.decided, marker.expires, marker.terms = hold.decided, expires, hold.terms
remember(done, id, marker)
commit(shard, moment)
write_book(book, usage, moment)
append_record(usage, moment, {
  kind = 'orphan', id = id, currency = ARGV[3], amount = '0', held = hold.amount,
  avail = book.avail, price_version = ARGV[4], event = ARGV[5],
})
return { 'orphaned', '' }
