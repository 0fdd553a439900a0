-- What captures and ends of holds do with a customer's book (book.lua): burn, give back.

-- Give a pinned part back to its grant, or let it end if the grant has ended.
local function unpin(book, grant, amount)
  grant.pinned, grant.free = minus(grant.pinned, amount), plus(grant.free, amount)
  book.changed = true
  if grant.state ~= 'active' then end_free(book, grant) end
end

local function pinned_sum(pins)
  local sum = '0'
  for _, row in ipairs(pins) do sum = plus(sum, row[3]) end
  return sum
end

-- Whether what a hold has pinned is pinned in the book.
local function pins_fit(book, pins)
  local sums = {}
  for _, row in ipairs(pins) do
    local grant = find_grant(book, row[1])
    if not grant then return false end
    sums[row[1]] = plus(sums[row[1]] or '0', row[3])
    if cmp(sums[row[1]], grant.pinned) > 0 then return false end
  end
  return true
end

-- Burn from free grants, in their order.
local function burn_free(book, parts, need, take)
  for _, grant in ipairs(book.grants) do
    for i, part in ipairs(parts) do
      local fits = grant.state == 'active' and need[i] ~= '0' and covers(grant, part[1])
      local amount = fits and above_zero(least(grant.free, need[i])) or '0'
      if amount ~= '0' then
        grant.free = minus(grant.free, amount)
        take(grant.id, i, amount)
      end
    end
  end
end

-- Burn from pins: those for the same meter first, then any whose grant covers the part.
-- Returns what is left of each.
local function burn_pins(book, parts, need, pins, take)
  local rest = {}
  for at, row in ipairs(pins) do rest[at] = row[3] end
  for round = 1, 2 do
    for at, row in ipairs(pins) do
      local grant = find_grant(book, row[1])
      for i, part in ipairs(parts) do
        local fits = part[1] == row[2]
        if round == 2 then fits = row[2] == '' or (grant and covers(grant, part[1])) end
        local amount = fits and above_zero(least(rest[at], need[i])) or '0'
        if amount ~= '0' then
          rest[at] = minus(rest[at], amount)
          if grant then grant.pinned = minus(grant.pinned, amount) end
          take(row[1], i, amount, not grant)
        end
      end
    end
  end
  return rest
end

-- What needs no grant any more: of prepaid usage it is a deficit of the customer, of which the id has
-- `owed` already. Returns by how much the deficit grows, and what of it is the id's.
local function leave_deficit(parts, need, owed, gone, burn_more)
  local growth, owes = '0', '0'
  for _, row in ipairs(gone) do growth = minus(growth, row[2]) end
  for i in ipairs(parts) do
    local stays = least(minus(owed, owes), need[i])
    owes, need[i] = plus(owes, stays), minus(need[i], stays)
  end
  burn_more()
  for i in ipairs(parts) do owes = plus(owes, need[i]) end
  return plus(growth, minus(owes, owed)), owes
end

