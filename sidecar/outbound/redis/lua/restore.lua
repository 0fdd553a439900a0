-- Place a hold again that the store lost, by the terms of its token. It was allowed once, so
-- credit and limits are not asked; what it takes is counted as if it had never been gone.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 decided ms, 5 ttl ms, 6 highest held, 7 lowest
--   available that the amount still fits, 8 terms, then per counter: field, quantity
-- Reply: 'restored' | 'known' | 'not_lost' | 'no_customer' | 'out_of_bounds'

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, amount = ARGV[1], ARGV[3]

call('ZSCORE', expiry, id)
call('ZCARD', where.windows)
local opened_for = call('HGET', open, id)
local moment = moment_of(shard)
if opened_for or call('HEXISTS', done, id) == 1 then return 'known' end
-- Its marker may be gone where its bucket is: then only Postgres could tell, at its capture.
local second = tonumber(id:sub(1, 8), 16)
if not forgotten(shard, id, moment.instant) or second + DEDUPE_SECONDS < moment.instant / 1000 then
  return 'not_lost'
end
local row = call('HMGET', customer, 'rev', 'avail', 'held')
if not row[1] then return 'no_customer' end
local before = row[2]
local lines = {}
for i = 9, #ARGV, 2 do lines[#lines + 1] = { ARGV[i], ARGV[i + 1] } end
if not (sane(before) and sane(row[3])) or cmp(row[3], ARGV[6]) > 0 or cmp(before, ARGV[7]) < 0
  or not counters_fit(lines, true) then
  return 'out_of_bounds'
end
add(customer, 'held', amount)
add(customer, 'avail', negate(amount))
local avail = call('HGET', customer, 'avail')
local uncovered = '0'
if negative(avail) then uncovered = negative(before) and amount or negate(avail) end
local kept = {}
for _, line in ipairs(lines) do
  if recount(line, moment.instant) then kept[#kept + 1] = line end
end
call('HSET', customer, 'h:' .. id, write_hold({
  decided = ARGV[4], amount = amount, uncovered = uncovered, fingerprint = '', lines = kept,
  terms = ARGV[8],
}))
call('ZADD', expiry, text(moment.instant + tonumber(ARGV[5])), id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
return 'restored'
