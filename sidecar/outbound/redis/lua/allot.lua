-- Set a block of credit and counters aside for a gateway process, or add to one that is open and
-- move its end: judged as a hold of that size would be.
-- KEYS, ARGV: as place.lua's; the amounts and quantities are what the block gets, nothing among them;
--   the ttl is until nobody can have placed a hold from it any more
-- Reply: as place.lua's, then the next instant at which a grant begins or ends, 0 if there is none.
--   'placed': the block is so much larger now. 'denied': not so much of it is there, or it is none that may
--   be split. 'closed', 'mismatch': the block is no more, or other counters stand behind it

local BLOCKS_MAX = 256

local function told(status)
  local reply = refuse(status)
  reply[#reply + 1] = '0'
  return reply
end

local block
if row[4] then
  block = read_hold(row[4])
  if not block or not expires or #block.lines ~= #takes then return told('mismatch') end
  for i, line in ipairs(block.lines) do
    if line[1] ~= takes[i].field then return told('mismatch') end
  end
elseif call('HEXISTS', done, id) == 1 or opened_for then
  return told('closed')
end

local refused = refusal()
if refused then return told(refused) end

-- A part of it can be told apart by its amount alone where all of it is credit that is good for every
-- meter, or none is. Beside grants for some meters, which burn in their turn, it is not; and a block
-- that has of a grant which is withdrawn or over lives on no longer.
local function may_be_split(judged)
  if not prepaid then return not block or #block.pins == 0 end
  local pinned = '0'
  for _, pin in ipairs(judged.pins) do pinned = plus(pinned, pin[3]) end
  for _, grant in ipairs(book.grants) do
    if grant.state == 'active' and grant.meters ~= '' then return false end
  end
  for _, pin in ipairs(block and block.pins or {}) do
    local grant = find_grant(book, pin[1])
    if not grant or grant.state ~= 'active' then return false end
  end
  return pinned == amount
end

local judged = judge()
local _, blocks = (call('HGET', customer, 'blocks') or ''):gsub('\n', '')
if judged.denied or not may_be_split(judged) or not book_fits(book)
  or (not block and blocks >= BLOCKS_MAX) then
  book = open_book(row, names_before_book)
  return told('denied')
end

-- Write. Nothing below can fail.
local lines = write_takes(takes, moment.instant)
local expires_at = math.max(tonumber(expires or '0'), moment.instant + tonumber(ARGV[6]))
if block then
  block.amount = plus(block.amount, amount)
  for i, line in ipairs(lines) do block.lines[i][2] = plus(block.lines[i][2], line[2]) end
  for _, pin in ipairs(judged.pins) do block.pins[#block.pins + 1] = pin end
else
  block = {
    decided = text(moment.instant), amount = amount, beyond = '0',
    fingerprint = ARGV[4], lines = lines, pins = judged.pins, terms = ARGV[13],
  }
  write_registry(id, 0, {})
  list_block(id)
end
call('HSET', customer, 'h:' .. id, write_hold(block))
call('ZADD', expiry, text(expires_at), id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
write_book(book, KEYS[6], moment)
local reply = answer('placed', text(moment.instant), text(expires_at))
local _, due = next_due(book)
reply[#reply + 1] = text(due or 0)
return reply
