"""The Lua scripts. Every change of more than one key is one of them, so that it happens completely or not at all.

Each can be sent twice: a repeated write whose reply was lost is recognised and gets the reply of the first one. A
server without memory refuses the first write of a script, but not the later ones; so each begins with a write that such
a server refuses, and then nothing is changed.
"""

from app.redis.quota_scripts import SUM_STORED
from app.redis.wire.script import Script

# Appends one entry with `event_count` events to the log. Their ids follow each other and rise within all runs of the
# user (CONTRACT §3); the id of the first one is that of the entry. One wake-up is published for all of them, with
# `wake_command`; a server that refuses it has stored the events all the same, and readers find them when they poll.
# Returns the ids of the first and the last event; without events the id that the first one would have.
_APPEND = """
local function append_entry()
  local id = tonumber(now_ms)
  local known = redis.pcall('GET', ids_key)
  local last_id = type(known) == 'string' and tonumber(known)
  -- Others may have written something else there; it must not keep a run from ending.
  if not last_id or not (last_id >= 0 and last_id < 9007199254740991) then last_id = 0 end
  if last_id >= id then id = last_id + 1 end
  local first_id = string.format('%.0f', id)
  local count = tonumber(event_count)
  if count == 0 then return first_id end
  last_id = string.format('%.0f', id + count - 1)
  redis.call('XADD', events_key, first_id .. '-0', 'b', entry)
  redis.call('SET', ids_key, last_id, 'EX', ttl)
  redis.call('EXPIRE', events_key, ttl)
  redis.pcall(wake_command, wake_channel, last_id)
  return first_id, last_id
end
"""

# Redis allocates 4 KiB for the first entries of a stream, and gives back what they do not need when an entry comes that
# has no room beside them (`stream-node-max-bytes`). So an entry of that size is added and removed again; afterwards the
# memory grows with each entry by what that needs. Its id is before that of the next event.
_SHRINK = """
local function shrink_log(last_id)
  redis.call('XADD', events_key, last_id .. '-1', 'b', string.rep(' ', 4096))
  redis.call('XDEL', events_key, last_id .. '-1')
end
"""

