-- Open the holds that a gateway process has placed from its block, and give back what it needs no more.
-- What becomes of an id is decided once: a batch that comes again changes nothing.
-- KEYS: 1 customer, 2 shard, 3 done (all ids are of one bucket; that of a block that ends too), 4 expiry,
--   5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 block id, 2 customer id, 3 number of the batch, one more than that of the one before; '' where
--   somebody else than the owner opens a hold that its usage came before, 4 whether the block ends,
--   5 who asks, or '', 6 count of its counters, then per hold: id, what for ('open' | 'drop': nobody was
--   told of it), amount, fingerprint, decided ms, expires ms, terms, then the quantity of each counter
-- Reply: 'registered' | 'applied' (it was before) | 'gone' (the block has ended) | 'broken', then per hold:
--   'opened' | 'known' | 'dropped' | 'unfit' (there is not so much of the block)

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local block_id, batch, ends, width = ARGV[1], ARGV[3], ARGV[4] == '1', tonumber(ARGV[6])

-- A key of the wrong type must fail here, before the first write.
call('ZSCORE', expiry, block_id)
call('HEXISTS', open, block_id)
call('HEXISTS', done, block_id)
call('XLEN', KEYS[6])
call('ZCARD', where.windows)
local moment = moment_of(shard)
local names = { 'h:' .. block_id, 'b:' .. block_id }
name_book(names)
local row = call('HMGET', customer, unpack(names))
if not (row[1] and row[2]) then return { 'gone' } end
local block = read_hold(row[1])
if not block or #block.lines ~= width then return { 'broken' } end
local last, early = read_registry(row[2])
if batch ~= '' and tonumber(batch) <= last then return { 'applied' } end

-- Take a part out of the block, from its first pins on; nil if there is not so much of it.
local function split(amount, quantities)
  if not sane(amount) or negative(amount) or cmp(amount, block.amount) > 0 then return nil end
  local part = { decided = block.decided, amount = amount, beyond = '0', lines = {}, pins = {} }
  for i, line in ipairs(block.lines) do
    local quantity = quantities[i]
    if not sane(quantity) or negative(quantity) or cmp(quantity, line[2]) > 0 then return nil end
    part.lines[i] = { line[1], quantity }
  end
  local need = #block.pins > 0 and amount or '0'
  while need ~= '0' do
    local pin = block.pins[1] or error('block is cut')
    local taken = least(pin[3], need)
    part.pins[#part.pins + 1] = { pin[1], pin[2], taken }
    need, pin[3] = minus(need, taken), minus(pin[3], taken)
    if pin[3] == '0' then table.remove(block.pins, 1) end
  end
  block.amount = minus(block.amount, amount)
  for i, line in ipairs(block.lines) do line[2] = minus(line[2], quantities[i]) end
  return part
end

-- What of the block goes back to the customer, as one part.
local returned = { decided = block.decided, amount = '0', beyond = '0', lines = {}, pins = {} }
for i, line in ipairs(block.lines) do returned.lines[i] = { line[1], '0' } end

local gives = ends
local function give_up(part)
  gives = true
  returned.amount = plus(returned.amount, part.amount)
  for i, line in ipairs(part.lines) do
    returned.lines[i][2] = plus(returned.lines[i][2], line[2])
  end
  for _, pin in ipairs(part.pins) do returned.pins[#returned.pins + 1] = pin end
end

-- Who was told of a hold last answers for it, as place.lua has it. Where that was somebody else, and
-- the store cannot say who, nobody gives it back: it ends by its usage, or by itself.
local function answer_for(id, decided, expires, dropped)
  local held = call('HMGET', customer, 'h:' .. id, 'o:' .. id)
  local hold = held[1] and read_hold(held[1])
  if not hold then return end
  if not dropped then call('ZADD', expiry, 'GT', expires, id) end
  if not dropped and cmp(decided, hold.decided) > 0 then
    call('HSET', customer, 'o:' .. id, ARGV[5])
  elseif not held[2] then
    call('HSET', customer, 'o:' .. id, '?')
  end
end

-- 1. What becomes of each id, by what is known of it; only the block in memory changes.
local steps, reply, seen = {}, { 'registered' }, {}
for at = 7, #ARGV, 7 + width do
  local id, word = ARGV[at], 'opened'
  local held = call('HMGET', customer, 'h:' .. id, 'r:' .. id)
  local opened_for = call('HGET', open, id)
  local record = call('HGET', done, id)
  local marker = record and read_marker(record)
  -- A capture that has begun does not make it known: its hold is still to come. Nor, to the owner,
  -- does what an earlier try gave back: this one was told to pass.
  local known = held[1] or seen[id] or (opened_for and not held[2])
    or (marker and (marker.state ~= 'released' or batch == ''))
  if early[id] and batch ~= '' then
    early[id], word = nil, 'known'
  elseif known and batch == '' then
    word = 'known'
  else
    local quantities = {}
    for i = 1, width do quantities[i] = ARGV[at + 6 + i] end
    local part = split(ARGV[at + 2], quantities)
    if not part then
      word = 'unfit'
    elseif known then
      word = 'known'
      give_up(part)
    elseif ARGV[at + 1] == 'drop' then
      word = 'dropped'
      give_up(part)
    end
    if part then steps[#steps + 1] = { word, id, at, part, marker } end
  end
  seen[id] = true
  reply[#reply + 1] = word
end
if batch == '' and #steps == 0 then return reply end
if ends then
  local rest = {}
  for i, line in ipairs(block.lines) do rest[i] = line[2] end
  give_up(split(block.amount, rest))
end

-- 2. Write. Giving back is what can fail, and does nothing then.
local book
if gives then
  book = open_book(row, 2)
  if not give_back(book, returned, moment.instant) then return { 'broken' } end
end
for _, step in ipairs(steps) do
  local word, id, at, part, marker = unpack(step, 1, 5)
  if word == 'opened' then
    if marker then call('HDEL', done, id) end
    call('HSET', customer, 'o:' .. id, ARGV[5], 'h:' .. id, write_hold({
      decided = ARGV[at + 4], amount = part.amount, beyond = '0', fingerprint = ARGV[at + 3],
      lines = part.lines, pins = part.pins, terms = ARGV[at + 6],
    }))
    call('ZADD', expiry, ARGV[at + 5], id)
    call('HSET', open, id, ARGV[2])
    if batch == '' then early[id] = true end
  elseif word == 'known' then
    answer_for(id, ARGV[at + 4], ARGV[at + 5], ARGV[at + 1] == 'drop')
  elseif not marker then
    remember(done, id, tombstone('released', ARGV[2]))
  end
end
if ends then
  close(customer, expiry, open, block_id)
  unlist_block(block_id)
  remember(done, block_id, tombstone('released', ARGV[2]))
else
  call('HSET', customer, 'h:' .. block_id, write_hold(block))
  write_registry(block_id, batch == '' and last or tonumber(batch), early)
end
commit(shard, moment)
if book then write_book(book, KEYS[6], moment) end
return reply
