-- Shared head of every script. Amounts and counters are canonical decimal strings of 64-bit
-- integers. Lua numbers are doubles and lose digits above 2^53, so counters are changed by HINCRBY
-- alone, comparing works on the text, and what has to be known before anything is written is added
-- up in halves that a double holds (`plus`).
-- Instants (milliseconds) and sequence numbers stay below 2^53 and may be Lua numbers.

local AMOUNT_MAX = '4000000000000000000'
local DEDUPE_SECONDS = 172800
local RESERVED_GRACE_MS = 30000
local BALANCE_FIELDS = {
  'granted', 'used', 'held', 'avail', 'voided', 'expired', 'deficit', 'uncov',
}
local call = redis.call

local function negative(n)
  return n:byte(1) == 45
end

local function negate(n)
  if n == '0' then return n end
  if negative(n) then return n:sub(2) end
  return '-' .. n
end

-- -1, 0 or 1 as a is below, equal to or above b. Digits of equal count compare as bytes do.
local function cmp(a, b)
  if a == b then return 0 end
  if negative(a) ~= negative(b) then return negative(a) and -1 or 1 end
  local smaller
  if #a ~= #b then smaller = #a < #b else smaller = a < b end
  if negative(a) then smaller = not smaller end
  return smaller and -1 or 1
end

-- Whether n is a canonical integer within +-AMOUNT_MAX: two of them always add up within 64 bits.
local function sane(n)
  if n == '0' then return true end
  if type(n) ~= 'string' or not n:find('^%-?[1-9]%d*$') then return false end
  if #n < #AMOUNT_MAX then return true end
  local digits = negative(n) and n:sub(2) or n
  return #digits < #AMOUNT_MAX or (#digits == #AMOUNT_MAX and digits <= AMOUNT_MAX)
end

local function sane_or_absent(n)
  return n == false or sane(n)
end

-- n = high * 1e9 + low; sums of a few million halves are exact.
local function halves(n)
  if #n <= 9 then return 0, tonumber(n) end
  local sign, digits = 1, n
  if negative(n) then sign, digits = -1, n:sub(2) end
  return sign * (tonumber(digits:sub(1, -10)) or 0), sign * tonumber(digits:sub(-9))
end

-- The text of summed halves.
local function whole(high, low)
  high, low = high + math.floor(low / 1e9), low % 1e9
  if high < 0 and low > 0 then high, low = high + 1, low - 1e9 end
  local sign = (high < 0 or low < 0) and '-' or ''
  high, low = math.abs(high), math.abs(low)
  if high == 0 then return sign .. string.format('%.0f', low) end
  return sign .. string.format('%.0f%09.0f', high, low)
end

-- a + b, exactly and without a write; both sane. Up to 15 digits a double adds by itself.
local function plus(a, b)
  if a == '0' then return b end
  if b == '0' then return a end
  if #a < 16 and #b < 16 then return string.format('%.0f', tonumber(a) + tonumber(b)) end
  local high, low = halves(a)
  local more_high, more_low = halves(b)
  return whole(high + more_high, low + more_low)
end

local function add(key, field, delta)
  if delta ~= '0' then call('HINCRBY', key, field, delta) end
end

local function text(number)
  return string.format('%.0f', number)
end

-- The decision's moment: instant never runs backwards on a shard. Reads only. `life` is what the
-- guard around a script has read of the shard already.
local function moment_of(shard)
  local time = call('TIME')
  local raw = time[1] * 1000 + math.floor(time[2] / 1000)
  local stored = life or call('HMGET', shard, 'epoch', 'seq', 'home', 'clock')
  local instant = math.max(raw, tonumber(stored[4] or '0') or 0)
  return {
    raw = raw,
    instant = instant,
    seq = tonumber(stored[2] or '0') or 0,
    epoch = stored[1],
  }
end

local function commit(shard, moment)
  moment.seq = moment.seq + 1
  local seq = text(moment.seq)
  if life then life[2] = seq end
  call('HSET', shard, 'clock', text(moment.instant), 'seq', seq)
end

-- Records are lines of text, then (where there is one) an opaque tail.
local function reader(record)
  local position = 1
  local function line()
    local stop = record:find('\n', position, true)
    if not stop then error('record is cut') end
    local part = record:sub(position, stop - 1)
    position = stop + 1
    return part
  end
  local function lines(width)
    local rows = {}
    local count = tonumber(line())
    if not count then error('record has no count') end
    for i = 1, count do
      local row = {}
      for j = 1, width do row[j] = line() end
      rows[i] = row
    end
    return rows
  end
  return line, lines, function() return record:sub(position) end
end

local function put_lines(out, rows)
  out[#out + 1] = text(#rows)
  for _, row in ipairs(rows) do
    for _, part in ipairs(row) do out[#out + 1] = part end
  end
end

local function all_sane(rows, columns)
  for _, row in ipairs(rows) do
    for _, column in ipairs(columns) do
      if not sane(row[column]) then return false end
    end
  end
  return true
end

-- A hold: its amount, the part that went beyond all credit and overdraft, what it took of each
-- counter, and what it has pinned of which grant for which meter.
local function write_hold(hold)
  local out = { hold.decided, hold.amount, hold.beyond, hold.fingerprint }
  put_lines(out, hold.lines)
  put_lines(out, hold.pins)
  out[#out + 1] = hold.terms
  return table.concat(out, '\n')
end

local function read_hold(record)
  local function parse()
    local line, lines, rest = reader(record)
    local hold = {}
    hold.decided = line()
    hold.amount = line()
    hold.beyond = line()
    hold.fingerprint = line()
    hold.lines = lines(2)
    hold.pins = lines(3)
    hold.terms = rest()
    return hold
  end
  local ok, hold = pcall(parse)
  if ok and sane(hold.amount) and sane(hold.beyond) and sane(hold.decided)
    and all_sane(hold.lines, { 2 }) and all_sane(hold.pins, { 3 }) then
    return hold
  end
  return nil
end

-- A credential's entry is 'N', the accepted generation; 'N@E', accepted until instant E; or '-N',
-- revoked.
local function credential_holds(entry, generation, instant)
  if not entry then return false end
  if entry == generation then return true end
  local accepted, ends = entry:match('^(%d+)@(%d+)$')
  return accepted == generation and instant < tonumber(ends)
end

-- Append a decision to the shard's stream; what is not said is nothing.
local function append_record(usage, moment, record)
  local moves = {}
  for _, move in ipairs(record.moves or {}) do
    if move[2] ~= '0' then moves[#moves + 1] = move[1] .. ' ' .. move[2] end
  end
  local tail = {}
  if record.owed then
    local owed = {}
    for _, part in ipairs(record.owed) do owed[#owed + 1] = part[1] .. ' ' .. part[2] end
    tail = { 'owe', table.concat(owed, '\n') }
  end
  call('XADD', usage, '*', 'v', '1', 'k', record.kind, 'id', record.id, 'c', ARGV[2],
    'cur', record.currency, 'amt', record.amount, 'held', record.held or '0',
    'ov', record.overage or '0', 'avail', record.avail, 'at', text(moment.instant),
    'pre', record.prepaid or '1', 'late', record.late or '0', 'pv', record.price_version or '',
    'ev', record.event or '', 'mv', table.concat(moves, '\n'),
    'gk', record.grant_kind or '', 'wid', record.withdrawal or '',
    'qt', table.concat(record.counted or {}, '\n'), 'seq', text(moment.seq), 'ep', moment.epoch,
    unpack(tail))
end
