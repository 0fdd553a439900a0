-- When the store cannot know whether a usage was charged: its hold began before this life of the
-- store, or so long ago that its marker may be gone. Postgres then decides.
local function forgotten(shard, id, instant)
  local second = tonumber(id:sub(1, 8), 16)
  local since = tonumber(call('HGET', shard, 'since') or '0') or 0
  return second * 1000 < since or second + DEDUPE_SECONDS < instant / 1000
end

-- How the ledger knows an id that this life of the store has no marker of. Which grants paid it is
-- not known any more: what a correction gives back of them goes to the customer without a grant.
-- `steps` are what it has of running totals, as text: their count, then their rows. So is `split` what
-- credit paid of each meter and what an invoice asks of it; '' where the plan is another.
local function marker_of_ledger(state, customer, amount, overage, estimated, digest, corrections,
    steps, split)
  local marker = tombstone(state, customer)
  marker.amount, marker.overage, marker.estimated = amount, overage, estimated
  marker.digest, marker.corrections = digest, corrections
  local _, lines = reader(steps)
  marker.reserved = lines(3)
  local function paid(meter, nano)
    if nano ~= '0' and not negative(nano) then
      marker.burned[#marker.burned + 1] = { '?', meter, nano }
    end
  end
  if split == '' then
    paid('', plus(amount, negate(overage)))
    return marker
  end
  local _, split_lines = reader(split)
  local rows = split_lines(3)
  for _, row in ipairs(rows) do paid(row[1], row[2]) end
  for _, row in ipairs(rows) do
    marker.burned[#marker.burned + 1] = { OWED, row[1], row[3] }
  end
  return marker
end