# Creates a run with its first events. `ttl` is in seconds, `ticket_ttl_ms` in ms. `has_idempotency_key` and
# `is_in_thread` are 0 or 1. `max_runs`, `max_per_minute` and `max_stored` are the quotas of the user, 0 for no limit.
# `stored_until` is the time (Unix s) at which the run's bytes expire, '' where they are not counted. `ticket` is ''
# where there is none. Index entries with a score up to `oldest_ms` are removed: the data of those runs has expired.
# Returns {'OK', id of the first event}; {'EXISTS'} where another creation has the session id; {'SAME', stored value}
# where the idempotency key was used before; or {'FULL', 'minute', 'active' or 'stored', seconds until there is room}.
CREATE = Script(
    _APPEND
    + _SHRINK
    + SUM_STORED
    + """
local found = redis.call('HMGET', run_key, 'token', 'base')
if found[1] then
  if found[1] == token then return {'OK', found[2]} end
  return {'EXISTS'}
end
if tonumber(idempotency_ttl) > 0 then
  local first = redis.call('GET', idempotency_key)
  if first then return {'SAME', first} end
end
if tonumber(max_per_minute) > 0 then
  local nth = redis.call('ZREVRANGEBYSCORE', runs_key, '+inf', '(' .. (now_ms - 60000), 'WITHSCORES',
    'LIMIT', max_per_minute - 1, 1)
  if nth[2] then return {'FULL', 'minute', tostring(math.ceil((nth[2] + 60000 - now_ms) / 1000))} end
end
if tonumber(max_runs) > 0 then
  local waiting = redis.call('ZCOUNT', active_key, '-inf', '(-' .. now_ms)
  local active = redis.call('ZCOUNT', active_key, '(' .. oldest_ms, '+inf')
  if waiting + active >= tonumber(max_runs) then return {'FULL', 'active', '5'} end
end
if tonumber(max_stored) > 0 then
  local now_s = math.floor(now_ms / 1000)
  local total, first = sum_stored(stored_key, now_s)
  if first and total >= tonumber(max_stored) then return {'FULL', 'stored', tostring(first - now_s)} end
end
local first_id, last_id = append_entry()
redis.call('HSET', run_key, 'token', token, 'epoch', 1, 'seq', 0, 'base', first_id, 'final', 0, 'owner', owner,
  'user', user_id, 'tenant', tenant_id, 'prompt', prompt_digest)
if stored_until ~= '' then
  redis.call('HSET', run_key, 'bytes', #entry, 'counted', #entry + #checkpoint, 'until', stored_until)
  redis.call('HINCRBY', stored_key, stored_until, #entry + #checkpoint)
  redis.call('EXPIRE', stored_key, ttl * 2)
end
redis.call('EXPIRE', run_key, ttl)
redis.call('SET', checkpoint_key, checkpoint, 'EX', ttl)
redis.call('SET', summary_key, summary, 'EX', ttl)
redis.call('ZREMRANGEBYSCORE', runs_key, '-inf', oldest_ms)
redis.call('ZADD', runs_key, first_id, session_id)
redis.call('EXPIRE', runs_key, ttl * 2)
redis.call('ZREMRANGEBYSCORE', active_key, '-' .. oldest_ms, oldest_ms)
redis.call('ZADD', active_key, first_id, session_id)
redis.call('EXPIRE', active_key, ttl * 2)
if is_in_thread == '1' then
  redis.call('ZADD', thread_key, first_id, session_id)
  redis.call('EXPIRE', thread_key, ttl * 2)
end
if tonumber(idempotency_ttl) > 0 then
  redis.call('SET', idempotency_key, session_id .. ' ' .. request_digest, 'EX', idempotency_ttl)
end
if ticket ~= '' then redis.call('SET', ticket_key, ticket, 'PX', ticket_ttl_ms) end
shrink_log(last_id)
return {'OK', first_id}
""",
    keys=(
        "run_key",
        "events_key",
        "checkpoint_key",
        "summary_key",
        "ids_key",
        "runs_key",
        "active_key",
        "stored_key",
        "idempotency_key",
        "thread_key",
        "ticket_key",
    ),
    args=(
        "token",
        "session_id",
        "now_ms",
        "ttl",
        "event_count",
        "entry",
        "checkpoint",
        "summary",
        "stored_until",
        "owner",
        "user_id",
        "tenant_id",
        "prompt_digest",
        "request_digest",
        "idempotency_ttl",
        "max_runs",
        "max_per_minute",
        "max_stored",
        "oldest_ms",
        "wake_command",
        "wake_channel",
        "is_in_thread",
        "ticket",
        "ticket_ttl_ms",
    ),
)

