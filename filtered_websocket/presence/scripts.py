"""
What Redis runs in one step, as Lua: version 6.2 and later, on one node of a cluster.

A group has three hashes, which end together, as all of them are in one slot and every call
that writes gives them the same end:

=======  =====================  ========================================================
key      field                  value
=======  =====================  ========================================================
leases   origin                 when its lease ends, ms of Redis' clock; 0: others remove
                                its entries
leases   ``#`` and origin       how many entries it has
leases   ``r``                  revision
users    user, as JSON          how many connections
entries  origin:connection      user and info: two lines of JSON
=======  =====================  ========================================================
"""

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the name by which Redis knows it once it has run."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


#: KEYS: leases, users, entries. ARGV: origin, lease, time until the keys end (both ms), most
#: entries to remove of ended leases, channel or "", the group's name on the layer, version;
#: then a connection and its entry (or "") for each change.
CHANGE = _script("""
local leases, users, entries = KEYS[1], KEYS[2], KEYS[3]
local origin, limit, channel = ARGV[1], tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local events = {}

local function number(value) return string.format('%.0f', value) end

local revision = tonumber(redis.call('HGET', leases, 'r'))
if not revision then
  -- A new group, or Redis has evicted one of the keys: the others say nothing then.
  redis.call('DEL', leases, users, entries)
  revision = time[1] * 1000000 + time[2]
end

local function note(kind, connection, packed, is_users)
  revision = revision + 1
  events[#events + 1] = {revision, kind, connection, packed, is_users and 1 or 0}
end

local function user_of(packed) return string.match(packed, '^[^\\n]*') end

local function put(field, connection, packed)
  redis.call('HSET', entries, field, packed)
  note('join', connection, packed, redis.call('HINCRBY', users, user_of(packed), 1) == 1)
end

local function remove(field, connection, packed)
  redis.call('HDEL', entries, field)
  local user = user_of(packed)
  local is_last = redis.call('HINCRBY', users, user, -1) <= 0
  if is_last then redis.call('HDEL', users, user) end
  note('leave', connection, packed, is_last)
end

local before = tonumber(redis.call('HGET', leases, '#' .. origin)) or 0
local count = before
for at = 8, #ARGV, 2 do
  local connection, packed = ARGV[at], ARGV[at + 1]
  local field = origin .. ':' .. connection
  local old = redis.call('HGET', entries, field)
  if old and old ~= packed then
    remove(field, connection, old)
    count = count - 1
  end
  if packed ~= '' and old ~= packed then
    put(field, connection, packed)
    count = count + 1
  end
end
if count > 0 then
  redis.call('HSET', leases, origin, number(now + ARGV[2]), '#' .. origin, count)
else
  redis.call('HDEL', leases, origin, '#' .. origin)
end

local has_more = 0
if limit > 0 then
  local all, counts, dead, total = redis.call('HGETALL', leases), {}, {}, 0
  for at = 1, #all, 2 do
    local name, value = all[at], tonumber(all[at + 1])
    if string.sub(name, 1, 1) == '#' then
      counts[string.sub(name, 2)] = value
      total = total + value
    elseif name ~= 'r' and value <= now then
      dead[#dead + 1] = name
    end
  end
  if total ~= redis.call('HLEN', entries)
      or (total > 0 and redis.call('EXISTS', users) == 0) then
    -- Evicted: all begin again, as each process finds another count than its own.
    redis.call('DEL', leases, users, entries)
    return {-1, 0, number(revision), {}, 0}
  end
  if #dead > 0 then
    local left = {}
    for _, name in ipairs(dead) do left[name] = counts[name] end
    local cursor, found = '0', nil
    repeat
      cursor, found = unpack(redis.call('HSCAN', entries, cursor, 'COUNT', limit))
      for at = 1, #found, 2 do
        local field, name = found[at], string.match(found[at], '^[^:]*')
        -- A scan may find one twice.
        if left[name] and limit > 0 and redis.call('HEXISTS', entries, field) == 1 then
          remove(field, string.sub(field, #name + 2), found[at + 1])
          left[name] = left[name] - 1
          limit = limit - 1
        end
      end
    until cursor == '0' or limit == 0
    for name, rest in pairs(left) do
      if rest > 0 then
        has_more = 1
        redis.call('HSET', leases, name, 0, '#' .. name, rest)
      else
        redis.call('HDEL', leases, name, '#' .. name)
      end
    end
  end
end

if redis.call('EXISTS', entries) == 0 then
  redis.call('DEL', leases, users)
else
  redis.call('HSET', leases, 'r', number(revision))
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIREAT', key, number(now + ARGV[3]))
  end
end
if channel ~= '' and #events > 0 then
  local envelope = {v = tonumber(ARGV[7]), g = ARGV[6], p = events}
  redis.call('PUBLISH', channel, cmsgpack.pack(envelope))
end
return {before, count, number(revision), events, has_more}
""")

#: KEYS: leases, entries. Answers with the revision, and fields and values of the entries.
MEMBERS = _script("""
local revision = redis.call('HGET', KEYS[1], 'r')
if not revision then return {'0', {}} end
return {revision, redis.call('HGETALL', KEYS[2])}
""")

#: KEYS: users, entries. Answers with the numbers of connections and users.
STATS = _script("""
return {redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[1])}
""")
