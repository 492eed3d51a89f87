"""The Lua scripts of the log of domain events."""

from app.redis.wire.script import Script

# Appends an event, unless the log has its id already: then it returns 0. The size of the log is what Redis reports for
# the stream, vectors included. If it is too large, as many of the oldest events are deleted as hold the excess if all
# events are of equal size; if they are not, the next call deletes more. A score in `seen_key` is the position of the
# entry of the event (ms plus sequence / 1024), so that the log can be trimmed to the first event in `seen_key` even if
# several events share a millisecond. Entries beyond the 1024th of a millisecond, and entries of releases that stored
# whole milliseconds, are deleted with the last one of their millisecond.
ACCEPT = Script(
    """
if redis.call('ZSCORE', seen_key, event_id) then return 0 end
local ms, sequence = string.match(redis.call('XADD', log_key, '*', 'e', event, 'a', audience), '(%d+)-(%d+)')
redis.call('ZADD', seen_key, string.format('%.17g', ms + math.min(sequence, 1023) / 1024), event_id)
redis.call('ZREMRANGEBYSCORE', seen_key, '-inf', string.format('(%.0f', tonumber(ms) - tonumber(retention_ms)))
local count, bytes = redis.call('ZCARD', seen_key), redis.call('MEMORY', 'USAGE', log_key)
local excess = math.max(count - tonumber(max_events), math.floor(count * (1 - tonumber(max_bytes) / bytes)))
if excess > 0 then redis.call('ZREMRANGEBYRANK', seen_key, 0, excess - 1) end
local first = tonumber(redis.call('ZRANGE', seen_key, 0, 0, 'WITHSCORES')[2])
redis.call('XTRIM', log_key, 'MINID', string.format('%.0f-%.0f', math.floor(first), first % 1 * 1024))
redis.call('PEXPIRE', log_key, retention_ms)
redis.call('PEXPIRE', seen_key, retention_ms)
redis.call('PUBLISH', channel, tenant_id)
return 1
""",
    keys=("log_key", "seen_key"),
    args=("event_id", "event", "audience", "max_events", "retention_ms", "channel", "tenant_id", "max_bytes"),
)

# Appends the vectors of events that the log still has. The rest are pairs of an event id and a vector.
SAVE_VECTORS = Script(
    """
for i = pairs_start, #ARGV, 2 do
  if redis.call('ZSCORE', seen_key, ARGV[i]) then
    redis.call('XADD', log_key, '*', 'v', ARGV[i], 'm', model, 'b', ARGV[i + 1])
  end
end
redis.call('PUBLISH', channel, tenant_id)
return 1
""",
    keys=("log_key", "seen_key"),
    args=("channel", "tenant_id", "model"),
    rest="pairs_start",
)

# Counts a malformed message by its reason, unless the mark exists: then another process has counted it.
COUNT_MALFORMED = Script(
    """
if redis.call('SET', mark_key, '', 'NX', 'EX', mark_seconds) then redis.call('HINCRBY', counters_key, reason, 1) end
return 1
""",
    keys=("counters_key", "mark_key"),
    args=("reason", "mark_seconds"),
)

# Acquires or renews the lease of the leader. Returns 0 where another node has it.
ACQUIRE_LEADERSHIP = Script(
    """
local found = redis.call('GET', leader_key)
if found and found ~= node_id then return 0 end
redis.call('SET', leader_key, node_id, 'PX', lease_ms)
return 1
""",
    keys=("leader_key",),
    args=("node_id", "lease_ms"),
)