# Appends events and saves the checkpoint, for the owner of the run with this epoch. `sequence` numbers the commits of a
# run: a repeated commit is recognised by it. `checkpoint` is '' where the stored one stays; then the optional keys are
# None. `is_final` is 0 or 1. `waits_until` is the deadline (ms) of a run that waits for a person, 0 for any other one.
# `stored_until` is the time (Unix s) at which the run's bytes expire, '' where they are not counted.
# Returns {'OK', id of the first event, who requested the cancellation or false}, and where bytes were counted also the
# former expiry and number of bytes, and the new number; {'GONE'} where the run does not exist; {'FENCED'} where another
# owner has the run or has committed; or {'BEHIND', sequence} where earlier commits are lost.
COMMIT = Script(
    _APPEND
    + """
local run = redis.call('HMGET', run_key, 'epoch', 'seq', 'base', 'cancelled_by', 'bytes', 'counted', 'until')
if not run[1] then return {'GONE'} end
if run[1] ~= epoch then return {'FENCED'} end
if run[2] == sequence then return {'OK', run[3], run[4]} end
if tonumber(run[2]) < tonumber(sequence) - 1 then return {'BEHIND', run[2]} end
if tonumber(run[2]) ~= tonumber(sequence) - 1 then return {'FENCED'} end
local first_id = append_entry()
redis.call('HSET', run_key, 'seq', sequence, 'base', first_id)
local reply = {'OK', first_id, run[4]}
if stored_until ~= '' then
  local bytes = tonumber(run[5] or '0') + #entry
  redis.call('HSET', run_key, 'bytes', bytes)
  if checkpoint ~= '' then
    local size, former = bytes + #checkpoint, tonumber(run[6] or '0')
    if former ~= 0 then redis.call('HINCRBY', stored_key, run[7], -former) end
    redis.call('HINCRBY', stored_key, stored_until, size)
    redis.call('HSET', run_key, 'counted', size, 'until', stored_until)
    redis.call('EXPIRE', stored_key, ttl * 2)
    reply[4], reply[5], reply[6] = run[7] or stored_until, tostring(former), tostring(size)
  end
end
if checkpoint ~= '' then
  redis.call('SET', checkpoint_key, checkpoint, 'EX', ttl)
  redis.call('SET', summary_key, summary, 'EX', ttl)
  redis.call('EXPIRE', runs_key, ttl * 2)
  if waits_until ~= '0' then
    redis.call('ZADD', active_key, 'XX', '-' .. waits_until, session_id)
  elseif tonumber(redis.call('ZSCORE', active_key, session_id) or '0') < 0 then
    redis.call('ZADD', active_key, 'XX', now_ms, session_id)
  end
else
  redis.call('EXPIRE', checkpoint_key, ttl)
  redis.call('EXPIRE', summary_key, ttl)
end
redis.call('EXPIRE', run_key, ttl)
if is_final == '1' then
  redis.call('HSET', run_key, 'final', 1)
  redis.call('ZREM', active_key, session_id)
end
return reply
""",
    keys=("run_key", "events_key", "checkpoint_key", "summary_key", "ids_key"),
    optional_keys=("runs_key", "active_key", "stored_key"),
    args=(
        "epoch",
        "sequence",
        "now_ms",
        "ttl",
        "event_count",
        "entry",
        "checkpoint",
        "summary",
        "is_final",
        "waits_until",
        "stored_until",
        "session_id",
        "wake_command",
        "wake_channel",
    ),
)

PREVENTION_SECONDS = 600
"""For how long the creation of a run is prevented: longer than a request can be delayed on its way to Redis."""

# Prevents the creation of a run that does not exist: the key of the run gets a value that makes a delayed CREATE fail.
# Returns 1, or 0 where the run exists.
PREVENT = Script(
    """
if redis.call('EXISTS', run_key) == 1 then return 0 end
redis.call('HSET', run_key, 'token', '')
redis.call('EXPIRE', run_key, ttl)
return 1
""",
    keys=("run_key",),
    args=("ttl",),
)

# Records who requested the cancellation of a run; its owner reads that with its next commit at the latest.
# Returns {'OK', owner}, {'GONE'} or {'FINAL'}.
CANCEL = Script(
    """
local run = redis.call('HMGET', run_key, 'owner', 'final')
if not run[1] then return {'GONE'} end
if run[2] == '1' then return {'FINAL'} end
redis.call('HSET', run_key, 'cancelled_by', cancelled_by)
return {'OK', run[1]}
""",
    keys=("run_key",),
    args=("cancelled_by",),
)

