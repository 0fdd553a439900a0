-- Take a shard's epoch away, if it is still this one: no script changes the shard from here on.
-- KEYS: 1 shard
-- ARGV: 1 epoch
-- Reply: 1 if it was taken away, else 0

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'epoch')
return 1
