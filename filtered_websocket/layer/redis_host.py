"""
The two connections to one Redis: one for commands, one for subscriptions.

Each is opened when it is first needed, and again after each loss. Redis takes no other
commands on a connection with subscriptions (RESP2), and what fills one must not delay the
other.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from redis.exceptions import MovedError

from ..threads.tasks import pause
from .redis_connection import (
    Build,
    OnLost,
    OnMessage,
    OnReply,
    RedisConnection,
    open_connection,
    pack,
)

Task = asyncio.Task[None]
#: Called with None, or with an exception.
OnDone: TypeAlias = Callable[[Exception | None], object]
#: Connects to the host of a pool; the callable gets the loss of that connection.
Open: TypeAlias = Callable[[Any, OnLost], Awaitable[RedisConnection]]
_NOBODY: dict[str, OnDone] = {}


def at_node(pool: Any, moved: MovedError) -> Any:
    """A ``pool`` that has not connected yet, for the node of a Redis Cluster that has the key."""
    options = pool.connection_kwargs
    # Without a name it is the host that was asked.
    options.update(host=moved.host or options["host"], port=moved.port)
    return pool


def settle(answer: "asyncio.Future[Any]", reply: Any) -> None:
    """Give ``reply``, which may be an exception, to who waits for it, if anybody still does."""
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


class Commands:
    """
    Sends commands, in order. Guarantees: ``on_reply`` is called once for each, within
    ``LAYER_TIMEOUT``, never inside :meth:`send`.
    """

    def __init__(self, pool: Any, open_by: Open | None = None) -> None:
        self._pool = pool
        self._open_by = open_by
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._opening: Task | None = None
        #: Commands until there is a connection, and since when they wait.
        self._waiting: list[tuple[bytes | Build, OnReply, float]] = []

    def send(self, command: bytes | Build, on_reply: OnReply) -> None:
        """
        Send a packed command, or what makes one for the connection on which it is written;
        ``on_reply`` gets the answer, or an exception.
        """
        if self._connection is not None:
            self._connection.send(command, on_reply)
            return
        self._waiting.append((command, on_reply, self._loop.time()))
        if self._opening is None:
            self._opening = _start(self._open())

    async def _open(self) -> None:
        try:
            # Not as a default argument: tests replace it.
            connection = await (self._open_by or open_connection)(self._pool, self._lost)
        except BaseException as error:
            if _is_current(self._opening):
                self._fail(error)
            if not isinstance(error, Exception):
                raise
            return
        if not _is_current(self._opening):
            # Closed meanwhile, but redis-py has lost the cancellation.
            connection.drop()
            return
        self._opening, self._connection = None, connection
        waiting, self._waiting = self._waiting, []
        for command, on_reply, given in waiting:
            connection.send(command, on_reply, given)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            error = ConnectionError("the connection to Redis was closed meanwhile")
        self._opening = None
        waiting, self._waiting = self._waiting, []
        for _, on_reply, _ in waiting:
            self._loop.call_soon(on_reply, error)

    def _lost(self, error: Exception) -> None:
        # Whoever waits for an answer gets the error. If nobody does, nothing is missed.
        self._connection = None

    def stop(self, keep: bool = False) -> Task | None:
        """
        Close the connection; with ``keep`` only one that is not open yet. What has no
        answer fails. Returns a task that was cancelled, to be awaited.
        """
        opening = self._opening
        if opening is not None:
            opening.cancel()
            self._fail(asyncio.CancelledError())
        elif self._connection is not None and not keep:
            self._connection.abort(ConnectionError("the connection to Redis was closed"))
        return opening


class Subscriber:
    """
    Keeps the wanted channels subscribed, through losses; each loss is reported at once.

    A channel has at most one command without an answer, however long Redis is silent: the
    answer decides whether another one must follow.
    """

    def __init__(self, pool: Any, on_message: OnMessage, on_lost: OnLost) -> None:
        self._pool = pool
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._opening: Task | None = None
        self._failures = 0
        self._wanted: set[bytes] = set()
        #: What Redis has confirmed, and what it has not answered yet.
        self._subscribed: set[bytes] = set()
        self._asked: set[bytes] = set()
        #: Channel -> whom to tell when it is as wanted, by name.
        self._waiters: dict[bytes, dict[str, OnDone]] = {}

    def change(self, channel: bytes, is_wanted: bool, who: str, on_done: OnDone) -> None:
        """
        Subscribe or unsubscribe. ``on_done`` is called once, maybe at once: with None when
        Redis has confirmed, or with its refusal, or why there is no connection. It replaces
        an earlier one of ``who``. What was wanted stays so after an error.
        """
        if is_wanted:
            self._wanted.add(channel)
            if self._connection is None and self._opening is None:
                self._opening = _start(self._open())
        else:
            self._wanted.discard(channel)
        self._waiters.setdefault(channel, {})[who] = on_done
        self._adjust(channel)

    def unwant(self, channel: bytes) -> None:
        """Unsubscribe, and tell nobody."""
        self._wanted.discard(channel)
        self._waiters.pop(channel, None)
        self._adjust(channel)

    def _is_settled(self, channel: bytes) -> bool:
        return channel not in self._asked and (
            (channel in self._wanted) == (channel in self._subscribed)
        )

    def _adjust(self, channel: bytes) -> None:
        """Ask Redis for what is wanted of ``channel``, unless it is asked already."""
        if self._is_settled(channel):
            self._tell(channel, None)
        elif self._connection is not None and channel not in self._asked:
            is_wanted = channel in self._wanted
            self._asked.add(channel)
            self._connection.send(
                pack((b"SUBSCRIBE" if is_wanted else b"UNSUBSCRIBE", channel)),
                partial(self._answered, self._connection, channel, is_wanted),
            )

    def _answered(
        self, connection: RedisConnection, channel: bytes, is_wanted: bool, reply: Any
    ) -> None:
        if connection is not self._connection:
            return  # it was lost, and what follows from that is done
        self._asked.discard(channel)
        if isinstance(reply, Exception):
            if channel not in self._waiters:
                self._on_lost(reply)
            self._tell(channel, reply)
            return
        if reply[1] != channel:
            connection.abort(ConnectionError("Redis confirmed a channel out of turn"))
            return
        self._failures = 0
        if is_wanted:
            self._subscribed.add(channel)
        else:
            self._subscribed.discard(channel)
        self._adjust(channel)

    def _tell(self, channel: bytes, error: Exception | None) -> None:
        for on_done in self._waiters.pop(channel, _NOBODY).values():
            on_done(error)

    # The connection

    async def _open(self) -> None:
        while True:
            if self._failures:
                await asyncio.sleep(pause(self._failures))
            # Until Redis has confirmed a subscription.
            self._failures += 1
            try:
                connection = await open_connection(self._pool, self._lost, self._on_message)
            except Exception as error:
                self._fail_waiters(error)
                continue
            if not _is_current(self._opening):
                # Closed meanwhile, but redis-py has lost the cancellation.
                connection.drop()
                return
            self._opening, self._connection = None, connection
            for channel in tuple(self._wanted):
                self._adjust(channel)
            return

    def _lost(self, error: Exception) -> None:
        self._connection = None
        self._subscribed.clear()
        self._asked.clear()
        self._fail_waiters(error)
        if self._wanted:
            self._opening = _start(self._open())
            self._on_lost(error)

    def _fail_waiters(self, error: Exception) -> None:
        for channel in tuple(self._waiters):
            self._tell(channel, error)

    @property
    def heard(self) -> tuple[RedisConnection, int] | None:
        """The connection, and how often anything has arrived there."""
        connection = self._connection
        return None if connection is None else (connection, connection.arrived)

    def cut(self) -> None:
        """End a connection that seems to receive nothing any more; another one is opened."""
        if self._connection is not None:
            self._connection.abort(ConnectionError("nothing came through the subscriptions"))

    def stop(self, keep: bool = False) -> Task | None:
        """
        Unsubscribe from everything, and close the connection; with ``keep`` only one that
        is not open yet. Returns a task that was cancelled, to be awaited.
        """
        opening, self._opening = self._opening, None
        self._wanted.clear()
        self._failures = 0
        if opening is not None:
            opening.cancel()
        if self._connection is not None and not keep:
            self._connection.abort(ConnectionError("the subscriptions were closed"))
        for channel in tuple(self._subscribed):
            self._adjust(channel)
        self._fail_waiters(ConnectionError("the subscriptions were closed"))
        return opening


def _start(run: Coroutine[Any, Any, None]) -> Task:
    # In an empty context, not in that of who sent the first command.
    context = contextvars.Context()
    return asyncio.get_running_loop().create_task(run, name="fws-redis", context=context)


def _is_current(task: Task | None) -> bool:
    return task is asyncio.current_task()
