-- Take credit back from a grant, once per withdrawal id.
-- KEYS: 1 customer, 2 shard, 3 usage, 4 windows
-- ARGV: 1 withdrawal id, 2 customer id, 3 grant id, 4 kind, 5 amount or '' for all that is free
-- Reply: status, amount; 'applied' | 'repeated' with what was taken, 'conflict' with what the id
--   did before, 'too_much' with what is free, 'beyond' with what is left to dispute, 'ended'
--   | 'spent' | 'scheduled' (nothing to take a part of yet) | 'out_of_bounds' | 'no_grant'
--   | 'no_customer' | 'broken'
-- A refusal is remembered, too: who asks at the same time is told the same.

local customer, shard, usage = KEYS[1], KEYS[2], KEYS[3]
where.windows = KEYS[4]
call('XLEN', usage)
call('ZCARD', where.windows)
local moment = moment_of(shard)
local field = 'x:' .. ARGV[1]
local names = { 'rev', field, 'g:' .. ARGV[3] }
name_book(names)
local row = call('HMGET', customer, unpack(names))
local asked = table.concat(ARGV, ' ', 3, 5)
if row[2] then
  local status, amount, before = row[2]:match('^([%l_]*) ?(%d+) (.*)$')
  if before ~= asked then return { 'conflict', row[2] } end
  return { status == '' and 'repeated' or status, amount }
end
if not row[1] then return { 'no_customer', '0' } end
if not row[3] then return { 'no_grant', '0' } end
local book = open_book(row, 3)
if not book then return { 'broken', '0' } end
advance(book, moment.instant)

-- What time has ended meanwhile is left to the next script: this one decides on nothing else.
local function refuse(status, amount)
  call('HSET', customer, field, status .. ' ' .. amount .. ' ' .. asked)
  commit(shard, moment)
  return { status, amount }
end

local grant, kind, wanted = find_grant(book, ARGV[3]), ARGV[4], ARGV[5]
local given = row[3]:match('^%d+')
local taken_before = taken_of(book, ARGV[3])
local taken, overage = '0', '0'
if kind == 'dispute' then
  -- What was spent already becomes a debt; what is pinned comes back or is burned as it was meant.
  grant = grant or { id = ARGV[3], kind = row[3]:match('^%d+\n[^\n]*\n(%a+)'), free = '0' }
  if grant.state == 'scheduled' then return refuse('scheduled', grant.free) end
  local left = above_zero(minus(given, taken_before))
  if cmp(wanted, left) > 0 then return refuse('beyond', left) end
  taken = wanted
  local free = least(grant.free, taken)
  grant.free, overage = minus(grant.free, free), minus(taken, free)
  shift(book, 'deficit', overage)
else
  if not grant then return refuse('spent', '0') end
  if grant.state ~= 'active' and grant.state ~= 'scheduled' then return refuse('ended', '0') end
  if wanted == '' and grant.free == '0' and grant.pinned == '0' then return refuse('spent', '0') end
  taken = wanted == '' and grant.free or wanted
  if cmp(taken, grant.free) > 0 then return refuse('too_much', grant.free) end
  if grant.state == 'scheduled' then
    -- It has not begun, so nothing is on the books of it: a whole one is not given at all.
    if taken ~= grant.free then return refuse('scheduled', grant.free) end
    note_taken(book, grant.id, given, true)
    grant.state, grant.free, taken = 'void ' .. ARGV[1], '0', '0'
  elseif wanted == '' then
    grant.state = kind .. ' ' .. ARGV[1]
  end
  if taken ~= '0' then grant.free = minus(grant.free, taken) end
end
book.changed = true
note_taken(book, grant.id, taken, wanted == '' or plus(taken_before, taken) == given)
if taken ~= '0' then
  shift(book, 'voided', taken)
  shift(book, 'avail', negate(taken))
  local moved = minus(taken, overage)
  local moves = moved ~= '0' and { { grant.id, negate(moved) } } or {}
  note_record(book, kind, grant, taken, overage, moves, ARGV[1])
end
if not book_fits(book) then return refuse('out_of_bounds', '0') end
call('HSET', customer, field, taken .. ' ' .. asked)
commit(shard, moment)
write_book(book, usage, moment)
return { 'applied', taken }
