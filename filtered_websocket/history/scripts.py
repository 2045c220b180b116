"""
The scripts that Redis runs for a history, from Redis 6.2 on, and what they are given.

::

    <NAMESPACE>:{<digest of the group>}:m            epoch run_id top size, then origin last, ...
    <NAMESPACE>:{<digest of the group>}:h            list of items, the last is the top
    <NAMESPACE>:{<digest of the group>}:p:<origin>   last: number epoch offset repeated
    <NAMESPACE>:{<digest of the group>}:k:<digest>   epoch offset, of an idempotency key

Each has a fixed width: reading text would take a script longer than its commands. ``last`` is
the last batch of an origin: in ``m`` of the four origins that wrote last, in ``p`` of others.
So most batches need four commands. ``m`` tells when the time of ``h`` is over, too, which Redis
frees later: it is kept for ``POSITION_TTL`` more. What is in braces chooses the slot of a Redis
Cluster: all keys of a group are in one.

Each script is given the ``run_id`` of the server that runs it. Another one than stored, and
the data are what a restart or a failover has left of them: there is a new epoch.
"""

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ..layer.envelope import HISTORY_VERSION, Batch
from .base import EMPTY_TTL, POSITION_TTL, REMEMBERED, Position, Retention, new_epoch

Arguments: TypeAlias = tuple[bytes | str, ...]

#: Of a batch: origin, number, count, the limits, and whether the time is renewed.
SPEC = struct.Struct(">16sQHIIQB")
#: Epoch, offset, and whether the idempotency key was known.
PLACE = struct.Struct(">16sQB")
#: Most groups of :class:`Renewals`.
MAX_RENEWALS = 16_384


class Script(NamedTuple):
    source: str
    sha: str

    def call(self, keys: Arguments, run_id: str, arguments: Arguments) -> Arguments:
        """The command for a server that has run it before, else it answers NOSCRIPT."""
        return ("EVALSHA", self.sha, str(len(keys)), *keys, run_id[:16], *arguments)

    def call_with_source(self, keys: Arguments, run_id: str, arguments: Arguments) -> Arguments:
        return ("EVAL", self.source, str(len(keys)), *keys, run_id[:16], *arguments)


def _script(source: str) -> Script:
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


# Numbers are doubles in Lua: exact up to 2 ** 53. KEYS are ``m`` and ``h`` of each batch.
# PUBLISH comes last, and ``p`` first, which a Redis Cluster refuses while the slot moves: what
# fails before PUBLISH, as "out of memory" does, has changed nothing of the group.
APPEND = _script(
    """
local run, answers, at = ARGV[1], {}, 3
for n = 1, #KEYS, 2 do
  local meta, kept, spec, channel = KEYS[n], KEYS[n + 1], ARGV[at], ARGV[at + 1]
  local origin, number, count, size, most, ttl, renews = struct.unpack('>c16I8I2I4I4I8B', spec)
  local head, to = at + 2, at + 2 + count
  local base, key = string.sub(meta, 1, -2), string.sub(spec, 44)
  local found = redis.call('GET', meta)
  local epoch, top, last, others, oldest = ARGV[2], 0, nil, '', nil
  if found then
    if string.sub(found, 17, 32) == run then epoch = string.sub(found, 1, 16) else renews = 1 end
    if renews == 1 and redis.call('PTTL', meta) <= POSITION then redis.call('DEL', kept) end
    top = struct.unpack('>I8', found, 33)
    local own = 45
    if string.sub(found, 45, 60) ~= origin then own = string.find(found, origin, 61, true) end
    if own then
      last = string.sub(found, own + 16, own + 48)
      others = string.sub(found, 45, own - 1) .. string.sub(found, own + 49)
    else
      others, oldest = string.sub(found, 45, 191), string.sub(found, 192)
    end
  else
    redis.call('DEL', kept)
  end
  last = last or redis.call('GET', base .. 'p:' .. origin)
  local ahead = last and number - struct.unpack('>I8', last) or 1
  local answer, is_new = ahead == 0 and string.sub(last, 9) or '', false
  if ahead > 0 then
    local known = key ~= '' and redis.call('GET', base .. 'k:' .. key)
    if oldest and oldest ~= '' then
      redis.call('SET', base .. 'p:' .. string.sub(oldest, 1, 16), string.sub(oldest, 17),
        'PX', REMEMBERED)
    end
    is_new = not known
    if is_new then
      local length = redis.call('RPUSH', kept, unpack(ARGV, head + 1, to))
      if length > most then redis.call('LTRIM', kept, -size, -1) end
      if length == count then renews = 1 end
      top = top + count
    end
    answer = known and known .. '\\1' or epoch .. struct.pack('>I8', top) .. '\\0'
    redis.call('SET', meta, epoch .. run .. struct.pack('>I8I4', top, size) .. origin
      .. string.sub(spec, 17, 24) .. answer .. others, 'PX', ttl + POSITION)
  end
  if renews == 1 then redis.call('PEXPIRE', kept, math.floor(ttl * 1.25)) end
  if is_new and key ~= '' then
    redis.call('SET', base .. 'k:' .. key, string.sub(answer, 1, 24), 'PX', REMEMBERED)
  end
  if is_new and channel ~= '' then
    redis.call('PUBLISH', channel, table.concat(ARGV, '', head, to)
      .. '\\161e\\176' .. epoch .. '\\161s\\207' .. struct.pack('>I8', top - count + 1))
  end
  answers[#answers + 1] = answer
  at = to + 1
end
return answers
""".replace("REMEMBERED", str(REMEMBERED * 1000)).replace("POSITION", str(POSITION_TTL * 1000))
)

