-- Append usage that waits for people to the shard's stream.
-- KEYS: 1 shard, 2 usage
-- ARGV: 1 key, 2 reason, 3 payload
-- Reply: 'ok'

local moment = moment_of(KEYS[1])
call('XLEN', KEYS[2])
commit(KEYS[1], moment)
call('XADD', KEYS[2], '*', 'v', '1', 'k', 'quarantine', 'id', ARGV[1], 'reason', ARGV[2],
  'payload', ARGV[3], 'seq', text(moment.seq), 'ep', moment.epoch)
return 'ok'
