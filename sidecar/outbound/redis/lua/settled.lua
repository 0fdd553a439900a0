-- Note how far the ledger is on a shard; never goes back.
-- KEYS: 1 shard
-- ARGV: 1 epoch, 2 seq: the ledger has all of that epoch up to it
-- Reply: 1 if that was news, else 0

local shard = KEYS[1]
local epoch, seq = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = call('HMGET', shard, 'settled_ep', 'settled_seq')
local epoch_before = tonumber(stored[1] or '-1') or -1
local seq_before = tonumber(stored[2] or '-1') or -1
if epoch < epoch_before or (epoch == epoch_before and seq <= seq_before) then return 0 end
call('HSET', shard, 'settled_ep', text(epoch), 'settled_seq', text(seq))
return 1
