-- Note the node that a shard lives on now, if nobody else has noted one meanwhile.
-- KEYS: 1 shard
-- ARGV: 1 node that was noted before, or '', 2 node that this is expected to be
-- Reply: 1 if it was noted, else 0

local me = redis.call('CLUSTER', 'MYID')
local home = redis.call('HGET', KEYS[1], 'home') or ''
if home ~= ARGV[1] or me ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'home', me)
return 1
