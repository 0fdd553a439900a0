-- Create a customer's live state, or change plan, labels and overdraft; balances stay.
-- KEYS: 1 customer, 2 shard, 3 usage, 4 windows
-- ARGV: 1 currency, 2 customer id, 3 plan, 4 labels (JSON), 5 overdraft
-- Reply: 'created' | 'changed' | 'same' | 'other_currency' | 'broken'

local customer, shard = KEYS[1], KEYS[2]
where.windows = KEYS[4]
local names = { 'rev', 'plan', 'labels' }
name_book(names)
local row = call('HMGET', customer, unpack(names))
local moment = moment_of(shard)
local book = open_book(row, 3)
if not book then return 'broken' end
if row[1] and book.currency ~= ARGV[1] then return 'other_currency' end
if row[1] and row[2] == ARGV[3] and row[3] == ARGV[4] and book.overdraft == ARGV[5] then
  return 'same'
end
-- At least the instant: after a loss of the store no old revision comes up again.
local rev = math.max((tonumber(row[1] or '0') or 0) + 1, moment.instant)
call('HSET', customer, 'currency', ARGV[1], 'plan', ARGV[3], 'labels', ARGV[4], 'rev', text(rev))
for _, field in ipairs(BOOK_FIELDS) do call('HSETNX', customer, field, '0') end
book.overdraft, book.changed = ARGV[5], true
commit(shard, moment)
write_book(book, KEYS[3], moment)
return row[1] and 'changed' or 'created'
