#!lua name=kmsgate
-- kmsgate's replay memory in Redis 7: which signed requests were accepted, for all gateways of a fleet.
--
-- {kmsgate}:epoch    "2 OWNER FLOOR WINDOW FUTURE MARK LAST SEEN", times in ms. OWNER: this server's process and
--                    replication ID, so a restart and every promotion make another; behind them, where keys were
--                    evicted, how many before the epoch. MARK: whose secret keys the members.
--                    LAST: about when this server last answered gateways; SEEN: the latest time on its clock.
-- {kmsgate}:walls    "BEFORE LATEST", in ms: of Times without a zone, what stands in them, read as UTC. Before BEFORE
--                    they are refused; LATEST: about the latest that was accepted.
-- {kmsgate}:USER     a sorted set of the requests that a user had accepted, by when each may be forgotten.
--
-- Whatever a server accepted has a Time of at most its gateway's now + future, that gateway's now is within D of the
-- server's, and two servers' are within 2D. So whoever cannot know what was accepted before (another owner, no record,
-- a clock that went back, gateways that take more than the record says) refuses each Time before now + future + 3D.
--
-- A server of another policy than noeviction forgets users whole. One whose set is there was not forgotten since it was
-- made; so it is enough to look at how many keys were evicted when a set is made.
--
-- A Time without a zone is another one when gateways are given rules of a zone further west: hours later it is as good
-- as new, and no floor is in its way. So a new epoch also refuses each that is no later than those that were accepted,
-- by the record, and by what each gateway knows of those that it asked for.
--
-- All state is in the records: a newer version of this library takes over without a new epoch. It has to take what
-- older gateways send, and to keep the records' form. (No version before 2 was released.)
local VERSION = 3
local EPOCH_FORM = '^2 (%x+) (%d+) (%d+) (%d+) (%x+) (%d+) (%d+)$'
local DONE, APART, FOREIGN = 0, 1, 2
local OK, SEEN, FULL, EARLY = 0, 1, 2, 3
local WALLS_FORM = '^(%d+) (%d+)$'
local HEAD, EACH = 7, 4 -- arguments: of all requests together, of each
local PURGE_EACH = 64
local NAME = 80
local process = nil -- of this server; a new process begins with an empty library
local evictions = nil -- how many, as far as this call has asked
local known = nil   -- the record as it was read last, taken apart

local function name()
  process = process or string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  return process .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- As it stands behind an owner's name: nothing where there were none.
local function evicted()
  evictions = evictions or string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)')
  return evictions == '0' and '' or evictions
end

local function read(key)
  local text = redis.call('GET', key)
  if not text then return nil end
  if known and known.text == text then return known end
  local owner, floor, window, future, mark, last, seen = string.match(text, EPOCH_FORM)
  if not owner and string.match(text, '^1 ') then return nil end -- before version 2 users had other names
  if not owner then error('the epoch is not one of kmsgate') end
  known = {text = text, owner = owner, floor = tonumber(floor), window = tonumber(window), future = tonumber(future),
           mark = mark, last = tonumber(last), seen = tonumber(seen)}
  return known
end

local function write(key, e)
  redis.call('SET', key, string.format('2 %s %.0f %.0f %.0f %s %.0f %.0f', e.owner, e.floor, e.window, e.future, e.mark,
                                       e.last, e.seen))
end

local function read_walls(key)
  local text = redis.call('GET', key)
  if not text then return {before = 0, latest = 0} end
  local before, latest = string.match(text, WALLS_FORM)
  if not before then error('the walls are not those of kmsgate') end
  return {before = tonumber(before), latest = tonumber(latest)}
end

local function write_walls(key, w)
  redis.call('SET', key, string.format('%.0f %.0f', w.before, w.latest))
end

-- To `to`; without it, to just after the latest that was accepted.
local function raise_walls(key, to)
  local w = read_walls(key)
  to = to or (w.latest > 0 and w.latest + 1 or 0)
  if to > w.before then
    w.before = to
    write_walls(key, w)
  end
end

-- A new one, after `e`.
local function open(key, walls, e, ask, owner, apart)
  -- it is written each second: what was accepted may be of a second later
  local from = e.last > ask.now and e.last + 1000 or ask.now
  local future = math.max(e.future, ask.future)
  local new = {owner = owner .. evicted(), floor = math.max(e.floor, from + future + 3 * ask.d),
               window = math.max(e.window, ask.window), future = future, mark = ask.mark, last = e.last, seen = ask.now}
  if not apart then new.last = math.max(new.last, ask.now) end
  raise_walls(walls)
  write(key, new)
  return new
end

