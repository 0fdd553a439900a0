-- A customer's book: balances and the grants behind them, for the scripts that stand below.
-- It is read once, changed in memory (exactly, see `plus`), checked, and written at the end, so
-- that a script which refuses has changed nothing.
--   grants  the grants that still matter, in burn order; per grant: id, state, kind, priority,
--     effective ms, expires ms or '', meters ('' = all, else 'a,b'), free, pinned, rolls
--   state  'scheduled' | 'active' | 'expired' | '<withdrawal kind> <withdrawal id>'
--   rolls  '' or '<grant before> <least> <most>'
--   deficit  prepaid usage that no grant has paid; below zero what a correction gave back
--   uncov  what open holds set aside without a grant
--   g:<grant id>  digest of what was given;  x:<withdrawal id>  what came of it
--   y:<grant id>  what withdrawals have taken of it in all; ' ended' behind it if it is ended so
--   seal  a digest of the book: what is changed by hand does not fit it (no secret; see audit.lua)
-- For a customer with grants that begin or end by time, the shard's index has a member
-- "<customer>\ng:", by when the sweep should look at it.

local GRANTS_MAX = 64
local BOOK_FIELDS = { 'overdraft', unpack(BALANCE_FIELDS) }
local BOOK_WIDTH = #BOOK_FIELDS + 2

