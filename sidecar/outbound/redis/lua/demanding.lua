-- What a check demands of a customer, read from ARGV and judged by the customer's hash: the front of
-- `place` and `allot`, whose KEYS and ARGV are those that place.lua lists.

local customer, shard, done, expiry, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local asked_by = table.remove(ARGV)
local id, amount = ARGV[1], ARGV[3]

-- A key of the wrong type must fail here, before the first write.
local expires = call('ZSCORE', expiry, id)
local opened_for = call('HGET', open, id)
call('XLEN', KEYS[6])
call('ZCARD', where.windows)
local moment = moment_of(shard)

local names = { 'rev', 'standing', 'standing_until', 'h:' .. id, 'k:' .. ARGV[7],
  'due_since', 'due_nano', 'due_disputed', 'lost' }
local names_before_book = #names
name_book(names)
local names_before_takes = #names
local demands, position = {}, 15
for i = 1, tonumber(ARGV[14]) do
  demands[i] = {
    grace = ARGV[position], minimum = ARGV[position + 1],
    except_disputed = ARGV[position + 2] == '1', hard = ARGV[position + 3] == '1',
  }
  position = position + 4
end
local parts
parts, position = read_parts(position)
local takes = read_takes(position + 1)
name_takes(takes, names)
local row = call('HMGET', customer, unpack(names))
local rev, standing, till = row[1], row[2] or 'good', row[3] or ''
local due_since, due_nano, disputed = row[6] or '', row[7] or '', row[8] == '1'
local lost = row[9] or ''
local prepaid, owing, book = ARGV[12] ~= '0', ARGV[12] == '2', nil

-- What may still be set aside. Credit does not pay what a plan invoices: there it is the balance.
-- Where an invoice comes after it, it is the credit that is there.
local function available()
  if not book then return '0' end
  if owing then return free_credit(book, parts) end
  if prepaid then return spendable(book, parts) end
  return plus(book.avail, book.overdraft)
end

local function answer(status, instant, expires_at, had, failed_credit)
  local reply = {
    status, instant, expires_at, moment.epoch, text(moment.seq), had or available(), standing,
    due_since, due_nano, disputed and '1' or '0', failed_credit and '1' or '0',
  }
  for _, take in ipairs(takes) do
    reply[#reply + 1] = take.used
    reply[#reply + 1] = take.over and '1' or '0'
    reply[#reply + 1] = text(take.retry_at)
  end
  return reply
end

local function refuse(status)
  return answer(status, text(moment.instant), '0')
end

local function readable()
  book = open_book(row, names_before_book)
  if not book then return false end
  advance(book, moment.instant)
  return (standing == 'good' or standing == 'grace' or standing == 'delinquent')
    and (till == '' or tonumber(till) ~= nil)
    and (due_since == '' or sane(due_since)) and (due_nano == '' or sane(due_nano))
    and (lost == '' or tonumber(lost) ~= nil)
    and judge_takes(takes, row, names_before_takes, moment.instant, tonumber(lost))
end

-- Whether unpaid invoices refuse; in the words of InvoiceDemand.fails.
local function fails(demand)
  if disputed and demand.except_disputed then return false end
  if due_nano ~= '' and cmp(due_nano, demand.minimum) < 0 then return false end
  if demand.grace == '' or due_since == '' then return standing == 'delinquent' end
  return moment.instant >= tonumber(due_since) + tonumber(demand.grace)
end

local function settle_standing()
  if till ~= '' and moment.instant >= tonumber(till) then standing = 'good' end
end

-- Why nothing may be placed now, whatever the numbers are; or nil.
local function refusal()
  -- Nobody waits for the answer any more.
  if moment.raw > tonumber(ARGV[5]) then return 'too_late' end
  -- What the caller knew still holds.
  if not rev then return 'no_customer' end
  if ARGV[7] ~= '' and not credential_holds(row[5], ARGV[8], moment.instant) then
    return 'unknown_credential'
  end
  if rev ~= ARGV[9] then return 'stale_facts' end
  for _, take in ipairs(takes) do
    local kind = kind_of(take.field)
    if (kind == 'q' or kind == 'v') and (moment.instant < take.a or moment.instant >= take.b) then
      return 'window_moved'
    end
  end
  if not readable() then return 'out_of_bounds' end
  settle_standing()
  return nil
end

-- Set the amount aside and try every demand, so that the answer can name all that failed, with the
-- numbers that it failed by.
local function judge()
  local judged = { had = available() }
  -- Beyond what is spendable, or (where grants are scoped) beyond what overdraft may stand in for.
  local fits = cmp(judged.had, amount) >= 0
  local exposed
  judged.pins, judged.beyond, exposed = set_aside(book, parts, amount, prepaid)
  if prepaid and not owing and exposed then fits = false end
  judged.failed_credit = ARGV[10] == '1' and not fits
  judged.denied = ARGV[11] == '1' or judged.failed_credit
  for _, demand in ipairs(demands) do
    if demand.hard and fails(demand) then judged.denied, judged.unpaid = true, true end
  end
  for _, take in ipairs(takes) do
    if take.hard and take.over then judged.denied = true end
  end
  return judged
end
