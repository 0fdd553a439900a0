-- When the store cannot know whether a usage was charged: its hold began before this life of the
-- store, or so long ago that its marker may be gone. Postgres then decides.
local function forgotten(shard, id, instant)
  local second = tonumber(id:sub(1, 8), 16)
  local since = tonumber(call('HGET', shard, 'since') or '0') or 0
  return second * 1000 < since or second + DEDUPE_SECONDS < instant / 1000
end

-- How the ledger knows an id that this life of the store has no marker of. Which grants paid it is
-- not known any more: what a correction gives back of them goes to the customer without a grant.
-- `steps` are what it has of running totals, as text: their count, then their rows.
local function marker_of_ledger(state, customer, amount, overage, estimated, digest, corrections,
    steps)
  local marker = tombstone(state, customer)
  marker.amount, marker.overage, marker.estimated = amount, overage, estimated
  marker.digest, marker.corrections = digest, corrections
  local paid = plus(amount, negate(overage))
  local _, lines = reader(steps)
  marker.reserved = lines(3)
  if paid ~= '0' and not negative(paid) then marker.burned = { { '?', '', paid } } end
  return marker
end
