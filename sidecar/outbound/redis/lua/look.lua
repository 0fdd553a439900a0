-- What a shard says of its life, and on which node. Changes nothing.
-- KEYS: 1 shard
-- Reply: epoch, seq, home, this node's id; '' for what is not there, also the id outside a cluster

local life = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'home')
local me = redis.pcall('CLUSTER', 'MYID')
if type(me) == 'table' then
  if not me.err:find('cluster support disabled', 1, true) then return me end
  me = ''
end
return { life[1] or '', life[2] or '', life[3] or '', me }
