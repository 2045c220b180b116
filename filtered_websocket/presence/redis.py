"""
Presence in Redis: scripts on the keys ``<NAMESPACE>:{<digest of the group>}:l``, ``u`` and
``e``, on the host that the channel layer has for the group.

Costs, in commands of a client: a call for a group is one EVALSHA, however many entries the
group has. So a process sends, whoever is in its groups:

- for a join or a leave: one; for many in one group, one for each ``MAX_CHANGES``, and those
  that come while a call is under way share the next one;
- for renewals: one for each group with members of this process, every third of a lease. This
  call also looks for ended leases, and removes up to ``MAX_CHANGES`` entries of them; one
  more follows for each further ``MAX_CHANGES``.

Redis' user needs the keys ``~<NAMESPACE>:*`` and the commands in ``COMMANDS``.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from redis.exceptions import NoPermissionError, NoScriptError

from ..conf import conf
from ..layer.envelope import group_key
from .base import MAX_CHANGES, VERSION, Answer, Call, Entry, Event, Members, Stats, open_event
from .scripts import CHANGE, MEMBERS, STATS, Script

#: What a user of Redis must be allowed, in the form of its ACL.
COMMANDS = (
    "+evalsha +eval +publish +time +del +exists +pexpireat"
    " +hget +hset +hdel +hincrby +hlen +hscan +hexists +hgetall"
)
#: How Redis says that a script may not do something: Redis 7, and others.
REFUSALS = ("The user executing the script can't", "ACL failure in script")
#: So many calls go out together; what other users of the connection send comes between.
AT_ONCE = 100

Command = tuple[bytes | str, ...]


class Host(Protocol):
    """What is needed of the connections to Redis: :class:`.RedisLayer` has it."""

    #: Whether a script can write what the layer's receivers read.
    is_plain: bool

    def channel_of(self, group: str) -> str:
        """The channel in Redis of the group with this name on the layer."""
        ...

    def execute(self, group: str, command: Command, on_reply: Callable[[Any], object]) -> None:
        """
        Send ``command`` to the host of the group. ``on_reply`` is called once, later, with
        the answer or an exception, within ``LAYER_TIMEOUT``.
        """
        ...

    async def close(self) -> None: ...


class RedisStore:
    """For one event loop. Raises what Redis answers, or :exc:`OSError`, TimeoutError."""

    def __init__(self, host: Host, lease: float) -> None:
        self._host = host
        self.lease = lease
        self.publishes = host.is_plain

    async def change(self, origin: str, calls: Sequence[Call]) -> list[Answer | Exception]:
        """As :meth:`.Store.change`."""
        answers: list[Answer | Exception] = []
        for at in range(0, len(calls), AT_ONCE):
            some = calls[at : at + AT_ONCE]
            # All are sent before the first answer is waited for.
            replies = [self._call(origin, call) for call in some]
            answers += await asyncio.gather(*replies, return_exceptions=True)
        return answers

    def _call(self, origin: str, call: Call) -> "asyncio.Future[Any]":
        key = group_key(call.group)
        lease = int(self.lease * 1000)
        channel = self._host.channel_of(key) if call.tells and self.publishes else ""
        limit = MAX_CHANGES if call.expires else 0
        arguments = [origin, lease, lease * 4 // 3, limit, channel, key, VERSION]
        for connection, packed in call.changes:
            arguments += connection, packed or ""
        return self._run(CHANGE, key, "lue", arguments, _open_answer)

    async def members(self, group: str) -> Members:
        """As :meth:`.Store.members`."""
        members: Members = await self._run(MEMBERS, group_key(group), "le", (), _open_members)
        return members

    async def stats(self, group: str) -> Stats:
        """As :meth:`.Store.stats`."""
        stats: Stats = await self._run(STATS, group_key(group), "ue", (), _open_stats)
        return stats

    async def close(self) -> None:
        """Nobody uses it any more."""
        await self._host.close()

    def _run(
        self,
        script: Script,
        key: str,
        kinds: str,
        arguments: Sequence[object],
        read: Callable[[Any], Any],
    ) -> "asyncio.Future[Any]":
        """Send a call of a script at once; the future has what ``read`` makes of the answer."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        known, unknown = _commands(script, key, kinds, arguments)

        def take(is_known: bool, reply: Any) -> None:
            if isinstance(reply, NoScriptError) and is_known:
                # Redis was restarted, say. The next call finds the script there.
                self._host.execute(key, unknown, partial(take, False))
            elif not done.done():
                _settle(done, reply, read)

        self._host.execute(key, known, partial(take, True))
        return done


class Caller(Protocol):
    """Calls Redis on the caller's thread: :class:`.DirectSender` does."""

    def execute(self, group: str, command: Command) -> Any:
        """The answer of the host of the group."""
        ...


def read_members(caller: Caller, group: str) -> Members:
    """As :meth:`RedisStore.members`, without an event loop."""
    return _open_members(_call(caller, MEMBERS, group_key(group), "le"))


def read_stats(caller: Caller, group: str) -> Stats:
    """As :meth:`RedisStore.stats`, without an event loop."""
    return _open_stats(_call(caller, STATS, group_key(group), "ue"))


def _call(caller: Caller, script: Script, key: str, kinds: str) -> Any:
    known, unknown = _commands(script, key, kinds, ())
    try:
        return caller.execute(key, known)
    except NoScriptError:
        return caller.execute(key, unknown)


def _commands(
    script: Script, key: str, kinds: str, arguments: Sequence[object]
) -> tuple[Command, Command]:
    """The call of a script, where Redis knows it, and where it does not."""
    digest = key.rpartition(".")[2]
    keys = [f"{conf.NAMESPACE}:{{{digest}}}:{kind}" for kind in kinds]
    rest = [str(len(keys)), *keys, *map(str, arguments)]
    return ("EVALSHA", script.sha, *rest), ("EVAL", script.text, *rest)


def _settle(done: "asyncio.Future[Any]", reply: Any, read: Callable[[Any], Any]) -> None:
    try:
        if isinstance(reply, Exception):
            raise explain(reply)
        done.set_result(read(reply))
    except Exception as error:
        done.set_exception(error)


def explain(error: Exception) -> Exception:
    """``error``; for a missing right, a PermissionError that names what is needed."""
    is_refused = any(words in str(error) for words in REFUSALS)
    if not (is_refused or isinstance(error, NoPermissionError)):
        return error
    rights = f"~{conf.NAMESPACE}:* {COMMANDS}"
    return PermissionError(f"Redis refuses presence ({error}): its user needs {rights}")


def _open_answer(reply: Any) -> Answer:
    before, after, revision, raw, has_more = reply
    return Answer(before, after, int(revision), [_open_event(one) for one in raw], bool(has_more))


def _open_event(raw: Any) -> Event:
    revision, kind, connection, packed, is_users = raw
    return open_event(revision, kind.decode(), connection.decode(), packed.decode(), is_users)


def _open_members(reply: Any) -> Members:
    revision, raw = reply
    entries = {}
    for field, packed in zip(raw[::2], raw[1::2], strict=True):
        origin, _, connection = field.decode().partition(":")
        entries[connection] = Entry(origin, packed.decode())
    return Members(int(revision), entries)


def _open_stats(reply: Any) -> Stats:
    return Stats(*reply)
