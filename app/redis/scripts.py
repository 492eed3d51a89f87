"""The Lua scripts: every change of more than one key is one of these, so it happens whole or not at all.

Each can be sent twice: a repeated write whose answer was lost is recognised and answered as the first time. The first
write of each is one that a server without memory refuses, so that it then does nothing rather than half.
"""

# Appends bodies (ARGV from `first` on) to the log, with ids that rise within the user (§3), and one wake-up for all.
_APPEND = """
local function append(events, ids, channel, now, ttl, first)
  local id = tonumber(now)
  local last = tonumber(redis.call('GET', ids) or '0')
  if last >= id then id = last + 1 end
  local base = string.format('%.0f', id)
  for i = first, #ARGV do
    last = string.format('%.0f', id)
    redis.call('XADD', events, last .. '-0', 'b', ARGV[i])
    id = id + 1
  end
  if #ARGV >= first then
    redis.call('SET', ids, last, 'EX', ttl)
    redis.call('EXPIRE', events, ttl)
    redis.call('PUBLISH', channel, last)
  end
  return base
end
"""

# KEYS run events checkpoint ids index active idempotency thread ticket
# ARGV 1 token, 2 session, 3 now_ms, 4 ttl, 5 checkpoint, 6 owner, 7 user, 8 tenant, 9 prompt digest,
#      10 idempotent (0|1), 11 most runs (0: any), 12 drop index entries below, 13 wake channel, 14 in a thread (0|1),
#      15 ticket ('' for none), 16 its ttl in ms, 17… bodies
CREATE = (
    _APPEND
    + """
local found = redis.call('HMGET', KEYS[1], 'token', 'base')
if found[1] then
  if found[1] == ARGV[1] then return {'OK', found[2]} end
  return {'EXISTS'}
end
if ARGV[10] == '1' then
  local first = redis.call('GET', KEYS[7])
  if first then return {'SAME', first} end
end
if tonumber(ARGV[11]) > 0 and redis.call('ZCOUNT', KEYS[6], '(' .. ARGV[12], '+inf') >= tonumber(ARGV[11]) then
  return {'FULL'}
end
local ttl = ARGV[4]
local base = append(KEYS[2], KEYS[4], ARGV[13], ARGV[3], ttl, 17)
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'epoch', 1, 'seq', 0, 'base', base, 'final', 0, 'owner', ARGV[6],
  'user', ARGV[7], 'tenant', ARGV[8], 'prompt', ARGV[9])
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('SET', KEYS[3], ARGV[5], 'EX', ttl)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[12])
redis.call('ZADD', KEYS[5], base, ARGV[2])
redis.call('EXPIRE', KEYS[5], ttl * 2)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', ARGV[12])
redis.call('ZADD', KEYS[6], base, ARGV[2])
redis.call('EXPIRE', KEYS[6], ttl * 2)
if ARGV[14] == '1' then
  redis.call('ZADD', KEYS[8], base, ARGV[2])
  redis.call('EXPIRE', KEYS[8], ttl * 2)
end
if ARGV[10] == '1' then redis.call('SET', KEYS[7], ARGV[2] .. ' ' .. ARGV[9], 'EX', ttl) end
if ARGV[15] ~= '' then redis.call('SET', KEYS[9], ARGV[15], 'PX', ARGV[16]) end
return {'OK', base}
"""
)

# KEYS run events checkpoint ids, with a checkpoint also index active
# ARGV 1 epoch, 2 sequence, 3 now_ms, 4 ttl, 5 checkpoint ('' keeps the old one), 6 final (0|1), 7 session,
#      8 wake channel, 9… bodies
COMMIT = (
    _APPEND
    + """
local run = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'base', 'cancelled_by')
if not run[1] then return {'GONE'} end
if run[1] ~= ARGV[1] then return {'FENCED'} end
if run[2] == ARGV[2] then return {'OK', run[3], run[4]} end
if tonumber(run[2]) < tonumber(ARGV[2]) - 1 then return {'BEHIND', run[2]} end
if tonumber(run[2]) ~= tonumber(ARGV[2]) - 1 then return {'FENCED'} end
local ttl = ARGV[4]
local base = append(KEYS[2], KEYS[4], ARGV[8], ARGV[3], ttl, 9)
redis.call('HSET', KEYS[1], 'seq', ARGV[2], 'base', base)
if ARGV[5] ~= '' then
  redis.call('SET', KEYS[3], ARGV[5], 'EX', ttl)
  redis.call('EXPIRE', KEYS[5], ttl * 2)
else
  redis.call('EXPIRE', KEYS[3], ttl)
end
redis.call('EXPIRE', KEYS[1], ttl)
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'final', 1)
  redis.call('ZREM', KEYS[6], ARGV[7])
end
return {'OK', base, run[4]}
"""
)

# KEYS run · ARGV 1 ttl. Where there is no run, a mark in its place that makes a CREATE still on its way fail.
FORBID = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'token', '')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""

# KEYS run · ARGV 1 who asks for the end. Answers the owner; the run hears of it at its next commit at the latest.
CANCEL = """
local run = redis.call('HMGET', KEYS[1], 'owner', 'final')
if not run[1] then return {'GONE'} end
if run[2] == '1' then return {'FINAL'} end
redis.call('HSET', KEYS[1], 'cancelled_by', ARGV[1])
return {'OK', run[1]}
"""

# KEYS run · ARGV 1 the node that lost it, 2 the node that takes it
CLAIM = """
local run = redis.call('HMGET', KEYS[1], 'owner', 'final', 'epoch', 'seq', 'cancelled_by')
if not run[1] then return {'GONE'} end
if run[2] == '1' then return {'FINAL'} end
if run[1] == ARGV[2] then return {'OK', run[3], run[4], run[5]} end
if run[1] ~= ARGV[1] then return {'TAKEN'} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
return {'OK', tostring(epoch), run[4], run[5]}
"""

# KEYS run · ARGV 1 the node that leaves it, 2 its epoch, 3 the name under which it waits for the next
RELEASE = """
local run = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if run[1] == ARGV[1] and run[2] == ARGV[2] then redis.call('HSET', KEYS[1], 'owner', ARGV[3]) end
"""

# KEYS nodes · ARGV 1 node, 2 lease ms (0: give it up), 3 renew only (0|1). Answers whether the node is alive.
# A server without memory refuses a ZADD, unless the script has written before: the lease must not end for that.
LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[3] == '1' and (not ends or tonumber(ends) <= now) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
return 1
"""

# KEYS nodes · the nodes whose lease has ended
DEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
"""

# KEYS request · ARGV 1 the value it must have, 2 its new value. Answers the value that counts.
SWAP = """
local found = redis.call('GET', KEYS[1])
if found == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
  return ARGV[2]
end
return found
"""

# KEYS run · ARGV 1 field, 2 value: what is noted of the run's task. The first one counts, whoever notes a second.
NOTE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return ARGV[2] end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1])
"""

# KEYS tasks · ARGV 1 now ms, 2 the time until which they are held (ms), 3 how many
DUE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, session in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], session) end
return due
"""
