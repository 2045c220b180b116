"""Disconnect chains, which run to their end even if the task of their connection is cancelled."""

import asyncio
from collections.abc import Callable, Iterable

from ..chains.chain import Chain
from ..exceptions import Close, Drop
from .connection import Connection


async def run_disconnect_chains(
    connection: Connection, chains: Iterable[Chain], failed: Callable[[Exception, str], None]
) -> None:
    """Run every chain, also after one that raised; ``failed`` is called with each error."""
    await connection.transport.stopped()
    await _cancel_tasks(connection)
    for chain in chains:
        try:
            await chain.pipe(connection)
        except (Drop, Close, asyncio.CancelledError):
            pass
        except Exception as error:
            failed(error, f"connection {connection.id}")
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
