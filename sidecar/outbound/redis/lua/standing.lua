-- Set the standing that the place script reads.
-- KEYS: 1 customer, 2 shard
-- ARGV: 1 standing, 2 until ms or ''
-- Reply: 'ok' | 'no_customer'

local customer, shard = KEYS[1], KEYS[2]
local moment = moment_of(shard)
if call('HEXISTS', customer, 'rev') == 0 then return 'no_customer' end
call('HSET', customer, 'standing', ARGV[1], 'standing_until', ARGV[2])
commit(shard, moment)
return 'ok'
