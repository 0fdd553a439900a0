-- What is known of a hold. Writes nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id
-- Reply: state ('' if unknown), decided ms, expires ms, terms, event of a reservation or ''

local id = ARGV[1]
local row = call('HMGET', KEYS[1], 'h:' .. id, 'r:' .. id)
local reservation = row[2] and read_reservation(row[2])
local event = reservation and reservation.event or ''
if row[1] then
  local hold = read_hold(row[1])
  if not hold then return { 'broken', '0', '0', '', event } end
  local expires = call('ZSCORE', KEYS[4], id) or '0'
  return { 'open', hold.decided, text(tonumber(expires)), hold.terms, event }
end
local record = call('HGET', KEYS[3], id)
if not record then return { '', '0', '0', '', event } end
local marker = read_marker(record)
if marker.state == 'unreadable' then return { 'broken', '0', '0', '', event } end
return { marker.state, marker.decided, text(tonumber(marker.expires) or 0), marker.terms, event }
