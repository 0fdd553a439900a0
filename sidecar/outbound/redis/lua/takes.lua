-- What a place takes of each kind of counter: which fields it reads, what they say, what it
-- writes. Judging writes nothing and answers whether the fields could be read.

local TAKE_WIDTH = 7
local SLICES_AT_ONCE = 50

local function read_takes(first)
  local takes = {}
  for i = first, #ARGV, TAKE_WIDTH do
    takes[#takes + 1] = {
      field = ARGV[i], hard = ARGV[i + 1] == '1', quantity = ARGV[i + 2], limit = ARGV[i + 3],
      a = tonumber(ARGV[i + 4]), b = tonumber(ARGV[i + 5]), c = tonumber(ARGV[i + 6]),
      over = false, retry_at = 0, used = '0',
    }
  end
  return takes
end

-- Whether a count and what is taken of it stay within bounds; says what the take finds.
local function compare(take, used)
  if not sane(used) then return false end
  local after = plus(used, take.quantity)
  if not sane(after) then return false end
  take.used, take.after = used, after
  take.over = cmp(after, take.limit) > 0
  return true
end

local function fits_alone(take)
  return cmp(take.quantity, take.limit) <= 0
end

local window = {}

function window.fields(take)
  return { take.field }
end

function window.judge(take, found)
  take.fresh = not found[1]
  if not compare(take, found[1] or '0') then return false end
  if take.over and fits_alone(take) then take.retry_at = take.b end
  return true
end

function window.write(take, instant)
  if take.fresh then open_window(take.field, take.b, instant) end
  call('HINCRBY', where.customer, take.field, take.quantity)
end

local rolling = {}

function rolling.fields(take)
  take.name, take.start = parts_of(take.field)
  return { take.field, 's:' .. take.name, 'i:' .. take.name }
end

-- The first instant at which enough slices have left, if nothing else is taken; 0 if there is
-- none, nil if a slice is damaged. Most callers wait for a few slices: they are read by parts.
local function rolling_retry(take)
  local high, low = halves(plus(take.after, negate(take.limit)))
  local starts, leaves, position = slices_of(take.index, 1, SLICES_AT_ONCE)
  while #starts > 0 do
    local counts = slice_counts(take.name, starts)
    if not counts then return nil end
    for i, count in ipairs(counts) do
      local count_high, count_low = halves(count)
      high, low = high - count_high, low - count_low
      local rest = high + math.floor(low / 1e9)
      if rest < 0 or (rest == 0 and low % 1e9 == 0) then return leaves[i] end
    end
    starts, leaves, position = slices_of(take.index, position, SLICES_AT_ONCE)
  end
  return 0
end

function rolling.judge(take, found, instant)
  if not (sane_or_absent(found[1]) and sane_or_absent(found[2])) then return false end
  local index = found[3] or ''
  take.left, take.index = leaving(index, instant)
  if not take.left then return false end
  take.fresh, take.left_counts = not found[1], slice_counts(take.name, take.left)
  if not take.left_counts then return false end
  local high, low = halves(found[2] or '0')
  for _, count in ipairs(take.left_counts) do
    local count_high, count_low = halves(count)
    high, low = high - count_high, low - count_low
  end
  if not compare(take, whole(high, low)) then return false end
  if take.over and fits_alone(take) then take.retry_at = rolling_retry(take) end
  return take.retry_at ~= nil
end

function rolling.write(take)
  drop_slices(take.name, take.left, take.left_counts)
  local index = with_slice(take.index, take.start, take.c)
  if index ~= take.index or #take.left > 0 then
    call('HSET', where.customer, 'i:' .. take.name, index)
  end
  call('HINCRBY', where.customer, take.field, take.quantity)
  call('HINCRBY', where.customer, 's:' .. take.name, take.quantity)
  if take.fresh then note_opened('v:' .. take.name, take.c) end
end

local rate = {}

function rate.fields(take)
  return { take.field }
end

