"""
The house's own threads, for filters with ``blocking = True``. (``queries`` has others,
which filters that hog theirs do not hold up.)

They are apart from asgiref's one thread-sensitive thread, where a single slow call
stalls every other user of the process.
"""

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..conf import conf

_pools: dict[str, ThreadPoolExecutor] = {}


def thread_pool(name: str, threads: int) -> ThreadPoolExecutor:
    """The threads of this name; made when they are first asked for, again after the end."""
    if name not in _pools:
        _pools[name] = ThreadPoolExecutor(threads, thread_name_prefix=name)
    return _pools[name]


def shut_down(timeout: float) -> bool:
    """Take no more work; whether every thread has ended within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    waiting = [
        threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        for pool in _pools.values()
    ]
    _pools.clear()
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in waiting)


#: How many tests want it: a TestCase sees its rows in one thread only.
_thread_sensitive = 0


@contextmanager
def in_the_thread_sensitive_thread() -> Iterator[None]:
    """Run blocking filters where Django's TestCase has its transaction, for a test."""
    global _thread_sensitive
    _thread_sensitive += 1
    try:
        yield
    finally:
        _thread_sensitive -= 1


def is_in_a_test() -> bool:
    """Whether somebody wants all of it in the thread-sensitive thread."""
    return bool(_thread_sensitive)


def call_safely(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except StopIteration as error:
        # No future can hold it: who awaits would wait for ever.
        raise RuntimeError(f"StopIteration: {error.value}") from error


def _with_fresh_connections(call: Callable[..., Any], *args: Any) -> Any:
    close_old_connections()
    try:
        return call_safely(call, *args)
    finally:
        close_old_connections()


async def run_in_the_thread_sensitive_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Await ``call(*args)`` where Django's TestCase has its transaction."""
    return await sync_to_async(call_safely, thread_sensitive=True)(call, *args)


async def run_blocking(call: Callable[..., Any], *args: Any) -> Any:
    """
    Await ``call(*args)`` in a thread for filters, with this task's context.

    Database connections that are too old are closed before and after it. A
    cancelled caller does not stop the thread, which ends by itself.
    """
    if _thread_sensitive:
        return await run_in_the_thread_sensitive_thread(call, *args)
    pool = thread_pool("fws-blocking", conf.BLOCKING_THREADS)
    run = functools.partial(contextvars.copy_context().run, _with_fresh_connections, call, *args)
    return await asyncio.get_running_loop().run_in_executor(pool, run)
