-- Set the generation of a credential that the place script accepts.
-- A revoked generation is kept as '-N', so that repeating an older put cannot revive it.
-- KEYS: 1 customer, 2 shard
-- ARGV: 1 credential id, 2 generation, 3 revoked
-- Reply: 'ok' | 'superseded' | 'no_customer'

local customer, shard = KEYS[1], KEYS[2]
local row = call('HMGET', customer, 'rev', 'k:' .. ARGV[1])
local moment = moment_of(shard)
if not row[1] then return 'no_customer' end
local wanted = tonumber(ARGV[2])
local stored = tonumber(row[2] or '0') or 0
if math.abs(stored) > wanted then return 'superseded' end
if ARGV[3] == '1' then
  wanted = -wanted
elseif stored == -wanted then
  return 'superseded'
end
if stored ~= wanted then
  call('HSET', customer, 'k:' .. ARGV[1], text(wanted))
  commit(shard, moment)
end
return 'ok'
