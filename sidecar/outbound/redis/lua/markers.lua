-- Put back, while a shard is rebuilt, how the ids of one 10-minute bucket ended.
-- KEYS: 1 shard, 2 done
-- ARGV: 1 epoch that is being built, then per id: hold id, state, customer id, amount, overage,
--   estimated, digest, corrections, decided ms, steps of running totals, what is owed
-- Reply: 'ok' | 'superseded'

for i = 2, #ARGV, 11 do
  local marker = marker_of_ledger(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5],
    ARGV[i + 6], ARGV[i + 7], ARGV[i + 9], ARGV[i + 10])
  marker.decided, marker.expires = ARGV[i + 8], ARGV[i + 8]
  call('HSET', KEYS[2], ARGV[i], write_marker(marker))
end
call('EXPIRE', KEYS[2], DEDUPE_SECONDS)
return 'ok'
