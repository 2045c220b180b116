"""
The scripts that Redis runs for a history, from Redis 6.2 on, and what they are given.

::

    <NAMESPACE>:{<digest of the group>}:m            "epoch run_id top"
    <NAMESPACE>:{<digest of the group>}:h            list of items, the last is the top
    <NAMESPACE>:{<digest of the group>}:p:<origin>   "number epoch offset repeated"
    <NAMESPACE>:{<digest of the group>}:k:<digest>   "epoch offset" of an idempotency key

What is in braces chooses the slot of a Redis Cluster: all keys of one script are in one.

Each script is given the ``run_id`` of the server that runs it. Another one than stored, and
the data are what a restart or a failover has left of them: there is a new epoch.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from ..layer.envelope import HISTORY_VERSION, Batch
from .base import POSITION_TTL, REMEMBERED, Position, Retention, new_epoch

Arguments: TypeAlias = tuple[bytes | str, ...]


class Script(NamedTuple):
    source: str
    sha: str

    def call(self, keys: Arguments, run_id: str, arguments: Arguments) -> Arguments:
        """The command for a server that has run it before, else it answers NOSCRIPT."""
        return ("EVALSHA", self.sha, str(len(keys)), *keys, run_id, *arguments)

    def call_with_source(self, keys: Arguments, run_id: str, arguments: Arguments) -> Arguments:
        return ("EVAL", self.source, str(len(keys)), *keys, run_id, *arguments)


def _script(source: str) -> Script:
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


# Numbers are doubles in Lua: exact up to 2 ** 53, and '%d' writes all their digits.
# PUBLISH comes last: what fails before it, as "out of memory" does, has changed nothing.
APPEND = _script(
    """
local found = redis.call('MGET', KEYS[1], KEYS[3], KEYS[4] or KEYS[1])
local number = tonumber(ARGV[3])
if found[2] then
  local last, epoch, offset, repeated = string.match(found[2], '(%d+) (%S+) (%d+) (%d)')
  last = tonumber(last)
  if number == last then return {epoch, tonumber(offset), tonumber(repeated)} end
  if number < last then return {} end
end
if KEYS[4] and found[3] then
  redis.call('SET', KEYS[3], ARGV[3] .. ' ' .. found[3] .. ' 1', 'PX', REMEMBERED)
  local epoch, offset = string.match(found[3], '(%S+) (%d+)')
  return {epoch, tonumber(offset), 1}
end
local epoch, run, top
if found[1] then
  epoch, run, top = string.match(found[1], '(%S+) (%S+) (%d+)')
  top = tonumber(top)
  if run ~= ARGV[1] then epoch = ARGV[2] end
else
  epoch, top = ARGV[2], 0
  redis.call('DEL', KEYS[2])
end
local count = #ARGV - 8
local length = redis.call('RPUSH', KEYS[2], unpack(ARGV, 9))
local size = tonumber(ARGV[4])
if length > size then redis.call('LTRIM', KEYS[2], -size, -1) end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
local first = top + 1
local digits = string.format('%d', top + count)
redis.call('SET', KEYS[1], epoch .. ' ' .. ARGV[1] .. ' ' .. digits, 'PX', ARGV[6])
redis.call('SET', KEYS[3], ARGV[3] .. ' ' .. epoch .. ' ' .. digits .. ' 0', 'PX', REMEMBERED)
if KEYS[4] then redis.call('SET', KEYS[4], epoch .. ' ' .. digits, 'PX', REMEMBERED) end
if ARGV[7] ~= '' then
  redis.call('PUBLISH', ARGV[7], ARGV[8] .. table.concat(ARGV, '', 9)
    .. '\\161e\\176' .. epoch .. '\\161s\\207' .. struct.pack('>I8', first))
end
return {epoch, top + count, 0}
""".replace("REMEMBERED", str(REMEMBERED * 1000))
)

READ = _script("""
local meta = redis.call('GET', KEYS[1])
local epoch, run, top
if meta then
  epoch, run, top = string.match(meta, '(%S+) (%S+) (%d+)')
  top = tonumber(top)
  if run ~= ARGV[1] then
    epoch = ARGV[2]
    local now = epoch .. ' ' .. ARGV[1] .. ' ' .. string.format('%d', top)
    redis.call('SET', KEYS[1], now, 'KEEPTTL')
  end
