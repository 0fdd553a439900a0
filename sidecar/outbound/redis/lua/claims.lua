-- When the store cannot know whether a usage was charged: its hold began before this life of the
-- store, or so long ago that its marker may be gone. Postgres then decides.
local function forgotten(shard, id, instant)
  local second = tonumber(id:sub(1, 8), 16)
  local since = tonumber(call('HGET', shard, 'since') or '0') or 0
  return second * 1000 < since or second + DEDUPE_SECONDS < instant / 1000
end
