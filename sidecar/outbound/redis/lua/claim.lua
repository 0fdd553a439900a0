-- Say what Postgres knows of a usage that was claimed; anything else is left as it is.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 state: 'captured' (it was charged) or 'free' (it was not),
--   4 amount, 5 overage, 6 estimated, 7 digest of the usage, 8 corrections, 9 steps of running totals,
--   10 what is owed
-- Reply: the marker's state afterwards, '' if there is none

local shard, done, id = KEYS[2], KEYS[3], ARGV[1]
local moment = moment_of(shard)
local record = call('HGET', done, id)
local marker = record and read_marker(record)
if not marker then return '' end
if marker.state ~= 'claimed' or marker.customer ~= ARGV[2] then return marker.state end
marker = marker_of_ledger(ARGV[3], ARGV[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8],
  ARGV[9], ARGV[10])
marker.decided, marker.expires = text(moment.instant), text(moment.instant)
remember(done, id, marker)
commit(shard, moment)
return marker.state
