-- All that a customer's balance is made of, at one moment. Writes nothing.
-- KEYS: 1 customer, 2 shard, 3 expiry, 4 usage
-- ARGV: 1 most holds, 2 customer id
-- Reply: 'ok' | 'no_customer' | 'too_many' | 'broken', instant, last entry that the stream had,
--   sealed ('1' if the book is as the last script left it), seal of the book as it is, count of its
--   fields, then each with its value, the grants' record or '', then per open hold: id, amount,
--   expires ms, count of pins, then per pin: grant, meter, amount

local customer, expiry = KEYS[1], KEYS[3]
local moment = moment_of(KEYS[2])

-- Trimming forgets entries, not the id of the last one; a stream that nobody wrote to has none.
local function last_entry()
  if call('EXISTS', KEYS[4]) == 0 then return '0-0' end
  local about = call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then return about[i + 1] end
  end
  error('the stream does not say its last entry')
end

local reply = { 'ok', text(moment.instant), last_entry(), '0', '' }
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
reply[5] = seal_of(book)
reply[4] = row[2] == reply[5] and '1' or '0'
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
