-- Place a hold: everything it touches, or nothing.
-- KEYS: 1 customer, 2 shard, 3 done, 4 expiry, 5 open, 6 usage, 7 windows, 8 touched
-- ARGV: 1 hold id, 2 customer id, 3 amount, 4 fingerprint, 5 deadline ms, 6 ttl ms,
--   7 credential id or '', 8 generation, 9 facts revision, 10 credit required, 11 probe,
--   12 who pays: 0 an invoice, 1 credit, 2 credit first and an invoice after it; 13 terms,
--   14 count of invoice demands, then per demand: grace ms or '', minimum, except disputed, hard;
--   then count of parts, then per part: meter or '', amount (they sum up to the amount);
--   then count of counters, then per counter: field, hard, quantity, limit, and by its kind
--     q: window start ms, window end ms, 0
--     v: slice start ms, slice end ms, instant ms at which the slice leaves
--     l: ms that the limit is for, burst, 0
--     f: 0, 0, 0
--   at last who asks, or ''
-- Reply: status, instant, expires, epoch, seq, available (overdraft with it), standing, due since or '', due amount
--   or '', disputed, failed credit, then per counter: used, over, retry at ms or 0

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

-- 1. A known id repeats its answer.
if row[4] then
  local hold = read_hold(row[4])
  if not hold or hold.fingerprint ~= ARGV[4] or hold.amount ~= amount then
    return refuse('mismatch')
  end
  if not readable() or not expires then return refuse('out_of_bounds') end
  settle_standing()
  judge_again(takes, hold)
  -- Who is told of a hold again answers for it from now on: what an earlier try gives back, this
  -- one may have let pass.
  if asked_by ~= '' then
    call('HSET', customer, 'o:' .. id, asked_by)
    commit(shard, moment)
  end
  return answer('repeated', hold.decided, text(tonumber(expires)))
end
if call('HEXISTS', done, id) == 1 then return refuse('closed') end
if opened_for then return refuse('mismatch') end

-- 2. Nobody waits for the answer any more.
if moment.raw > tonumber(ARGV[5]) then return refuse('too_late') end

-- 3. What the caller knew still holds.
if not rev then return refuse('no_customer') end
if ARGV[7] ~= '' and not credential_holds(row[5], ARGV[8], moment.instant) then
  return refuse('unknown_credential')
end
if rev ~= ARGV[9] then return refuse('stale_facts') end
for _, take in ipairs(takes) do
  local kind = kind_of(take.field)
  if (kind == 'q' or kind == 'v') and (moment.instant < take.a or moment.instant >= take.b) then
    return refuse('window_moved')
  end
end
if not readable() then return refuse('out_of_bounds') end
settle_standing()

-- 4. Every demand is tried, so that the answer can name all that failed, with the numbers that it
-- failed by.
local had, denied = available(), ARGV[11] == '1'
-- Beyond what is spendable, or (where grants are scoped) beyond what overdraft may stand in for.
local fits = cmp(had, amount) >= 0
local pins, beyond, exposed = set_aside(book, parts, amount, prepaid)
if prepaid and not owing and exposed then fits = false end
local failed_credit = ARGV[10] == '1' and not fits
denied = denied or failed_credit
for _, demand in ipairs(demands) do
  if demand.hard and fails(demand) then denied = true end
end
for _, take in ipairs(takes) do
  if take.hard and take.over then denied = true end
end
if denied then return answer('denied', text(moment.instant), '0', had, failed_credit) end
if not book_fits(book) then
  book = open_book(row, names_before_book)
  return refuse('out_of_bounds')
end

-- 5. Write. Nothing below can fail: types and bounds were checked above.
local lines = write_takes(takes, moment.instant)
local expires_at = text(moment.instant + tonumber(ARGV[6]))
call('HSET', customer, 'h:' .. id, write_hold({
  decided = text(moment.instant), amount = amount, beyond = beyond,
  fingerprint = ARGV[4], lines = lines, pins = pins, terms = ARGV[13],
}))
call('ZADD', expiry, expires_at, id)
call('HSET', open, id, ARGV[2])
commit(shard, moment)
write_book(book, KEYS[6], moment)
return answer('placed', text(moment.instant), expires_at)
