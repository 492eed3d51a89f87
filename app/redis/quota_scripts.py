"""The Lua scripts that count what a user and a tenant use. `CREATE` and `COMMIT` count the rest."""

from app.redis.wire.script import Script

# Sums the bytes that are stored by the time at which they expire, and removes those that have expired.
SUM_STORED = """
local function sum_stored(stored_key, now_s)
  local total, first = 0, nil
  local fields = redis.call('HGETALL', stored_key)
  for i = 1, #fields, 2 do
    local ends = tonumber(fields[i])
    if ends <= now_s then
      redis.call('HDEL', stored_key, fields[i])
    else
      total = total + tonumber(fields[i + 1])
      if not first or ends < first then first = ends end
    end
  end
  return total, first
end
"""

# Counts a run that is about to wait for a person, unless `max_waiting` runs of the user wait already. Its score stays
# negative until the run goes on or ends. Returns 1, or 0 where there is no room.
RESERVE_WAIT = Script(
    """
local score = redis.call('ZSCORE', active_key, session_id)
if not score or tonumber(score) >= 0 then
  if redis.call('ZCOUNT', active_key, '-inf', '(-' .. now_ms) >= tonumber(max_waiting) then return 0 end
end
redis.call('ZADD', active_key, 'XX', '-' .. until_ms, session_id)
return 1
""",
    keys=("active_key",),
    args=("session_id", "now_ms", "until_ms", "max_waiting"),
)

# Lists a run with its tenant. With `max_per_minute` above 0 a run beyond it is not listed. Returns the number of runs
# of the last minute, and the seconds until there is room for this one, 0 where there is.
LIST_OF_TENANT = Script(
    """
redis.call('ZADD', tenant_key, now_ms, session_id)
redis.call('ZREMRANGEBYSCORE', tenant_key, '-inf', oldest_ms)
redis.call('EXPIRE', tenant_key, ttl * 2)
local since, max = '(' .. (now_ms - 60000), tonumber(max_per_minute)
local count = redis.call('ZCOUNT', tenant_key, since, '+inf')
if max == 0 or count <= max then return {count, 0} end
redis.call('ZREM', tenant_key, session_id)
local nth = redis.call('ZREVRANGEBYSCORE', tenant_key, '+inf', since, 'WITHSCORES', 'LIMIT', max - 1, 1)
return {count - 1, math.ceil((nth[2] + 60000 - now_ms) / 1000)}
""",
    keys=("tenant_key",),
    args=("session_id", "now_ms", "oldest_ms", "ttl", "max_per_minute"),
)

# Changes how many bytes of a tenant expire when; the further arguments are pairs of a time (Unix s) and a difference.
# Returns the sum of the bytes that are stored then, and the time at which the first of them expire, 0 for none.
COUNT_STORED = Script(
    SUM_STORED
    + """
for i = changes_start, #ARGV, 2 do redis.call('HINCRBY', stored_key, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', stored_key, ttl * 2)
local total, first = sum_stored(stored_key, tonumber(now_s))
return {total, first or 0}
""",
    keys=("stored_key",),
    args=("now_s", "ttl"),
    rest="changes_start",
)
