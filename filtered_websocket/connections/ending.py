"""
The end of a connection: its disconnect chains run to their end even if its task is cancelled,
and a socket whose task is cancelled is closed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from .. import close_codes
from ..chains.chain import Chain
from ..chains.stalls import Grace
from ..close_codes import FILTER_ERROR
from ..exceptions import Close, Drop, NotAllowed
from ..logs import fields_of, get_logger
from ..observe import disconnections
from ..threads.tasks import GuardedTask, end_tasks
from ..types import Send
from .connection import Connection

logger = get_logger(__name__)

#: How long the disconnect chains may run after their connection was cancelled, seconds.
DISCONNECT_TIMEOUT = 8.0
#: How long a server may take to send the answer to a handshake that was cancelled, seconds.
ANSWER_TIMEOUT = 1.0


#: Those that RFC 6455 has, and ours. Clients may close with any other.
CODES = frozenset(
    {*range(1000, 1016), *(code for code in vars(close_codes).values() if isinstance(code, int))}
)
#: Stands for all others in metrics.
OTHER = 0


def count_end(code: int) -> None:
    """A connection has ended with this code."""
    disconnections[code if code in CODES else OTHER] += 1


async def close_cancelled(connection: Connection, send: Send) -> None:
    """
    Close a connection whose task was cancelled, by a filter of its own or by the server.

    Without this a server that does not watch its tasks, as daphne, would keep the socket open
    with nobody reading it.
    """
    transport = connection.transport
    if transport.closing:
        return
    logger.warning(
        "closed connection %s: its task was cancelled, by a filter or by the server",
        connection.id,
        extra=fields_of(connection),
    )
    if transport.is_open:
        transport.close(FILTER_ERROR, "cancelled")
        # It ends within close_timeout.
        await transport.stopped()
        return
    # The handshake is not answered. The client may have left, whatever a server does then.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await send({"type": "websocket.close", "code": FILTER_ERROR, "reason": "cancelled"})


async def finish(
    connection: Connection, chains: Iterable[Chain], failed: Callable[[Exception, Connection], None]
) -> None:
    """
    Run the disconnect chains. A cancellation of this task does not end them: only if they
    take longer than ``DISCONNECT_TIMEOUT`` from then on are they cancelled, one by one.
    """
    if not (chains or connection.transport.writing or connection.tasks or connection.running):
        return
    task = GuardedTask(run_disconnect_chains(connection, chains, failed), name="fws-disconnect")
    if await wait_until_done(task, DISCONNECT_TIMEOUT):
        raise asyncio.CancelledError


async def run_disconnect_chains(
    connection: Connection, chains: Iterable[Chain], failed: Callable[[Exception, Connection], None]
) -> None:
    """
    Run every chain, also after one that raised; ``failed`` is called with each error. A
    filter that has not returned within ``FILTER_GRACE`` is cancelled.
    """
    await connection.transport.stopped()
    if connection.running is not None:
        await connection.running.stopped()
    await end_tasks(tuple(connection.tasks))
    task: Any = asyncio.current_task()
    for chain in chains:
        grace = Grace(task, connection) if chain.awaits else None
        try:
            await chain.pipe(connection)
        except NotAllowed as refusal:
            connection.not_allowed(refusal)
        except (Drop, Close, asyncio.CancelledError):
            pass
        except Exception as error:
            failed(error, connection)
        if grace is not None:
            grace.stop()
    await end_tasks(tuple(connection.tasks))


def unlink(consumer: Any) -> None:
    """
    All is over: have the parts of a connection refer to each other no longer, so that it is freed
    at once. The garbage collector looks at what has lived long now and then only.
    """
    connection, session = consumer.connection, consumer._session
    for name, part in () if session is None else tuple(vars(session).items()):
        # One of its own parts, or a method of one.
        if getattr(getattr(part, "__self__", part), "_session", None) is session:
            delattr(session, name)
    connection.reader = consumer._reader = consumer._session = None


async def wait_until_done(task: "asyncio.Future[None]", timeout: float) -> bool:
    """
    Wait until ``task`` is done. Returns whether this task was cancelled meanwhile; from
    then on ``task`` has ``timeout`` seconds, after which it is cancelled until it ends.
    """
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while not task.done():
        left = None
        if deadline is not None:
            left = deadline - loop.time()
            if left <= 0:
                task.cancel()
                left = 0.1
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            deadline = deadline or loop.time() + timeout
    return deadline is not None
