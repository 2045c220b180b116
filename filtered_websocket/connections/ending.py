"""Disconnect chains, which run to their end even if the task of their connection is cancelled."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ..chains.chain import Chain
from ..exceptions import Close, Drop
from .connection import Connection
from .stalls import Grace

#: How long the disconnect chains may run after their connection was cancelled, seconds.
DISCONNECT_TIMEOUT = 8.0


async def run_disconnect_chains(
    connection: Connection, chains: Iterable[Chain], failed: Callable[[Exception, str], None]
) -> None:
    """
    Run every chain, also after one that raised; ``failed`` is called with each error. A
    filter that has not returned within ``FILTER_GRACE`` is cancelled.
    """
    await connection.transport.stopped()
    await _cancel_tasks(connection)
    task: Any = asyncio.current_task()
    for chain in chains:
        grace = Grace(task, connection.id) if chain.awaits else None
        try:
            await chain.pipe(connection)
        except (Drop, Close, asyncio.CancelledError):
            pass
        except Exception as error:
            failed(error, f"connection {connection.id}")
        if grace is not None:
            grace.stop()
    await _cancel_tasks(connection)


async def _cancel_tasks(connection: Connection) -> None:
    tasks = tuple(connection.tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


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