-- The same where an invoice comes after credit: rows of OWED, by meter. What was owed already is not
-- paid from credit that came since; what grants that are gone paid comes off the invoice.
local function leave_owed(parts, need, owed, gone, burn_more)
  local owes, order = {}, {}
  local function owe(meter, amount)
    if not owes[meter] then order[#order + 1] = meter end
    owes[meter] = plus(owes[meter] or '0', amount)
  end
  for i, part in ipairs(parts) do
    local stays = above_zero(least(owed[part[1]] or '0', need[i]))
    need[i] = minus(need[i], stays)
    owe(part[1], stays)
  end
  burn_more()
  for i, part in ipairs(parts) do owe(part[1], need[i]) end
  for _, row in ipairs(gone) do owe(row[1], negate(row[2])) end
  local rows = {}
  for _, meter in ipairs(order) do
    if owes[meter] ~= '0' then rows[#rows + 1] = { OWED, meter, owes[meter] } end
  end
  -- That nothing is owed is told too: where credit alone pays, no row is.
  if #rows == 0 then rows[1] = { OWED, '', '0' } end
  return rows
end

-- By how much what is owed of each meter changes, from what was owed before to rows of OWED.
local function owed_changes(before, rows)
  local changes, order = {}, {}
  for _, row in ipairs(rows) do
    changes[row[2]], order[#order + 1] = minus(row[3], before[row[2]] or '0'), row[2]
  end
  for meter, amount in pairs(before) do
    if not changes[meter] then changes[meter], order[#order + 1] = negate(amount), meter end
  end
  table.sort(order)
  local moved = {}
  for _, meter in ipairs(order) do
    if changes[meter] ~= '0' then moved[#moved + 1] = { meter, changes[meter] } end
  end
  return moved
end

-- Burn the parts {meter, amount} of an event: what is pinned for them first, then what this id
-- has without a grant already (`owed`), then free grants; `leave` says what becomes of the rest.
-- A part below 0 (a step back that gives more than was paid) goes to the customer without a grant.
-- For a correction (`returned`) the pins are what was burned before. A grant that is gone since,
-- being spent, cannot take anything back: that goes to the customer without a grant.
-- Returns the two results of `leave`, the rows burned, the movements, and what is left of each pin:
-- to be given back (`unpin_rests`) once the decision is noted.
local function burn(book, parts, pins, owed, returned, leave)
  local need, burned, moved, order, gone = {}, {}, {}, {}, {}
  local function move(grant_id, amount)
    if not moved[grant_id] then order[#order + 1] = grant_id end
    moved[grant_id] = plus(moved[grant_id] or '0', amount)
  end
  local function take(grant_id, i, amount, is_gone)
    need[i] = minus(need[i], amount)
    burned[#burned + 1] = { grant_id, parts[i][1], amount }
    if not is_gone then move(grant_id, negate(amount)) end
  end
  for i, part in ipairs(parts) do need[i] = part[2] end
  if returned then
    for _, row in ipairs(pins) do
      local grant = find_grant(book, row[1])
      if grant then
        grant.pinned = plus(grant.pinned, row[3])
        move(row[1], row[3])
      end
    end
  end
  local rests = burn_pins(book, parts, need, pins, take)
  for at, rest in ipairs(rests) do
    if rest ~= '0' and not find_grant(book, pins[at][1]) then
      gone[#gone + 1] = { pins[at][2], rest }
    end
  end
  local left, owes = leave(parts, need, owed, gone, function()
    burn_free(book, parts, need, take)
  end)
  local moves = {}
  for _, grant_id in ipairs(order) do
    if moved[grant_id] ~= '0' then moves[#moves + 1] = { grant_id, moved[grant_id] } end
  end
  book.changed = book.changed or #pins > 0 or #moves > 0
  return left, owes, burned, moves, rests
end

-- Give back what is left of each pin.
local function unpin_rests(book, pins, rests)
  for at, row in ipairs(pins) do
    local grant = rests[at] ~= '0' and find_grant(book, row[1])
    if grant then unpin(book, grant, rests[at]) end
  end
end

-- Take a hold out of what is held; its pins are for the caller.
local function end_held(book, hold)
  shift(book, 'uncov', negate(minus(hold.amount, pinned_sum(hold.pins))))
  shift(book, 'held', negate(hold.amount))
  shift(book, 'avail', hold.amount)
end

-- Undo an open hold entirely: its counters at once, the book in memory. False, with nothing done,
-- if one of them cannot be read or would leave its bounds.
local function give_back(book, hold, instant)
  if not (book and hold and counters_fit(hold.lines, false)) then return false end
  advance(book, instant)
  if not pins_fit(book, hold.pins) then return false end
  end_held(book, hold)
  for _, row in ipairs(hold.pins) do unpin(book, find_grant(book, row[1]), row[3]) end
  if not book_fits(book) then return false end
  uncount_hold(hold, {}, instant)
  return true
end
