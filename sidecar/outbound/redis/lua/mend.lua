-- Put a customer's book right, if nothing has changed it since it was looked at.
-- KEYS: 1 customer, 2 shard, 3 usage, 4 windows
-- ARGV: 1 seal of the book that was looked at ('' for none), 2 customer id, 3 grants' record or '',
--   then per field of the book: what it must be, in the order of the audit's reply
-- Reply: 'mended' | 'moved' (look again) | 'no_customer' | 'broken' (the record is none)

local customer, shard = KEYS[1], KEYS[2]
where.windows = KEYS[4]
local moment = moment_of(shard)
local names = { 'rev' }
name_book(names)
local row = call('HMGET', customer, unpack(names))
if not row[1] then return 'no_customer' end
local now = open_book(row, 1)
if (now and seal_of(now) or '') ~= ARGV[1] then return 'moved' end
for i, _ in ipairs(BOOK_FIELDS) do row[1 + i] = ARGV[3 + i] end
local record = row[1 + BOOK_WIDTH]
row[1 + BOOK_WIDTH] = ARGV[3] ~= '' and ARGV[3] or false
local book = open_book(row, 1)
if not book or not book_fits(book) then return 'broken' end
-- Where no grant is to be left, the record that is there must go.
book.record = book.record or record or nil
for _, field in ipairs(BOOK_FIELDS) do call('HSET', customer, field, book[field]) end
book.changed = true
commit(shard, moment)
write_book(book, KEYS[3], moment)
return 'mended'
