-- Move each running total by what an event asks of it for a hold id, once. What the id has of a total
-- already is taken into account: a correction moves the total by the difference, from where it
-- stands now; what it asks of no more goes back. While one event is on its way from here to its
-- capture, another one that asks for something else moves nothing: that one is to be finished first.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 event, 4 price version, 5 digest of the usage, 6 estimated, then
--   per demand: total's field, quantity
-- Reply: 'ok' | 'no_customer' | 'broken' | 'elsewhere' (another price version's totals would have to
--   be moved) | 'pending', then the event to finish first. After the others: count of the id's steps
--   (-1 where they are not the store's: nothing was moved), then each step {field and version, before
--   or '=' and nano, quantity}

local STEPS_MAX = 256
local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, version, digest, estimated = ARGV[1], ARGV[4], ARGV[5], ARGV[6]

call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
local moment = moment_of(shard)
local record = call('HGET', done, id)
local marker = record and read_marker(record)
if marker and marker.state == 'unreadable' then return { 'broken' } end
local row = call('HMGET', customer, 'rev', 'h:' .. id, 'r:' .. id)
local reservation = row[3] and read_reservation(row[3])
if row[3] and not reservation then return { 'broken' } end

local captured = marker and marker.state == 'captured'
local foreign = (opened_for and opened_for ~= ARGV[2]) or (marker and marker.customer ~= ARGV[2])
-- Only measured usage in place of an estimate changes what a captured id has; all else is known.
local corrects = captured and marker.estimated == '1' and estimated == '0'
  and marker.digest ~= digest
-- Whether this was charged is for Postgres to say: until then it moves nothing.
local unknown = (marker and marker.state == 'claimed')
  or not (row[2] or row[3] or marker) and forgotten(shard, id, moment.instant)
local moves = row[1] and not foreign and not unknown and (corrects or not captured)

local steps = {}
if captured and not corrects then
  steps = not foreign and marker.reserved or {}
elseif reservation then
  steps = reservation.rows
elseif captured and not foreign then
  steps = marker.reserved
end

-- What the id has of each total, and whose price that is.
local names, has, priced_by, wanted = {}, {}, {}, {}
local function name(field, by)
  if has[field] then return end
  names[#names + 1], has[field], priced_by[field] = field, '0', by
end
for _, step in ipairs(steps) do
  local field, by = step[1]:match('^(%S+) ?(%S*)$')
  if not field then return { 'broken' } end
  name(field, by)
  has[field] = plus(has[field], step[3])
end
for i = 7, #ARGV, 2 do
  name(ARGV[i], version)
  wanted[ARGV[i]] = ARGV[i + 1]
end

local more, shifts = {}, {}
for _, field in ipairs(names) do
  local total = call('HGET', customer, field) or '0'
  if not sane(total) then return { 'broken' } end
  local by = priced_by[field]
  if moves and not wanted[field] and by ~= '' and by ~= version then return { 'elsewhere' } end
  local quantity = plus(wanted[field] or '0', negate(has[field]))
  if quantity ~= '0' then
    local before, after = total, plus(total, quantity)
    if not sane(after) then return { 'broken' } end
    -- A total that is not kept any more has only what the id itself has of it.
    if negative(after) then before, after = negate(quantity), '0' end
    more[#more + 1] = { field .. ' ' .. version, before, quantity }
    shifts[#shifts + 1] = { field, plus(after, negate(total)) }
  end
end

if not row[1] or not moves then
  local reply = { row[1] and 'ok' or 'no_customer', '-1' }
  if captured then more = {} end
  for _, rows in ipairs({ steps, more }) do
    for _, step in ipairs(rows) do
      for _, part in ipairs(step) do reply[#reply + 1] = part end
    end
  end
  return reply
end

if reservation and #more > 0 then return { 'pending', reservation.event } end
local all = {}
for _, step in ipairs(steps) do all[#all + 1] = step end
for _, step in ipairs(more) do all[#all + 1] = step end
if #all > STEPS_MAX then return { 'broken' } end
if #more > 0 then
  for _, move in ipairs(shifts) do add(customer, move[1], move[2]) end
  call('HSET', customer, 'r:' .. id, write_reservation({ rows = all, event = ARGV[3] }))
  if not row[2] then
    -- No open hold leads the sweep to a capture that is interrupted now: let it find this one.
    call('ZADD', expiry, text(moment.instant + RESERVED_GRACE_MS), id)
    call('HSET', open, id, ARGV[2])
  end
  commit(shard, moment)
end
local reply = { 'ok', text(#all) }
for _, step in ipairs(all) do
  for _, part in ipairs(step) do reply[#reply + 1] = part end
end
return reply
