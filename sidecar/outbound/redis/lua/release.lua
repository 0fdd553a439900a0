-- Give an open hold back; an unknown id gets a tombstone, which beats a place that comes later.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 who gives it back, empty for anyone
-- Reply: 'released' | 'not_open' | 'reserved' (a capture is under way: left alone) | 'broken'
--   | 'not_mine' (another process was told of it last, and may have let its request pass)

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]

local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
call('XLEN', KEYS[6])
call('ZCARD', where.windows)
local moment = moment_of(shard)
local names = { 'h:' .. id, 'r:' .. id, 'o:' .. id }
name_book(names)
local row = call('HMGET', customer, unpack(names))
if call('HEXISTS', done, id) == 1 then return 'not_open' end
if row[2] then return 'reserved' end
if row[3] and ARGV[3] ~= '' and row[3] ~= ARGV[3] then return 'not_mine' end
if not row[1] and opened_for then return 'not_open' end
if not row[1] then
  remember(done, id, tombstone('released', ARGV[2]))
  commit(shard, moment)
  return 'not_open'
end
local hold, book = read_hold(row[1]), open_book(row, 3)
if not give_back(book, hold, moment.instant) then return 'broken' end
close(customer, expiry, open, id)
unlist_block(id)
local marker = tombstone('released', ARGV[2])
marker.decided, marker.expires, marker.terms = hold.decided, expires or '0', hold.terms
remember(done, id, marker)
commit(shard, moment)
write_book(book, KEYS[6], moment)
return 'released'
