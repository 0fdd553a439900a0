-- Move an open hold's expiry, never nearer; notes the instant: the service was seen going on.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 ttl ms
-- Reply: 1 if it was open, else 0

local id = ARGV[1]
local moment = moment_of(KEYS[2])
call('ZSCORE', KEYS[4], id)
if call('HEXISTS', KEYS[1], 'h:' .. id) == 0 then return 0 end
call('HSET', KEYS[1], 'p:' .. id, text(moment.instant))
call('ZADD', KEYS[4], 'GT', text(moment.instant + tonumber(ARGV[2])), id)
commit(KEYS[2], moment)
return 1
