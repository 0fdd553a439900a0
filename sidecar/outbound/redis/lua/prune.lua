-- Drop what a counter no longer needs; note when to look again, or forget the counter. The counter
-- 'g:' is the customer's grants: they begin and expire here if nothing else comes by.
-- KEYS: 1 customer, 2 shard, 3 windows, 4 usage
-- ARGV: 1 counter (<kind>:<name>), 2 customer id
-- Reply: 'forgotten' | 'kept' | 'not_due' | 'broken'

where.windows = KEYS[3]
local customer, shard = KEYS[1], KEYS[2]
local kind, name = kind_of(ARGV[1]), ARGV[1]:sub(3)
local member = where.id .. '\n' .. ARGV[1]
local moment = moment_of(shard)
local due = call('ZSCORE', where.windows, member)
if not due or tonumber(due) > moment.instant then return 'not_due' end

-- Each drops what it can and says when to look again, or nil if nothing is left; 'broken' is
-- looked at again later, when somebody may have repaired it.
local prunes = {}

function prunes.q()
  local kept, first_end = drop_windows(name, moment.instant)
  if first_end then
    call('HSET', customer, 'w:' .. name, table.concat(kept, ','))
    return first_end + WINDOW_KEPT_MS
  end
  call('HDEL', customer, 'w:' .. name)
  return nil
end

function prunes.v()
  local index, sum = unpack(call('HMGET', customer, 'i:' .. name, 's:' .. name))
  local left, rest = leaving(index or '', moment.instant)
  local counts = left and slice_counts(name, left)
  if not counts or not sane_or_absent(sum) then return 'broken' end
  drop_slices(name, left, counts)
  local last = rest:sub(-32):match('=(%d+)$')
  if last then
    call('HSET', customer, 'i:' .. name, rest)
    return tonumber(last)
  end
  call('HDEL', customer, 'i:' .. name, 's:' .. name)
  return nil
end

-- A hold that is longer in flight than a rate is kept for finds none to put right.
function prunes.l()
  local record = call('HGET', customer, ARGV[1])
  if not record then return nil end
  local rate = read_rate(record)
  if not rate then return 'broken' end
  local idle_since = rate.at
  if rate.level > 0 then
    if rate.limit == 0 then return moment.instant + WINDOW_KEPT_MS end
    idle_since = idle_since + math.ceil(rate.level / rate.limit)
  end
  if idle_since + WINDOW_KEPT_MS > moment.instant then return idle_since + WINDOW_KEPT_MS end
  call('HDEL', customer, ARGV[1])
  return nil
end

-- What it decides of grants is written below, once the instant is.
local book
function prunes.g()
  local names = {}
  name_book(names)
  book = open_book(call('HMGET', customer, unpack(names)), 0)
  if not book then return 'broken' end
  advance(book, moment.instant)
  if not book_fits(book) then
    book = nil
    return 'broken'
  end
  local _, at = next_due(book)
  return at
end

call('XLEN', KEYS[4])
local look_at = prunes[kind] and prunes[kind]()
if look_at == 'broken' then
  call('ZADD', where.windows, text(moment.instant + WINDOW_KEPT_MS), member)
elseif look_at then
  call('ZADD', where.windows, text(look_at), member)
else
  call('ZREM', where.windows, member)
end
-- What has left by this instant must have left for all later decisions.
commit(shard, moment)
if book then write_book(book, KEYS[4], moment) end
if look_at == 'broken' then return 'broken' end
return look_at and 'kept' or 'forgotten'