else
  epoch, top = ARGV[2], 0
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], epoch .. ' ' .. ARGV[1] .. ' 0', 'PX', ARGV[3])
end
local low, high = top - redis.call('LLEN', KEYS[2]) + 1, top
local oldest, reverse = low, ARGV[7] == '1'
local limit = tonumber(ARGV[6])
if ARGV[5] ~= '' then
  local since = tonumber(ARGV[5])
  if (ARGV[4] ~= '' and ARGV[4] ~= epoch) or since < 0 or since > top then
    return {epoch, top, 0}
  end
  if reverse then
    high = since - 1
    if high < low and high > 0 then return {epoch, top, 0} end
  else
    if since + 1 < low then return {epoch, top, 0} end
    low = since + 1
  end
end
if limit >= 0 and reverse then low = math.max(low, high - limit + 1) end
if limit >= 0 and not reverse then high = math.min(high, low + limit - 1) end
if low > high then return {epoch, top, 1, low, {}} end
return {epoch, top, 1, low, redis.call('LRANGE', KEYS[2], low - oldest, high - oldest)}
""")

FORGET = _script("""
local meta = redis.call('GET', KEYS[1])
if meta then
  local run, top = string.match(meta, '%S+ (%S+) (%d+)')
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. run .. ' ' .. top, 'KEEPTTL')
end
return 1
""")


@lru_cache(4096)
def _keys(key: str) -> tuple[str, str]:
    namespace, _, digest = key.partition(".g.")
    base = f"{namespace}:{{{digest}}}:"
    return base + "m", base + "h"


def keys_of(key: str) -> tuple[str, str]:
    """The names in Redis of a group's position and publications."""
    return _keys(key)


def append_arguments(
    batch: Batch, items: list[bytes], retention: Retention, channel: str, known: str
) -> tuple[Arguments, Arguments]:
    """
    Keys of ``APPEND``, and its arguments after the ``run_id``. ``items`` are stored; with
    ``channel`` the script publishes them there, and each must be a list of msgpack. ``known``
    is an idempotency key.
    """
    keys: Arguments = _append_keys(batch.key, batch.origin)
    if known:
        digest = hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        keys += (f"{keys_of(batch.key)[0][:-1]}k:{digest}",)
    return keys, (
        new_epoch(),
        str(batch.first),
        *_limits(retention),
        channel,
        head_of(batch.origin, batch.key, len(items)) if channel else b"",
        *items,
    )


@lru_cache(4096)
def _append_keys(key: str, origin: str) -> tuple[str, str, str]:
    position, history = keys_of(key)
    return position, history, f"{position[:-1]}p:{origin}"


@lru_cache(256)
def _limits(retention: Retention) -> tuple[str, str, str]:
    """The size, and how long to keep publications and position, in ms."""
    ttl = max(1, round(retention.ttl * 1000))
    return str(retention.size), str(ttl), str(ttl + POSITION_TTL * 1000)


def read_arguments(
    key: str, since: Position | None, limit: int | None, reverse: bool
) -> tuple[Arguments, Arguments]:
    """Keys of ``READ``, and its arguments after the ``run_id``."""
    # Beyond what Lua counts exactly, any offset is one of the future.
    offset = "" if since is None else str(max(-1, min(since.offset, 2**53)))
    return keys_of(key), (
        new_epoch(),
        str(POSITION_TTL * 1000),
        since.epoch if since is not None else "",
        offset,
        "-1" if limit is None else str(limit),
        str(int(reverse)),
    )


def forget_arguments(key: str) -> tuple[Arguments, Arguments]:
    """Keys of ``FORGET``, and its arguments after the ``run_id``."""
    return keys_of(key), (new_epoch(),)


def head_of(origin: str, key: str, count: int) -> bytes:
    """An envelope of version 2 in msgpack, up to its first item; ``APPEND`` adds the rest."""
    length = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return _head(origin, key) + length


@lru_cache(4096)
def _head(origin: str, key: str) -> bytes:
    version = bytes((HISTORY_VERSION,))
    return b"\x86\xa1v" + version + b"\xa1o" + _text(origin) + b"\xa1g" + _text(key) + b"\xa1m"


def _text(value: str) -> bytes:
    """A text of at most 255 bytes in msgpack."""
    data = value.encode()
    length = bytes((0xA0 | len(data),)) if len(data) < 32 else bytes((0xD9, len(data)))
    return length + data


def answered_position(reply: Any) -> Position | None:
    """What ``APPEND`` answers; None for a batch that comes after a later one."""
    if not reply:
        return None
    epoch, offset, repeated = reply
    return Position(epoch.decode(), offset, bool(repeated))
