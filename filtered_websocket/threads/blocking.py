"""
Threads for filters with ``blocking = True``.

They are apart from those of ``database``, which slow filters must not delay, and from
asgiref's one thread-sensitive thread, where one slow call delays the whole process.
"""

import asyncio
import contextvars
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..conf import conf
from ..logs import fields_of, get_logger

logger = get_logger(__name__)

#: Threads that still run although nobody waits for them -> the function that they run.
abandoned: "dict[Future[Any], str]" = {}
#: What runs in the threads now.
busy: "set[Callable[[], Any]]" = set()
_pools: dict[str, ThreadPoolExecutor] = {}


def thread_pool(name: str, threads: int) -> ThreadPoolExecutor:
    """The thread pool of this name; created on first use, and again after a shutdown."""
    if name not in _pools:
        _pools[name] = ThreadPoolExecutor(threads, thread_name_prefix=name)
    return _pools[name]


def _forget() -> None:
    """After a fork: the threads are those of the parent process."""
    _pools.clear()
    abandoned.clear()
    busy.clear()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)


def shut_down(timeout: float) -> bool:
    """Accept no more work. Returns whether all threads ended within ``timeout`` seconds."""
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


#: How many tests need it: the transaction of a TestCase belongs to one thread.
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
    """Whether a test needs all calls to run in the thread-sensitive thread."""
    return bool(_thread_sensitive)


def call_safely(call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)``; RuntimeError for an exception that no task may get from a thread."""
    try:
        return call(*args)
    except StopIteration as error:
        # asyncio's futures do not accept it: the caller would wait for ever.
        raise RuntimeError(f"StopIteration: {error.value}") from error
    except Exception:
        raise
    except BaseException as error:
        # Ctrl-C reaches the main thread only. A SystemExit would end the process.
        if isinstance(error, KeyboardInterrupt) and _is_main_thread():
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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

    Database connections that are too old are closed before and after it. Cancelling the
    caller does not stop the thread: it is logged, and counted in ``abandoned``.
    """
    if _thread_sensitive:
        return await run_in_the_thread_sensitive_thread(call, *args)
    pool = thread_pool("fws-blocking", conf.BLOCKING_THREADS)
    run = functools.partial(contextvars.copy_context().run, _with_fresh_connections, call, *args)
    names: list[str] = []
    running = pool.submit(_named, names, run)
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        if names and not running.done():
            _abandon(call, names[0], running, fields_of(next(iter(args), None)))
        raise


def _named(names: list[str], run: Callable[[], Any]) -> Any:
    """Call ``run``, and note which thread does."""
    names.append(threading.current_thread().name)
    busy.add(run)
    try:
        return run()
    finally:
        busy.discard(run)


def _abandon(
    call: Callable[..., Any], name: str, running: "Future[Any]", told: dict[str, Any]
) -> None:
    """Nobody waits for a thread any more, which goes on."""
    path = f"{call.__module__}.{call.__qualname__}"
    abandoned[running] = path
    logger.warning(
        "thread %s still runs %s, for a connection that has ended (%d of BLOCKING_THREADS = %d"
        " are taken so)",
        name,
        path,
        len(abandoned),
        conf.BLOCKING_THREADS,
        extra=told,
    )

    def returned(done: "Future[Any]") -> None:
        abandoned.pop(done, None)
        logger.info("thread %s has returned from %s", name, path, extra=told)

    running.add_done_callback(returned)
