-- Give a grant, once per grant id: at once, or from its beginning on.
-- KEYS: 1 customer, 2 shard, 3 usage, 4 windows
-- ARGV: 1 grant id, 2 customer id, 3 amount, 4 currency, 5 kind, 6 priority, 7 effective ms or '',
--   8 expires ms or '', 9 meters ('' or 'a,b'), 10 rolls ('' or '<grant before> <least> <most>')
-- Reply: status, what is wrong or ''; the status is 'applied' | 'repeated' | 'conflict'
--   | 'no_customer' | 'other_currency' | 'expired' | 'too_many' | 'out_of_bounds' | 'broken'

local customer, shard, usage = KEYS[1], KEYS[2], KEYS[3]
where.windows = KEYS[4]
call('XLEN', usage)
call('ZCARD', where.windows)
local moment = moment_of(shard)
local names = { 'rev', 'g:' .. ARGV[1] }
name_book(names)
local row = call('HMGET', customer, unpack(names))
local given = table.concat(ARGV, '\n', 3, 10)
if row[2] then return { row[2] == given and 'repeated' or 'conflict', row[2] } end
if not row[1] then return { 'no_customer', '' } end
local book = open_book(row, 2)
if not book then return { 'broken', '' } end
if book.currency ~= ARGV[4] then return { 'other_currency', book.currency } end
advance(book, moment.instant)
local grant = {
  id = ARGV[1], state = 'scheduled', kind = ARGV[5], priority = tonumber(ARGV[6]),
  effective = tonumber(ARGV[7]) or moment.instant, expires = tonumber(ARGV[8]),
  meters = ARGV[9], free = ARGV[3], pinned = '0', rolls = ARGV[10],
}
if grant.expires and grant.expires <= moment.instant then return { 'expired', '' } end
if #still_matter(book) >= GRANTS_MAX then return { 'too_many', text(GRANTS_MAX) } end
insert_grant(book, grant)
-- With all that is to begin, so that no beginning ever makes a book that does not fit.
local to_come = book.granted
for _, other in ipairs(book.grants) do
  if other.state == 'scheduled' then
    to_come = plus(plus(to_come, other.free), other.rolls:match('(%d+)$') or '0')
  end
end
if not sane(to_come) then return { 'out_of_bounds', book.granted } end
advance(book, moment.instant)
if not book_fits(book) then return { 'out_of_bounds', book.granted } end
call('HSET', customer, 'g:' .. ARGV[1], given)
commit(shard, moment)
write_book(book, usage, moment)
return { 'applied', '' }
