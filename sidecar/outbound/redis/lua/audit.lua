-- All that a customer's balance is made of, at one moment. Writes nothing.
-- KEYS: 1 customer, 2 shard, 3 expiry
-- ARGV: 1 most holds, 2 customer id
-- Reply: 'ok' | 'no_customer' | 'too_many' | 'broken', epoch, seq, instant, sealed ('1' if the book
--   is as the last script left it), count of the book's fields, then each with its value, the
--   grants' record or '', then per open hold: id, amount, expires ms, count of pins, then per pin:
--   grant, meter, amount

local customer, expiry = KEYS[1], KEYS[3]
local moment = moment_of(KEYS[2])
local reply = { 'ok', moment.epoch, text(moment.seq), text(moment.instant), '0' }
local names = { 'rev', 'seal' }
name_book(names)
local row = call('HMGET', customer, unpack(names))
if not row[1] then
  reply[1] = 'no_customer'
  return reply
end
local book = open_book(row, 2)
if not book then
  reply[1] = 'broken'
  return reply
end
reply[5] = row[2] == seal_of(book) and '1' or '0'
reply[6] = text(#BOOK_FIELDS)
for _, field in ipairs(BOOK_FIELDS) do
  reply[#reply + 1], reply[#reply + 2] = field, book[field]
end
reply[#reply + 1] = book.record or ''
local cursor, most, found = '0', tonumber(ARGV[1]), 0
repeat
  local page = call('HSCAN', customer, cursor, 'MATCH', 'h:*', 'COUNT', 1000)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local id, hold = page[2][i]:sub(3), read_hold(page[2][i + 1])
    found = found + 1
    if found > most then
      reply[1] = 'too_many'
      return reply
    end
    if not hold then
      reply[1] = 'broken'
      return reply
    end
    reply[#reply + 1], reply[#reply + 2] = id, hold.amount
    reply[#reply + 1] = text(tonumber(call('ZSCORE', expiry, id) or '0'))
    reply[#reply + 1] = text(#hold.pins)
    for _, pin in ipairs(hold.pins) do
      for _, part in ipairs(pin) do reply[#reply + 1] = part end
    end
  end
until cursor == '0'
return reply
