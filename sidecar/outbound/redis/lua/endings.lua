-- How an id ends, and what is kept of it then, for the scripts that stand below.

-- What an id has of running totals, step by step: rows {total's field and price version, total before
-- the step (or '=' and what the step cost, in nano), quantity}. Steps back have quantities below 0.
local function steps_sane(rows)
  for _, row in ipairs(rows) do
    local before = row[2]
    if before:byte(1) == 61 then before = before:sub(2) end
    if not (sane(before) and sane(row[3])) then return false end
  end
  return true
end

-- A marker in the dedupe bucket: how an id ended, and what a later event is compared with.
-- `overage` is what it has in the deficit, `burned` what it took of which grant for which meter; where
-- a plan invoices what credit does not pay, rows of OWED tell how much of which meter that is.
local OWED = '=owed'

local function write_marker(marker)
  local out = {
    marker.state, marker.amount, marker.overage, marker.estimated, marker.digest,
    marker.corrections, marker.customer, marker.decided, marker.expires,
  }
  put_lines(out, marker.lines)
  put_lines(out, marker.reserved)
  put_lines(out, marker.burned)
  out[#out + 1] = marker.terms
  return table.concat(out, '\n')
end

local function read_marker(record)
  local function parse()
    local line, lines, rest = reader(record)
    local marker = {}
    marker.state = line()
    marker.amount = line()
    marker.overage = line()
    marker.estimated = line()
    marker.digest = line()
    marker.corrections = line()
    marker.customer = line()
    marker.decided = line()
    marker.expires = line()
    marker.lines = lines(2)
    marker.reserved = lines(3)
    marker.burned = lines(3)
    marker.terms = rest()
    return marker
  end
  local ok, marker = pcall(parse)
  if ok and sane(marker.amount) and sane(marker.overage) and sane(marker.corrections)
    and all_sane(marker.lines, { 2 }) and steps_sane(marker.reserved)
    and all_sane(marker.burned, { 3 }) then
    return marker
  end
  return { state = 'unreadable' }
end

local function tombstone(state, customer)
  return {
    state = state, amount = '0', overage = '0', estimated = '0', digest = '', corrections = '0',
    customer = customer, decided = '0', expires = '0', lines = {}, reserved = {}, burned = {}, terms = '',
  }
end

local function remember(done, id, marker)
  call('HSET', done, id, write_marker(marker))
  call('EXPIRE', done, DEDUPE_SECONDS)
end

-- A reservation: steps of running totals, and the event they are for.
local function read_reservation(record)
  local function parse()
    local _, lines, rest = reader(record)
    local reservation = {}
    reservation.rows = lines(3)
    reservation.event = rest()
    return reservation
  end
  local ok, reservation = pcall(parse)
  if ok and steps_sane(reservation.rows) then return reservation end
  return nil
end

local function write_reservation(reservation)
  local out = {}
  put_lines(out, reservation.rows)
  out[#out + 1] = reservation.event
  return table.concat(out, '\n')
end

-- Forget an open hold and all that points to it.
local function close(customer, expiry, open, id)
  call('HDEL', customer, 'h:' .. id, 'r:' .. id, 'p:' .. id, 'o:' .. id)
  call('ZREM', expiry, id)
  call('HDEL', open, id)
end
