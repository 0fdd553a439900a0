-- Holds whose expiry has passed by the store's clock. An entry that belongs to nobody is dropped.
-- KEYS: 1 shard, 2 expiry, 3 open
-- ARGV: 1 most holds
-- Reply: customer id, hold id, and so on, earliest first

local moment = moment_of(KEYS[1])
local reply = {}
for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[2], '-inf', text(moment.instant),
  'LIMIT', 0, ARGV[1])) do
  local customer = call('HGET', KEYS[3], id)
  if customer then
    reply[#reply + 1] = customer
    reply[#reply + 1] = id
  else
    call('ZREM', KEYS[2], id)
  end
end
return reply
