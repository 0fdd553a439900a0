-- Counters that the sweep should look at by now.
-- KEYS: 1 shard, 2 windows
-- ARGV: 1 most counters
-- Reply: members of the index ("<customer>\n<kind>:<name>"), earliest first

local moment = moment_of(KEYS[1])
return call('ZRANGEBYSCORE', KEYS[2], '-inf', text(moment.instant), 'LIMIT', 0, ARGV[1])
