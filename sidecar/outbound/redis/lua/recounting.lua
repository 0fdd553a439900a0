-- How counters follow what becomes of holds: given back, captured, counted again.

local function captured_field(field)
  return 'u:' .. field:sub(3)
end

-- Put right what an open hold took of a rate. Had it taken the actual quantity from the start,
-- the level would be lower by the difference, less what of it has drained away since; no more
-- than the limit drains in a millisecond. Giving back the rest never lowers the level below the
-- one of a caller who had asked for the actual quantity, so that the rate is not exceeded.
local function settle_rate(field, held, actual, decided_ms, instant)
  local rate = read_rate(call('HGET', where.customer, field) or '')
  if not rate then return end
  drain(rate, instant)
  local work = (actual - held) * rate.per
  if work < 0 then work = math.min(0, work + rate.limit * math.max(0, instant - decided_ms)) end
  if work == 0 then return end
  rate.level = math.min(LEVEL_MAX, math.max(0, rate.level + work))
  write_rate(field, rate)
end

-- Move a window's or a slice's count.
local function move(field, delta)
  add(where.customer, field, delta)
  if kind_of(field) == 'v' then add(where.customer, 's:' .. parts_of(field), delta) end
end

local function exists(field)
  return call('HEXISTS', where.customer, field) == 1
end

-- Take back what an open hold took; `actual` has what was used of the rates. A window that was
-- cleaned away stays away, and a slice that has left the count does not come back.
local function uncount_hold(hold, actual, instant)
  for _, line in ipairs(hold.lines) do
    local field, kind = line[1], kind_of(line[1])
    if kind == 'l' then
      settle_rate(field, tonumber(line[2]), tonumber(actual[field] or '0'),
        tonumber(hold.decided), instant)
    elseif exists(field) then
      move(field, negate(line[2]))
      if kind == 'f' and call('HGET', where.customer, field) == '0' then
        call('HDEL', where.customer, field)
      end
    end
  end
end

-- Tell the sweep that what is captured of a window changed; beyond the bound, that it missed some.
local function touch(field)
  local member = call('SCARD', where.touched) > TOUCHED_MAX and '*' or where.id .. '\n' .. field
  call('SADD', where.touched, member)
end

-- What captures moved in this script: field and difference in turn, for the stream.
local moved = {}

local function move_captured(field, delta)
  move(field, delta)
  add(where.customer, captured_field(field), delta)
  moved[#moved + 1] = field
  moved[#moved + 1] = delta
  touch(field)
end

-- Only windows and slices count what was used; rates and holds in flight ended with their hold.
local function counts_usage(line)
  local kind = kind_of(line[1])
  return (kind == 'q' or kind == 'v') and line[2] ~= '0'
end

local function count_captured(lines, instant)
  for _, line in ipairs(lines) do
    if counts_usage(line) then
      local known = exists(line[1])
      if not known and kind_of(line[1]) == 'q' then
        open_window(line[1], instant + WINDOW_UNKNOWN_MS, instant)
        known = true
      end
      if known then move_captured(line[1], line[2]) end
    end
  end
end

local function uncount_captured(lines)
  for _, line in ipairs(lines) do
    if counts_usage(line) and exists(line[1]) then move_captured(line[1], negate(line[2])) end
  end
end

-- Count again what a hold took that the store lost. Windows and slices that are gone, and rates,
-- which begin anew, are left alone; returns whether the hold has something to give back.
local function recount(line, instant)
  local kind = kind_of(line[1])
  if kind == 'l' then return false end
  if kind == 'q' and not exists(line[1]) then
    open_window(line[1], instant + WINDOW_UNKNOWN_MS, instant)
  elseif kind ~= 'f' and not exists(line[1]) then
    return false
  end
  move(line[1], line[2])
  return true
end

-- Whether the counters of these lines can be read, and still fit if `more` of each is counted.
local function counters_fit(lines, more)
  local function fits(field, quantity)
    local count = call('HGET', where.customer, field) or '0'
    return sane(count) and sane(plus(count, quantity))
  end
  for _, line in ipairs(lines) do
    local field, kind = line[1], kind_of(line[1])
    local quantity = more and line[2] or '0'
    if kind == 'l' then
      local record = call('HGET', where.customer, field)
      if record and not read_rate(record) then return false end
    elseif kind == 'f' then
      if not fits(field, '0') then return false end
    elseif not (fits(field, quantity) and fits(captured_field(field), quantity)
      and (kind ~= 'v' or fits('s:' .. parts_of(field), quantity))) then
      return false
    end
  end
  return true
end
