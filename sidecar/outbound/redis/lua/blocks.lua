-- Blocks: credit and windowed counters that a gateway process places holds from by itself, for the
-- scripts that stand below. A block is an open hold like any other, and besides:
--   b:<block id>  number of the last batch of its holds, then the ids that others have opened from it
--   blocks  ids of the customer's blocks, each behind a line break

local function read_registry(record)
  local batch, rest = record:match('^(%d+)(.*)$')
  local early = {}
  for id in (rest or ''):gmatch('[^\n]+') do early[id] = true end
  return tonumber(batch or '0'), early
end

local function write_registry(block_id, batch, early)
  local out = { text(batch) }
  for id in pairs(early) do out[#out + 1] = id end
  table.sort(out)
  call('HSET', where.customer, 'b:' .. block_id, table.concat(out, '\n'))
end

local function list_block(block_id)
  local listed = call('HGET', where.customer, 'blocks') or ''
  call('HSET', where.customer, 'blocks', listed .. '\n' .. block_id)
end

-- Forget that an id is a block; nothing happens to one that is none.
local function unlist_block(block_id)
  if call('HDEL', where.customer, 'b:' .. block_id) == 0 then return end
  local left = {}
  for id in (call('HGET', where.customer, 'blocks') or ''):gmatch('[^\n]+') do
    if id ~= block_id then left[#left + 1] = '\n' .. id end
  end
  if #left == 0 then
    call('HDEL', where.customer, 'blocks')
  else
    call('HSET', where.customer, 'blocks', table.concat(left))
  end
end