# Changes the owner of a run from a dead node to this one, and raises the epoch, so that the old owner is fenced. Where
# another one has the run, or there is none, the caller removes it from the list of the dead node; that node may be
# suspended while it creates or claims the run, and must not succeed any more: the run would be listed nowhere.
# `releasing_owner` is the node that hands the run over to `dead_owner`, else the same as that.
# Returns {'OK', epoch, sequence, who requested the cancellation or false}, {'GONE'}, {'FINAL'}, {'TAKEN'}, or
# {'BARRED'}: this node itself was dead after it had listed the run, or the run is just being handed over.
CLAIM = Script(
    """
local run = redis.call('HMGET', run_key, 'owner', 'final', 'epoch', 'seq', 'cancelled_by', 'barred')
if not run[1] then
  redis.call('HSET', run_key, 'token', '')
  redis.call('EXPIRE', run_key, prevention_ttl)
  return {'GONE'}
end
if run[2] == '1' then return {'FINAL'} end
if run[1] == new_owner then return {'OK', run[3], run[4], run[5]} end
local barred = (run[6] or '') .. ' '
if string.find(barred, ' ' .. new_owner .. ' ', 1, true) then return {'BARRED'} end
if run[1] ~= dead_owner then
  if run[1] == releasing_owner then return {'BARRED'} end
  if not string.find(barred, ' ' .. dead_owner .. ' ', 1, true) then
    redis.call('HSET', run_key, 'barred', barred .. dead_owner)
  end
  return {'TAKEN'}
end
local epoch = redis.call('HINCRBY', run_key, 'epoch', 1)
redis.call('HSET', run_key, 'owner', new_owner)
return {'OK', tostring(epoch), run[4], run[5]}
""",
    keys=("run_key",),
    args=("dead_owner", "releasing_owner", "new_owner", "prevention_ttl"),
)

# Gives a run to `new_owner`, which is never alive, unless another node owns it already. Returns 1 where it has the run
# now, else 0: another node has it, or its creation is still under way.
RELEASE = Script(
    """
local run = redis.call('HMGET', run_key, 'owner', 'epoch')
if run[1] == old_owner and run[2] == epoch then redis.call('HSET', run_key, 'owner', new_owner) end
if run[1] == new_owner or (run[1] == old_owner and run[2] == epoch) then return 1 end
return 0
""",
    keys=("run_key",),
    args=("old_owner", "epoch", "new_owner"),
)

# Acquires or renews the lease of a node; `lease_ms` 0 ends it. With `renew_only` 1 an ended lease stays ended. Returns
# whether the node has a lease. A server without memory refuses a ZADD unless the script has written before; the ZREM
# before it keeps the lease from ending for that reason.
LEASE = Script(
    """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local ends_ms = redis.call('ZSCORE', nodes_key, node_id)
if renew_only == '1' and (not ends_ms or tonumber(ends_ms) <= now_ms) then return 0 end
redis.call('ZREM', nodes_key, node_id)
redis.call('ZADD', nodes_key, string.format('%.0f', now_ms + lease_ms), node_id)
return 1
""",
    keys=("nodes_key",),
    args=("node_id", "lease_ms", "renew_only"),
)

# Returns the nodes whose lease has ended.
DEAD = Script(
    """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', nodes_key, '-inf', string.format('%.0f', now_ms))
""",
    keys=("nodes_key",),
)

# Compare-and-set. Returns the value that is stored then.
SWAP = Script(
    """
local found = redis.call('GET', value_key)
if found == expected then
  redis.call('SET', value_key, wanted, 'KEEPTTL')
  return wanted
end
return found
""",
    keys=("value_key",),
    args=("expected", "wanted"),
)

# Sets a field of a run unless it is set already. Returns the value that is stored then.
SET_ONCE = Script(
    """
if redis.call('EXISTS', run_key) == 0 then return value end
redis.call('HSETNX', run_key, field, value)
return redis.call('HGET', run_key, field)
""",
    keys=("run_key",),
    args=("field", "value"),
)

# Returns up to `max_count` runs of the outbox that are due, and makes them due again at `held_until_ms`.
CLAIM_DUE = Script(
    """
local due = redis.call('ZRANGEBYSCORE', tasks_key, '-inf', now_ms, 'LIMIT', 0, max_count)
for _, session_id in ipairs(due) do redis.call('ZADD', tasks_key, held_until_ms, session_id) end
return due
""",
    keys=("tasks_key",),
    args=("now_ms", "held_until_ms", "max_count"),
)
