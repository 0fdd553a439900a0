-- Set the standing that the place script reads, and what is known of the invoices behind it.
-- KEYS: 1 customer, 2 shard
-- ARGV: 1 standing, 2 until ms or '', 3 overdue since ms or '', 4 overdue nano or '', 5 disputed
-- Reply: 'ok' | 'no_customer'

local customer, shard = KEYS[1], KEYS[2]
local moment = moment_of(shard)
if call('HEXISTS', customer, 'rev') == 0 then return 'no_customer' end
call('HSET', customer, 'standing', ARGV[1], 'standing_until', ARGV[2],
  'due_since', ARGV[3], 'due_nano', ARGV[4], 'due_disputed', ARGV[5])
commit(shard, moment)
return 'ok'
