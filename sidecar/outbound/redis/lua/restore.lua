-- Place a hold again that the store lost, by the terms of its token. It was allowed once, so
-- credit and limits are not asked; what it takes is counted as if it had never been gone.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 decided ms, 5 ttl ms, 6 who pays, 7 terms, 8 count of
--   parts, then per part: meter or '', amount (they sum up to the amount); then per counter: field,
--   quantity
-- Reply: 'restored' | 'known' | 'not_lost' | 'no_customer' | 'out_of_bounds'

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, amount = ARGV[1], ARGV[3]

call('ZSCORE', expiry, id)
call('XLEN', KEYS[6])
call('ZCARD', where.windows)
local opened_for = call('HGET', open, id)
local moment = moment_of(shard)
if opened_for or call('HEXISTS', done, id) == 1 then return 'known' end
-- Its marker may be gone where its bucket is: then only Postgres could tell, at its capture.
local second = tonumber(id:sub(1, 8), 16)
if not forgotten(shard, id, moment.instant) or second + DEDUPE_SECONDS < moment.instant / 1000 then
  return 'not_lost'
end
local names = { 'rev' }
name_book(names)
local row = call('HMGET', customer, unpack(names))
if not row[1] then return 'no_customer' end
local book = open_book(row, 1)
local parts, position = read_parts(8)
local lines = {}
for i = position, #ARGV, 2 do lines[#lines + 1] = { ARGV[i], ARGV[i + 1] } end
if not book or not counters_fit(lines, true) then return 'out_of_bounds' end
advance(book, moment.instant)
local pins, beyond = set_aside(book, parts, amount, ARGV[6] ~= '0')
if not book_fits(book) then return 'out_of_bounds' end
local kept = {}
for _, line in ipairs(lines) do
  if recount(line, moment.instant) then kept[#kept + 1] = line end
end
call('HSET', customer, 'h:' .. id, write_hold({
  decided = ARGV[4], amount = amount, beyond = beyond, fingerprint = '',
  lines = kept, pins = pins, terms = ARGV[7],
}))
call('ZADD', expiry, text(moment.instant + tonumber(ARGV[5])), id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
write_book(book, KEYS[6], moment)
return 'restored'
