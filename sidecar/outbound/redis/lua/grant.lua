-- Add a grant to the balance and to the stream, once per grant id.
-- KEYS: 1 customer, 2 shard, 3 usage
-- ARGV: 1 grant id, 2 customer id, 3 amount, 4 currency, 5 highest granted that the amount still fits
-- Reply: 'applied' | 'repeated' | 'conflict' | 'no_customer' | 'other_currency' | 'out_of_bounds'
--   | 'broken'

local customer, shard, usage = KEYS[1], KEYS[2], KEYS[3]
call('XLEN', usage)
local moment = moment_of(shard)
local row = call('HMGET', customer, 'rev', 'currency', 'granted', 'avail', 'g:' .. ARGV[1])
if row[5] then return row[5] == ARGV[3] and 'repeated' or 'conflict' end
if not row[1] then return 'no_customer' end
if row[2] ~= ARGV[4] then return 'other_currency' end
if not (sane(row[3]) and sane(row[4])) then return 'broken' end
if cmp(row[3], ARGV[5]) > 0 then return 'out_of_bounds' end
add(customer, 'granted', ARGV[3])
add(customer, 'avail', ARGV[3])
call('HSET', customer, 'g:' .. ARGV[1], ARGV[3])
commit(shard, moment)
call('XADD', usage, '*', 'v', '1', 'k', 'grant', 'id', ARGV[1], 'c', ARGV[2], 'cur', ARGV[4],
  'amt', ARGV[3], 'held', '0', 'ov', '0', 'avail', call('HGET', customer, 'avail'),
  'at', text(moment.instant), 'pre', '1', 'late', '0', 'pv', '', 'ev', '',
  'seq', text(moment.seq), 'ep', moment.epoch)
return 'applied'
