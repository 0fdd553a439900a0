-- Create a customer's live state, or change plan and labels; balances stay.
-- KEYS: 1 customer, 2 shard
-- ARGV: 1 currency, 2 plan, 3 labels (JSON), 4 overdraft
-- Reply: 'created' | 'changed' | 'same' | 'other_currency'

local customer, shard = KEYS[1], KEYS[2]
local row = call('HMGET', customer, 'rev', 'currency', 'plan', 'labels', 'overdraft')
local moment = moment_of(shard)
if row[1] and row[2] ~= ARGV[1] then return 'other_currency' end
if row[1] and row[3] == ARGV[2] and row[4] == ARGV[3] and row[5] == ARGV[4] then
  return 'same'
end
-- At least the instant: after a loss of the store no old revision comes up again.
local rev = math.max((tonumber(row[1] or '0') or 0) + 1, moment.instant)
call('HSET', customer, 'currency', ARGV[1], 'plan', ARGV[2], 'labels', ARGV[3],
  'overdraft', ARGV[4], 'rev', text(rev))
for _, field in ipairs(BALANCE_FIELDS) do call('HSETNX', customer, field, '0') end
commit(shard, moment)
return row[1] and 'changed' or 'created'
