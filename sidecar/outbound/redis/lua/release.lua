-- Give an open hold back; an unknown id gets a tombstone, which beats a place that comes later.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id
-- Reply: 'released' | 'not_open' | 'reserved' (a capture is under way: left alone) | 'broken'

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]

local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
local moment = moment_of(shard)
local row = call('HMGET', customer, 'held', 'avail', 'h:' .. id, 'r:' .. id)
if call('HEXISTS', done, id) == 1 then return 'not_open' end
if row[4] then return 'reserved' end
if not row[3] and opened_for then return 'not_open' end
if not row[3] then
  remember(done, id, tombstone('released', ARGV[2]))
  commit(shard, moment)
  return 'not_open'
end
local hold = read_hold(row[3])
if not (hold and sane(row[1]) and sane(row[2]) and counters_fit(hold.lines, false)) then
  return 'broken'
end
give_back(hold, moment.instant)
close(customer, expiry, open, id)
local marker = tombstone('released', ARGV[2])
marker.decided, marker.expires, marker.terms = hold.decided, expires or '0', hold.terms
remember(done, id, marker)
commit(shard, moment)
return 'released'
