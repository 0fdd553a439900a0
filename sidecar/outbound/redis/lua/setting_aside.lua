-- What checks do with a customer's book (book.lua): look at it, and set aside.

-- What is free of grants that cover one of these meters.
local function free_credit(book, parts)
  local high, low = 0, 0
  for _, grant in ipairs(book.grants) do
    if grant.state == 'active' and grant.free ~= '0' then
      for _, part in ipairs(parts) do
        if covers(grant, part[1]) then
          local free_high, free_low = halves(grant.free)
          high, low = high + free_high, low + free_low
          break
        end
      end
    end
  end
  return whole(high, low)
end

-- What a check of these meters may still set aside.
local function spendable(book, parts)
  return plus(free_credit(book, parts), minus(minus(book.overdraft, book.deficit), book.uncov))
end

local function exposure(book)
  return above_zero(minus(plus(book.deficit, book.uncov), book.overdraft))
end

-- Pin grants in burn order for each part {meter, amount}; returns rows {grant, meter, amount} and
-- what no grant covered. Where no grant is scoped the parts are one.
local function pin(book, parts, amount)
  local scoped = false
  for _, grant in ipairs(book.grants) do scoped = scoped or grant.meters ~= '' end
  if not scoped then parts = { { '', amount } } end
  local need, pins, left = {}, {}, '0'
  for i, part in ipairs(parts) do need[i] = part[2] end
  for _, grant in ipairs(book.grants) do
    if grant.state == 'active' and grant.free ~= '0' then
      for i, part in ipairs(parts) do
        local taken = covers(grant, part[1]) and least(grant.free, need[i]) or '0'
        if taken ~= '0' then
          grant.free, grant.pinned = minus(grant.free, taken), plus(grant.pinned, taken)
          need[i] = minus(need[i], taken)
          pins[#pins + 1] = { grant.id, part[1], taken }
        end
      end
    end
  end
  for i in ipairs(parts) do left = plus(left, need[i]) end
  book.changed = book.changed or #pins > 0
  return pins, left
end

-- Set a hold's amount aside: from grants where credit pays, the rest without. Returns the rows
-- pinned, by how much what is exposed beyond all credit and overdraft grew, and whether anything
-- is exposed that no grant covers.
local function set_aside(book, parts, amount, prepaid)
  local pins, uncovered, beyond, exposed = {}, amount, '0', false
  if prepaid then pins, uncovered = pin(book, parts, amount) end
  if uncovered ~= '0' then
    local before = exposure(book)
    shift(book, 'uncov', uncovered)
    local after = exposure(book)
    beyond, exposed = minus(after, before), after ~= '0'
  end
  shift(book, 'held', amount)
  shift(book, 'avail', negate(amount))
  return pins, beyond, exposed
end
