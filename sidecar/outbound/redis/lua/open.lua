-- Give a shard its epoch: from here on scripts work on it. The last step of a rebuild.
-- KEYS: 1 shard
-- ARGV: 1 epoch, 2 least clock ms, 3 whether usage from before now has to be claimed, 4 epoch and
--   5 seq of the last decision that the ledger has
-- Reply: 'open' | 'superseded'

local shard = KEYS[1]
local moment = moment_of(shard)
local instant = math.max(moment.instant, tonumber(ARGV[2]))
call('HSET', shard, 'clock', text(instant), 'seq', '0', 'epoch', ARGV[1],
  'settled_ep', ARGV[4], 'settled_seq', ARGV[5])
if ARGV[3] == '1' then call('HSET', shard, 'since', text(instant)) end
call('HDEL', shard, 'building')
return 'open'