READ = _script(
    """
local meta = redis.call('GET', KEYS[1])
local epoch, top, size = ARGV[2], 0, 0
if meta then
  top, size = struct.unpack('>I8I4', meta, 33)
  if string.sub(meta, 17, 32) == ARGV[1] then
    epoch = string.sub(meta, 1, 16)
  else
    redis.call('SET', KEYS[1], epoch .. ARGV[1] .. string.sub(meta, 33), 'KEEPTTL')
  end
else
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], epoch .. ARGV[1] .. struct.pack('>I8I4', 0, 0))
end
if top == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif redis.call('PTTL', KEYS[1]) <= POSITION then redis.call('DEL', KEYS[2]) end
local low, high = top - math.min(size, redis.call('LLEN', KEYS[2])) + 1, top
local reverse = ARGV[7] == '1'
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
return {epoch, top, 1, low, redis.call('LRANGE', KEYS[2], low - top - 1, high - top - 1)}
""".replace("POSITION", str(POSITION_TTL * 1000))
)

FORGET = _script("""
local meta = redis.call('GET', KEYS[1])
if meta then
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[2] .. string.sub(meta, 17), 'KEEPTTL')
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
    batch: Batch,
    items: list[bytes],
    retention: Retention,
    channel: str,
    known: str,
    renews: bool = True,
) -> tuple[Arguments, Arguments]:
    """
    One batch, as :func:`append_all` takes it. ``items`` are stored; with ``channel`` the script
    publishes them there, and each must be a list of msgpack. ``known`` is an idempotency key.
    With ``renews`` what is kept gets its time anew.
    """
    number, count = batch.first, len(items)
    spec = SPEC.pack(_origin(batch.origin), number, count, *_limits(retention), renews)
    if known:
        spec += hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:32].encode()
    head = head_of(batch.origin, batch.key, count) if channel else b""
    return keys_of(batch.key), (spec, channel, head, *items)


@lru_cache(4096)
def _origin(origin: str) -> bytes:
    """In 16 bytes, as those of this package have."""
    data = origin.encode()
    return data if len(data) == 16 else hashlib.sha256(data).hexdigest()[:16].encode()


def append_all(batches: Iterable[tuple[Arguments, Arguments]]) -> tuple[Arguments, Arguments]:
    """
    Keys of ``APPEND``, and its arguments after the ``run_id``, for batches of any groups; in a
    Redis Cluster, of one slot.
    """
    keys: list[bytes | str] = []
    arguments: list[bytes | str] = [new_epoch()]
    for its_keys, its_arguments in batches:
        keys += its_keys
        arguments += its_arguments
    return tuple(keys), tuple(arguments)


@lru_cache(256)
def _limits(retention: Retention) -> tuple[int, int, int]:
    """
    How many are kept, at how many the list is cut to that, and how long, in ms. Cutting it each
    time would be a command more.
    """
    size = min(retention.size, 2**31)
    return size, size + size // 8, max(1, round(retention.ttl * 1000))


class Renewals:
    """
    When this publisher last had what is kept of a group given its time anew. The key in Redis gets
    a quarter more than that, so not each append needs to.
    """

    def __init__(self) -> None:
        self._renewed: dict[str, float] = {}

    def is_due(self, key: str, retention: Retention, now: float) -> bool:
        renewed = self._renewed.get(key)
        return renewed is None or now - renewed > retention.ttl / 8

    def note(self, key: str, now: float) -> None:
        """Redis has answered a call that gave it, and was sent at ``now`` or later."""
        if len(self._renewed) >= MAX_RENEWALS:
            self._renewed.clear()
        self._renewed[key] = now


def read_arguments(
    key: str, since: Position | None, limit: int | None, reverse: bool
) -> tuple[Arguments, Arguments]:
    """Keys of ``READ``, and its arguments after the ``run_id``."""
    # Beyond what Lua counts exactly, any offset is one of the future.
    offset = "" if since is None else str(max(-1, min(since.offset, 2**53)))
    return keys_of(key), (
        new_epoch(),
        str(EMPTY_TTL * 1000),
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


def answered_positions(reply: list[bytes]) -> list[Position | None]:
    """What ``APPEND`` answers: for each batch None, if it comes after a later one."""
    return [_open_position(one) if one else None for one in reply]


def _open_position(answer: bytes) -> Position:
    epoch, offset, repeated = PLACE.unpack(answer)
    return Position(epoch.decode(), offset, bool(repeated))
