-- What is known of a hold. Writes nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id
-- Reply: state ('' if unknown), decided ms, expires ms, terms, event of a reservation or '',
--   '1' if an open hold is due, '1' if a sign of life was seen of it

local id = ARGV[1]
local row = call('HMGET', KEYS[1], 'h:' .. id, 'r:' .. id, 'p:' .. id)
local reservation = row[2] and read_reservation(row[2])
local event = reservation and reservation.event or ''
if row[1] then
  local hold = read_hold(row[1])
  if not hold then return { 'broken', '0', '0', '', event, '', '' } end
  local expires = tonumber(call('ZSCORE', KEYS[4], id) or '0')
  local due = expires <= moment_of(KEYS[2]).instant and '1' or ''
  return { 'open', hold.decided, text(expires), hold.terms, event, due, row[3] and '1' or '' }
end
local record = call('HGET', KEYS[3], id)
if not record then return { '', '0', '0', '', event, '', '' } end
local marker = read_marker(record)
if marker.state == 'unreadable' then return { 'broken', '0', '0', '', event, '', '' } end
local expires = text(tonumber(marker.expires) or 0)
return { marker.state, marker.decided, expires, marker.terms, event, '', '' }