local function name_book(names)
  for _, field in ipairs(BOOK_FIELDS) do names[#names + 1] = field end
  names[#names + 1] = 'currency'
  names[#names + 1] = 'grants'
end

local function least(a, b)
  return cmp(a, b) < 0 and a or b
end

local function above_zero(n)
  return negative(n) and '0' or n
end

local function minus(a, b)
  return plus(a, negate(b))
end

-- One match for each grant: taking its lines one by one costs most of a place with many grants.
local GRANT_ROW = '^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n'
  .. '([^\n]*)\n([^\n]*)\n([^\n]*)\n()'

local function read_grants(record)
  local count, position = record:match('^(%d+)\n()')
  local grants = {}
  for i = 1, tonumber(count) do
    local id, state, kind, priority, effective, expires, meters, free, pinned, rolls, next =
      record:match(GRANT_ROW, position)
    if not (id and sane(free) and sane(pinned)) or negative(free) or negative(pinned) then
      return nil
    end
    grants[i] = {
      id = id, state = state, kind = kind, priority = tonumber(priority),
      effective = tonumber(effective), expires = tonumber(expires), meters = meters,
      free = free, pinned = pinned, rolls = rolls,
      as_read = { state, free, pinned, rolls, record:sub(position, next - 2) },
    }
    if not (grants[i].priority and grants[i].effective) then return nil end
    position = next
  end
  return grants
end

-- A grant's lines; those that were read if nothing of it has changed.
local function grant_text(grant)
  local read = grant.as_read
  if read and read[1] == grant.state and read[2] == grant.free and read[3] == grant.pinned
    and read[4] == grant.rolls then
    return read[5]
  end
  return table.concat({
    grant.id, grant.state, grant.kind, text(grant.priority), text(grant.effective),
    grant.expires and text(grant.expires) or '', grant.meters, grant.free, grant.pinned,
    grant.rolls,
  }, '\n')
end

local function write_grants(grants)
  local out = { text(#grants) }
  for i, grant in ipairs(grants) do out[i + 1] = grant_text(grant) end
  return table.concat(out, '\n') .. '\n'
end

-- The book from its part of a row, which begins after `skip`; nil if it cannot be read.
local function open_book(row, skip)
  local book = { records = {}, changed = false, cells = {}, taken = {} }
  for i, field in ipairs(BOOK_FIELDS) do
    local value = row[skip + i] or '0'
    if not sane(value) then return nil end
    book[field], book.cells[field] = value, value
  end
  book.currency = row[skip + #BOOK_FIELDS + 1] or ''
  local record = row[skip + BOOK_WIDTH]
  if not record then
    book.grants = {}
    return book
  end
  local ok, grants = pcall(read_grants, record)
  if not ok or not grants then return nil end
  book.grants, book.record = grants, record
  return book
end

local function seal_of(book)
  local out = {}
  for i, field in ipairs(BOOK_FIELDS) do out[i] = book[field] end
  out[#out + 1] = book.record or ''
  return redis.sha1hex(table.concat(out, '\n'))
end

local function shift(book, field, delta)
  if delta ~= '0' then book[field] = plus(book[field], delta) end
end

local function find_grant(book, id)
  for _, grant in ipairs(book.grants) do
    if grant.id == id then return grant end
  end
  return nil
end

local function covers(grant, meter)
  if grant.meters == '' then return true end
  return meter ~= '' and (',' .. grant.meters .. ','):find(',' .. meter .. ',', 1, true) ~= nil
end

-- Note a decision about a grant, to be appended to the stream when the book is written.
local function note_record(book, kind, grant, amount, overage, moves, withdrawal)
  book.records[#book.records + 1] = {
    kind = kind, id = grant.id, currency = book.currency, amount = amount, overage = overage,
    moves = moves, grant_kind = grant.kind, withdrawal = withdrawal or '', avail = book.avail,
  }
end

-- What withdrawals have taken of a grant, and whether they ended it. What cannot be read has been
-- taken: nothing more of it can be.
local function taken_of(book, id)
  local known = book.taken[id] or call('HGET', where.customer, 'y:' .. id) or '0'
  local taken = known:match('^%d+')
  return taken and sane(taken) and taken or AMOUNT_MAX, known:find(' ended', 1, true) ~= nil
end

local function note_taken(book, id, amount, ended)
  local before, ended_before = taken_of(book, id)
  book.taken[id] = plus(before, amount) .. ((ended or ended_before) and ' ended' or '')
end

-- Pay what the customer owes from what is free of a grant; returns how much.
local function repay(book, grant)
  local paid = least(above_zero(book.deficit), grant.free)
  if paid ~= '0' then
    grant.free = minus(grant.free, paid)
    shift(book, 'deficit', negate(paid))
  end
  return paid
end

-- End what is free of a grant that has ended.
local function end_free(book, grant)
  local free = grant.free
  if free == '0' then return end
  book.changed = true
  if grant.state == 'expired' then
    local paid = repay(book, grant)
    local lost = grant.free
    grant.free = '0'
    shift(book, 'expired', lost)
    shift(book, 'avail', negate(lost))
    note_record(book, 'expire', grant, lost, negate(paid), { { grant.id, negate(free) } })
    return
  end
  local kind, withdrawal = grant.state:match('^(%a+) (.+)$')
  grant.free = '0'
  note_taken(book, grant.id, free, true)
  shift(book, 'voided', free)
  shift(book, 'avail', negate(free))
  note_record(book, kind, grant, free, '0', { { grant.id, negate(free) } }, withdrawal)
end

local function activate(book, grant)
  local amount = grant.free
  grant.state, book.changed = 'active', true
  shift(book, 'granted', amount)
  shift(book, 'avail', amount)
  local paid = repay(book, grant)
  note_record(book, 'grant', grant, amount, negate(paid), { { grant.id, minus(amount, paid) } })
  local from_id, lowest, highest = grant.rolls:match('^(%S+) (%d+) (%d+)$')
  grant.rolls = ''
  if not from_id then return end
  -- A grant before that is spent is in the book no more: nothing is free of it.
  local from = find_grant(book, from_id)
  if from and from.state ~= 'active' then from = nil end
  local free = from and from.free or '0'
  -- Of one that was taken back nothing comes along, not even the least.
  local _, taken_back = taken_of(book, from_id)
  if taken_back then lowest = '0' end
  local rolled = cmp(free, lowest) < 0 and lowest or free
  rolled = least(rolled, highest)
  local moved = least(rolled, free)
  local extra = minus(rolled, moved)
  if from then from.free = minus(free, moved) end
  grant.free = plus(grant.free, rolled)
  shift(book, 'granted', extra)
  shift(book, 'avail', extra)
  if rolled ~= '0' then
    note_record(book, 'rollover', grant, extra, '0',
      { { from_id, negate(moved) }, { grant.id, rolled } })
  end
end

-- Which of two due events comes first: by time; what rolls over, then expiries, then beginnings.
local function due_of(grant)
  if grant.state == 'scheduled' then
    return grant.effective, grant.rolls ~= '' and 0 or 2
  end
  if grant.state == 'active' and grant.expires then return grant.expires, 1 end
  return nil
end

local function next_due(book)
  local first, at, rank
  for _, grant in ipairs(book.grants) do
    local due, order = due_of(grant)
    if due and (not at or due < at or (due == at and order < rank)) then
      first, at, rank = grant, due, order
    end
  end
  return first, at
end

-- Let grants begin and expire up to an instant, in the order of their times.
local function advance(book, instant)
  if #book.grants == 0 then return end
  -- What holds had pinned of a grant that ended meanwhile, and a loss of the store gave back.
  for _, grant in ipairs(book.grants) do
    if grant.state ~= 'active' and grant.state ~= 'scheduled' then end_free(book, grant) end
  end
  local grant, at = next_due(book)
  while grant and at <= instant do
    if grant.state == 'scheduled' then
      activate(book, grant)
    else
      grant.state, book.changed = 'expired', true
      end_free(book, grant)
    end
    grant, at = next_due(book)
  end
end

-- Parts of an amount from an argument that says how many; and the next argument's position.
local function read_parts(position)
  local parts = {}
  for i = 1, tonumber(ARGV[position]) do
    parts[i] = { ARGV[position + 2 * i - 1], ARGV[position + 2 * i] }
  end
  return parts, position + 2 * #parts + 1
end

-- Whether a grant burns before another.
local function burns_before(a, b)
  if a.priority ~= b.priority then return a.priority < b.priority end
  local a_ends, b_ends = a.expires or math.huge, b.expires or math.huge
  if a_ends ~= b_ends then return a_ends < b_ends end
  if a.kind ~= b.kind then return a.kind == 'promotional' end
  if a.effective ~= b.effective then return a.effective < b.effective end
  return a.id < b.id
end

local function insert_grant(book, grant)
  local place = #book.grants + 1
  for i, other in ipairs(book.grants) do
    if burns_before(grant, other) then
      place = i
      break
    end
  end
  table.insert(book.grants, place, grant)
  book.changed = true
end

-- Whether the book can be written: every number within bounds.
local function book_fits(book)
  for _, field in ipairs(BOOK_FIELDS) do
    if not sane(book[field]) then return false end
  end
  for _, grant in ipairs(book.grants) do
    local read = grant.as_read
    local as_read = read and read[2] == grant.free and read[3] == grant.pinned
    if not as_read and (not (sane(grant.free) and sane(grant.pinned))
      or negative(grant.free) or negative(grant.pinned)) then
      return false
    end
  end
  return true
end

-- The grants that are kept: of the others nothing is left.
local function still_matter(book)
  local kept = {}
  for _, grant in ipairs(book.grants) do
    if grant.state == 'scheduled' or grant.free ~= '0' or grant.pinned ~= '0' then
      kept[#kept + 1] = grant
    end
  end
  return kept
end

-- Write what has changed of the book, and what was noted of grants to the stream.
local function write_book(book, usage, moment)
  local cells = {}
  for _, field in ipairs(BOOK_FIELDS) do
    if book[field] ~= book.cells[field] then
      cells[#cells + 1], cells[#cells + 2] = field, book[field]
    end
  end
  if book.changed then
    local kept = still_matter(book)
    book.grants = kept
    if #kept > 0 then
      book.record = write_grants(kept)
      cells[#cells + 1], cells[#cells + 2] = 'grants', book.record
      local _, at = next_due(book)
      if at then call('ZADD', where.windows, 'LT', text(at), where.id .. '\ng:') end
    elseif book.record then
      book.record = nil
      call('HDEL', where.customer, 'grants')
    end
  end
  for id, taken in pairs(book.taken) do
    cells[#cells + 1], cells[#cells + 2] = 'y:' .. id, taken
  end
  if #cells > 0 or book.changed then
    cells[#cells + 1], cells[#cells + 2] = 'seal', seal_of(book)
    call('HSET', where.customer, unpack(cells))
  end
  for _, record in ipairs(book.records) do append_record(usage, moment, record) end
end
