-- Set the generation of a credential that the place script accepts, and until when.
-- A revoked generation is kept as '-N', so that repeating an older put cannot revive it; for the
-- same reason a generation's end only ever comes nearer.
-- KEYS: 1 customer, 2 shard
-- ARGV: 1 credential id, 2 generation, 3 revoked, 4 end (ms) or ''
-- Reply: 'ok' | 'superseded' | 'no_customer'

local customer, shard = KEYS[1], KEYS[2]
local row = call('HMGET', customer, 'rev', 'k:' .. ARGV[1])
local moment = moment_of(shard)
if not row[1] then return 'no_customer' end
local wanted = tonumber(ARGV[2])
local entry = row[2] or '0'
local stored = tonumber(entry:match('^%-?%d+') or '0') or 0
local ends = tonumber(entry:match('@(%d+)$') or '')
if math.abs(stored) > wanted then return 'superseded' end
local written = text(wanted)
if ARGV[3] == '1' then
  written = '-' .. written
elseif stored == -wanted then
  return 'superseded'
else
  local wanted_end = tonumber(ARGV[4])
  if stored == wanted and ends and (not wanted_end or wanted_end > ends) then
    return 'superseded'
  end
  if wanted_end then written = written .. '@' .. text(wanted_end) end
end
if entry ~= written then
  call('HSET', customer, 'k:' .. ARGV[1], written)
  commit(shard, moment)
end
return 'ok'
