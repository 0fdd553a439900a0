-- Give a shard its epoch: from here on scripts work on it. The last step of a rebuild.
-- KEYS: 1 shard
-- ARGV: 1 epoch, 2 least clock ms, 3 whether usage from before now has to be claimed, 4 epoch and
--   5 seq of the last decision that the ledger has, 6 id of the node that was filled, '' outside a
--   cluster or for whichever this is
-- Reply: 'open' | 'superseded'

local shard = KEYS[1]
local me = redis.pcall('CLUSTER', 'MYID')
if type(me) == 'table' then
  if not me.err:find('cluster support disabled', 1, true) then return me end
  me = ''
end
-- A replica that took over meanwhile may not have heard all of what it was filled with.
if ARGV[6] ~= '' and ARGV[6] ~= me then return 'superseded' end
local moment = moment_of(shard)
local instant = math.max(moment.instant, tonumber(ARGV[2]))
call('HSET', shard, 'clock', text(instant), 'seq', '0', 'epoch', ARGV[1],
  'settled_ep', ARGV[4], 'settled_seq', ARGV[5])
if me ~= '' then call('HSET', shard, 'home', me) else call('HDEL', shard, 'home') end
if ARGV[3] == '1' then call('HSET', shard, 'since', text(instant)) end
call('HDEL', shard, 'building')
return 'open'
