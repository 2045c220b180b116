"""Threads for blocking filters: blocking."""

import asyncio
import threading

from filtered_websocket.threads import blocking


async def test_idle_threads_end_and_busy_ones_are_told():
    assert blocking.shut_down(1)
    gate = threading.Event()
    busy = asyncio.ensure_future(blocking.run_blocking(gate.wait, 30))
    await asyncio.sleep(0)
    assert not blocking.shut_down(0.01)
    gate.set()
    assert await busy
    assert await blocking.run_blocking(lambda: 3) == 3
    assert blocking.shut_down(10)
