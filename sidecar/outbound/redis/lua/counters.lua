-- Counters in a customer's hash, for the scripts that stand below.
--   q:<name>:<start>  count of a window
--   v:<name>:<start>  count of a slice of a rolling window
--   u:<name>:<start>  what captures alone counted of either: without open holds
--   w:<name>  windows that have a counter: "start=end,..."
--   i:<name>  slices that count: ",start=leaves..." in the order they leave
--   s:<name>  sum of these slices
--   l:<name>  level of a rate: "<level> <at ms> <limit> <per ms>"
--   f:<name>  holds in flight
-- A name may hold colons: a start is what follows the last one. For each w:, i: and l: the
-- shard's index has a member "<customer>\n<kind>:<name>", by when the sweep should look at it.

local WINDOW_KEPT_MS = 172800000
-- A window that only a late capture knows: kept as long as the longest window can last.
local WINDOW_UNKNOWN_MS = 366 * 86400000
-- Most of burst x per_ms, and of a level that captures have driven beyond the burst: whole
-- numbers that a double holds, and adds.
local RATE_WORK_MAX = 2 ^ 50
local LEVEL_MAX = 2 ^ 52
local TOUCHED_MAX = 100000

local where = { customer = KEYS[1], id = ARGV[2], windows = KEYS[7], touched = KEYS[8] }

local function kind_of(field)
  return field:sub(1, 1)
end

-- Name and start of a window's or a slice's field.
local function parts_of(field)
  local name, start = field:match('^.:(.*):(%-?%d+)$')
  return name or field:sub(3), start or '0'
end

local function note_opened(head, look_at_ms)
  call('ZADD', where.windows, 'NX', text(look_at_ms), where.id .. '\n' .. head)
end

-- A window's first use: note it, and drop windows of the name that ended long ago.
local function drop_windows(name, instant)
  local kept, first_end = {}, nil
  for start, ended in (call('HGET', where.customer, 'w:' .. name) or '')
    :gmatch('(%-?%d+)=(%-?%d+)') do
    if tonumber(ended) <= instant - WINDOW_KEPT_MS then
      local suffix = name .. ':' .. start
      call('HDEL', where.customer, 'q:' .. suffix, 'u:' .. suffix)
    else
      kept[#kept + 1] = start .. '=' .. ended
      first_end = math.min(first_end or tonumber(ended), tonumber(ended))
    end
  end
  return kept, first_end
end

local function open_window(field, end_ms, instant)
  local name, start = parts_of(field)
  local kept = drop_windows(name, instant)
  kept[#kept + 1] = start .. '=' .. text(end_ms)
  call('HSET', where.customer, 'w:' .. name, table.concat(kept, ','))
  note_opened('q:' .. name, end_ms + WINDOW_KEPT_MS)
end

-- Slices that have left by an instant, and the index of the others; nil if it is damaged.
-- Looks at no more than those that left: they stand first.
local function leaving(index, instant)
  local left, position = {}, 1
  while position <= #index do
    local _, stop, start, leaves = index:find('^,(%-?%d+)=(%d+)', position)
    if not start then return nil end
    if tonumber(leaves) > instant then break end
    left[#left + 1] = start
    position = stop + 1
  end
  return left, index:sub(position)
end

-- At most so many slices of an index from a position on, and the position after them.
local function slices_of(index, position, most)
  local starts, leaves = {}, {}
  while #starts < most do
    local _, stop, start, leaving_ms = index:find('^,(%-?%d+)=(%d+)', position)
    if not start then break end
    starts[#starts + 1], leaves[#leaves + 1] = start, tonumber(leaving_ms)
    position = stop + 1
  end
  return starts, leaves, position
end

-- The index with a slice in its place. Slices follow each other, so it is nearly always the last;
-- only a window whose length was changed mixes them, and then a slice stays for the longer time.
local function with_slice(index, start, leaves_ms)
  local _, stop = index:find(',' .. start .. '=', 1, true)
  local known = stop and tonumber(index:match('^%d+', stop + 1))
  if known and known >= leaves_ms then return index end
  local last = index:sub(-32):match('=(%d+)$')
  if not known and (not last or tonumber(last) <= leaves_ms) then
    return index .. ',' .. start .. '=' .. text(leaves_ms)
  end
  local slices = { { start = start, leaves = leaves_ms } }
  local starts, leaves = slices_of(index, 1, math.huge)
  for i, other in ipairs(starts) do
    if other ~= start then slices[#slices + 1] = { start = other, leaves = leaves[i] } end
  end
  table.sort(slices, function(a, b) return a.leaves < b.leaves end)
  local out = {}
  for i, slice in ipairs(slices) do out[i] = ',' .. slice.start .. '=' .. text(slice.leaves) end
  return table.concat(out)
end

-- Counts of slices, in order; nil if one is damaged. Read by parts: Lua unpacks 8,000 at most.
local function slice_counts(name, starts)
  local counts = {}
  for first = 1, #starts, 1000 do
    local fields = {}
    for i = first, math.min(#starts, first + 999) do
      fields[#fields + 1] = 'v:' .. name .. ':' .. starts[i]
    end
    for _, count in ipairs(call('HMGET', where.customer, unpack(fields))) do
      count = count or '0'
      if not sane(count) then return nil end
      counts[#counts + 1] = count
    end
  end
  return counts
end

local function drop_slices(name, starts, counts)
  for i, start in ipairs(starts) do
    local suffix = name .. ':' .. start
    add(where.customer, 's:' .. name, negate(counts[i]))
    call('HDEL', where.customer, 'v:' .. suffix, 'u:' .. suffix)
  end
end

local function read_rate(record)
  local level, at, limit, per = record:match('^(%d+) (%d+) (%d+) (%d+)$')
  if not level then return nil end
  local rate = {
    level = tonumber(level), at = tonumber(at), limit = tonumber(limit), per = tonumber(per),
  }
  if rate.level > LEVEL_MAX or rate.at > LEVEL_MAX or rate.limit > RATE_WORK_MAX
    or rate.per < 1 or rate.per > RATE_WORK_MAX then
    return nil
  end
  return rate
end

local function write_rate(field, rate)
  call('HSET', where.customer, field, text(rate.level) .. ' ' .. text(rate.at) .. ' '
    .. text(rate.limit) .. ' ' .. text(rate.per))
end

-- Let a level drain up to an instant. A product that a double rounds is beyond any level.
local function drain(rate, instant)
  rate.level = math.max(0, rate.level - rate.limit * math.max(0, instant - rate.at))
  rate.at = math.max(rate.at, instant)
end