-- The epoch that holds, opened where the one before cannot. ask: now, window, future, d, mark.
local function epoch(key, walls, ask)
  local e, owner = read(key), name()
  if e and e.mark ~= ask.mark then return e, FOREIGN end
  local apart = math.abs(ask.now - ask.gateway) > ask.d
  if not e then e = {owner = '', floor = 0, window = 0, future = 0, mark = ask.mark, last = 0, seen = 0} end
  local back = ask.now < e.seen - ask.d
  if owner ~= string.sub(e.owner, 1, NAME) or ask.window > e.window or ask.future > e.future or back then
    e = open(key, walls, e, ask, owner, apart)
  elseif ask.now - e.seen >= 1000 or (not apart and ask.now - e.last >= 1000) then
    e.seen = math.max(e.seen, ask.now)
    if not apart then e.last = math.max(e.last, ask.now) end
    known = nil
    write(key, e)
  end
  return e, apart and APART or DONE
end

-- One request: `earliest`, or nil, is held against the floor; it is remembered until `latest`, or nil, has left the
-- window. early: it is refused, unless it is known.
local function spend(e, now, max, user, member, earliest, latest, early)
  if not latest or latest < e.floor then latest = math.max(now, e.floor) end
  local ends = latest + e.window
  if early or (earliest and earliest < e.floor) or ends <= now then
    return redis.call('ZSCORE', user, member) and SEEN or EARLY
  end
  if redis.call('ZADD', user, 'NX', ends, member) == 0 then return SEEN end
  local n = redis.call('ZCARD', user)
  if n == 1 and evicted() ~= string.sub(e.owner, NAME + 1) then
    redis.call('ZREM', user, member)
    e.forgets = true
    return EARLY
  end
  if n > max or n % PURGE_EACH == 0 then
    n = n - redis.call('ZREMRANGEBYSCORE', user, '-inf', now)
    if n > max then
      redis.call('ZREM', user, member)
      return FULL
    end
  end
  if n == 1 then
    redis.call('PEXPIREAT', user, ends)
  else
    redis.call('PEXPIREAT', user, ends, 'GT')
  end
  return OK
end

-- FCALL kmsgate_spend 2+N EPOCH WALLS USER... GATEWAY-NOW WINDOW FUTURE D MAX MARK BEFORE
--                     (MEMBER EARLIEST LATEST WALL)...
-- Times and durations in ms; EARLIEST, LATEST and WALL may be empty. BEFORE: what the gateway knows from before the
-- epoch that it was told of last. N may be 0: then it only says how things stand.
-- {status, now, floor, verdict...}; without verdicts where status is not DONE.
local function all(keys, a)
  if #a ~= HEAD + EACH * (#keys - 2) then error('the gateway is of another version') end
  local t = redis.call('TIME')
  evictions = nil
  local ask = {now = t[1] * 1000 + math.floor(t[2] / 1000), gateway = tonumber(a[1]), window = tonumber(a[2]),
               future = tonumber(a[3]), d = tonumber(a[4]), mark = a[6]}
  local e, status = epoch(keys[1], keys[2], ask)
  local before = tonumber(a[7])
  if status ~= FOREIGN and before > 0 then raise_walls(keys[2], before) end
  local answer = {status, ask.now, e.floor}
  if status ~= DONE then return answer end
  local max, w, latest = tonumber(a[5]), nil, nil
  for i = 3, #keys do
    local at = HEAD + 1 + EACH * (i - 3)
    local wall = tonumber(a[at + 3])
    if wall and not w then
      w = read_walls(keys[2])
      latest = w.latest
    end
    local verdict = spend(e, ask.now, max, keys[i], a[at], tonumber(a[at + 1]), tonumber(a[at + 2]),
                          wall and wall < w.before)
    if wall and verdict == OK and wall > w.latest then w.latest = wall + 1000 end -- so it is written once a second
    answer[i + 1] = verdict
  end
  if w and w.latest > latest then write_walls(keys[2], w) end
  if e.forgets then answer[3] = open(keys[1], keys[2], e, ask, name(), false).floor end
  return answer
end

-- FCALL kmsgate_forget 1 USER MEMBER: nothing came of it.
local function forget(keys, a)
  return redis.call('ZREM', keys[1], a[1])
end

-- FCALL kmsgate_probe 1 KEY: all that the others do to a user's set, so that rights that lack are found before they are
-- due. Leaves nothing.
local function probe(keys, a)
  redis.call('ZADD', keys[1], 'NX', 1, 'probe')
  redis.call('PEXPIREAT', keys[1], 1, 'GT')
  redis.call('ZSCORE', keys[1], 'probe')
  redis.call('ZCARD', keys[1])
  redis.call('ZREM', keys[1], 'probe')
  return redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', 1)
end

redis.register_function('kmsgate_spend', all)
redis.register_function('kmsgate_probe', probe)
redis.register_function('kmsgate_forget', forget)
redis.register_function{function_name = 'kmsgate_version', callback = function() return VERSION end,
                        flags = {'no-writes', 'allow-stale'}}
