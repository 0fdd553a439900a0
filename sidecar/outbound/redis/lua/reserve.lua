-- Reserve an interval of each running total for a hold id, once.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 event, then per demand: total's field, quantity
-- Reply: 'ok' | 'no_customer' | 'broken', then each total before its interval

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]

call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
local moment = moment_of(shard)
local record = call('HGET', done, id)
local marker = record and read_marker(record)
local row = call('HMGET', customer, 'rev', 'h:' .. id, 'r:' .. id)

local reservation = { rows = {}, event = ARGV[3] }
local captured = marker and marker.state == 'captured'
local foreign = (opened_for and opened_for ~= ARGV[2]) or (marker and marker.customer ~= ARGV[2])
if captured and not foreign then
  reservation.rows = marker.reserved
elseif row[3] then
  reservation = read_reservation(row[3])
end
if not reservation or (marker and marker.state == 'unreadable') then return { 'broken' } end
local known = {}
for _, interval in ipairs(reservation.rows) do known[interval[1]] = interval[2] end

local reply, demands = { 'ok' }, {}
for i = 4, #ARGV, 2 do
  local total = call('HGET', customer, ARGV[i]) or '0'
  if not sane(total) then return { 'broken' } end
  if not known[ARGV[i]] then
    demands[#demands + 1] = { ARGV[i], ARGV[i + 1] }
    known[ARGV[i]] = total
  end
  reply[#reply + 1] = known[ARGV[i]]
end
if not row[1] then
  reply[1] = 'no_customer'
  return reply
end
-- Whether this was charged is for Postgres to say: until then it gets no interval.
if (marker and marker.state == 'claimed')
  or not (row[2] or row[3] or marker) and forgotten(shard, id, moment.instant) then
  return reply
end
-- What was captured has its intervals; an event that differs from it books only a difference.
-- An id of another customer is refused by the capture.
if captured or foreign or #demands == 0 then return reply end

for _, demand in ipairs(demands) do
  reservation.rows[#reservation.rows + 1] = { demand[1], known[demand[1]], demand[2] }
  add(customer, demand[1], demand[2])
end
call('HSET', customer, 'r:' .. id, write_reservation(reservation))
if not row[2] then
  -- No open hold leads the sweep to a capture that is interrupted now: let it find this one.
  call('ZADD', expiry, text(moment.instant + RESERVED_GRACE_MS), id)
  call('HSET', open, id, ARGV[2])
end
commit(shard, moment)
return reply