local function in_range(number, least, most)
  return number and number >= least and number <= most and number == math.floor(number)
end

function rate.judge(take, found, instant, lost)
  local limit, per, burst, quantity = tonumber(take.limit), take.a, take.b, tonumber(take.quantity)
  if not (in_range(limit, 0, RATE_WORK_MAX) and in_range(per, 1, RATE_WORK_MAX)
    and in_range(burst, 0, RATE_WORK_MAX / per) and in_range(quantity, 0, burst + 1)) then
    return false
  end
  take.fresh = not found[1]
  local now = { level = 0, at = instant, limit = limit, per = per }
  if found[1] then
    now = read_rate(found[1])
    if not now then return false end
    -- If the policy has changed, its new rate counts since the level was written: so what a
    -- denial says of the wait comes true. Under another `per` what was taken is carried over in
    -- whole units, rounded up.
    if now.per ~= per then
      now.level = math.min(LEVEL_MAX, math.ceil(now.level / now.per) * per)
    end
    now.limit, now.per = limit, per
    drain(now, instant)
  elseif lost then
    -- What was taken in the life of the store that was lost is unknown: as much as can be.
    now.level, now.at = burst * per, math.min(lost, instant)
    drain(now, instant)
  end
  take.rate, take.work = now, quantity * per
  take.used = text(math.ceil(now.level / per))
  local excess = now.level + take.work - burst * per
  take.over = excess > 0
  if take.over and quantity <= burst and limit > 0 then
    take.retry_at = instant + math.ceil(excess / limit)
  end
  return true
end

function rate.write(take, instant)
  -- A soft rate that is exceeded counts as if it were enforced: what it would have refused would
  -- otherwise keep it exceeded for as long as the caller goes on.
  if take.over then return end
  take.rate.level = take.rate.level + take.work
  write_rate(take.field, take.rate)
  if take.fresh then note_opened(take.field, instant + WINDOW_KEPT_MS) end
end

local in_flight = {}

function in_flight.fields(take)
  return { take.field }
end

function in_flight.judge(take, found)
  return compare(take, found[1] or '0')
end

function in_flight.write(take)
  add(where.customer, take.field, take.quantity)
end

local KINDS = { q = window, v = rolling, l = rate, f = in_flight }

-- Judge every take by its part of the row, whose first `skip` values are others'. `lost` is when an
-- earlier life of the store had ended for sure, nil for whoever came after that.
local function judge_takes(takes, row, skip, instant, lost)
  local at = skip
  for _, take in ipairs(takes) do
    local found = {}
    for i = 1, take.width do found[i] = row[at + i] end
    at = at + take.width
    if not KINDS[kind_of(take.field)].judge(take, found, instant, lost) then return false end
  end
  return true
end

-- Name the fields that the takes read.
local function name_takes(takes, names)
  for _, take in ipairs(takes) do
    local fields = KINDS[kind_of(take.field)].fields(take)
    take.width = #fields
    for _, field in ipairs(fields) do names[#names + 1] = field end
  end
end

-- Write every take; returns the lines by which the hold remembers them.
local function write_takes(takes, instant)
  local lines = {}
  for _, take in ipairs(takes) do
    KINDS[kind_of(take.field)].write(take, instant)
    if take.rate then
      take.used = text(math.ceil(take.rate.level / take.rate.per))
    else
      take.used = take.after
    end
    if not (take.rate and take.over) then lines[#lines + 1] = { take.field, take.quantity } end
  end
  return lines
end

-- What a repeat says of its takes. A hard one did fit; a soft rate that did not has no line.
local function judge_again(takes, hold)
  local held = {}
  for _, line in ipairs(hold.lines) do held[line[1]] = true end
  for _, take in ipairs(takes) do
    take.retry_at = 0
    if take.hard then
      take.over = false
    elseif take.rate then
      take.over = not held[take.field]
    else
      take.over = cmp(take.used, take.limit) > 0
    end
  end
end
