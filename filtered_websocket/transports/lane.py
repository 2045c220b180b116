"""
What the lanes have in common: they write to a socket directly while nothing waits for it.

::

    one frame               write(frame) ---------------------+
    one frame to many       write_all(transports, frame) -----+-> write_directly, one loop
    a client sends without  hold() -> write ... -> release() -+
    waiting for answers
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Collection, Set
from typing import Any

from ..codecs.frames import Bundle, Frame, Joined
from ..observe import traffic
from .asgi import AsgiTransport

#: No transport is left out.
NOBODY: Set[AsgiTransport] = frozenset()
#: More bytes than this are not held back.
MAX_HELD = 16_384


class Lane(AsgiTransport):
    """A transport that writes directly, if its class overrides :meth:`write_directly`."""

    __slots__ = ("_direct", "_held", "_held_size")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: Whether this connection may be written to directly.
        self._direct = False
        #: What was written since :meth:`hold`.
        self._held: list[Frame | Bundle] | None = None
        self._held_size = 0

    def write(self, frame: Frame | Bundle, done: "asyncio.Future[None] | None" = None) -> None:
        if done is None and self._direct:
            if self._idle:
                self.write_directly((self,), frame)
                return
            if self._held is not None:
                self._hold_back(frame)
                return
        self.release()
        super().write(frame, done)

    def write_in_order(self, frame: Frame | Bundle) -> None:
        """Write by the server's own ``send``, behind what it has not sent."""
        super().write(frame)

    @staticmethod
    def write_directly(
        transports: Collection[AsgiTransport],
        frame: Frame | Bundle,
        skipped: Set[AsgiTransport] = NOBODY,
    ) -> None:
        """``write(frame)`` to each of ``transports``, of any class, that is not ``skipped``."""
        for transport in transports:
            if transport not in skipped:
                transport.write(frame)

    def hold(self, awaits: bool = False) -> None:
        """
        Send what is written from now on together, at :meth:`release`, which must be called
        before anything is awaited. Saves a system call per frame. Who may await says so: then
        it is sent as soon as the event loop goes on.
        """
        if self._idle and self._direct:
            self._idle = False
            self._held = []
            if awaits:
                asyncio.get_running_loop().call_soon(self.release)

    def release(self) -> None:
        """Send what is held back. Does nothing without :meth:`hold`."""
        held, self._held = self._held, None
        if held is None:
            return
        self._idle = self.closed is None and self.on_write is None
        self._held_size = 0
        if len(held) == 1:
            self.write(held[0])
        elif held:
            self.write(Joined(held))

    def close(self, code: int, reason: str) -> None:
        self.release()
        super().close(code, reason)

    def _hold_back(self, frame: Frame | Bundle) -> None:
        assert self._held is not None
        self._held.append(frame)
        self._held_size += frame.longest
        if self._held_size > MAX_HELD:
            self.release()
            self.hold()

    def _drop_unsent(self) -> None:
        self._held = None
        super()._drop_unsent()

    def _fail_soon(self, error: Exception) -> None:
        """:meth:`_fail`; the end is reported in the next iteration of the event loop."""
        self._fail(error)
        asyncio.get_running_loop().call_soon(self._report_end)


def write_all(
    transports: Collection[AsgiTransport], frame: Frame | Bundle, skipped: Set[AsgiTransport]
) -> None:
    """
    ``write(frame)`` to each of ``transports`` that is not one of ``skipped``, which are some of
    them.

    In one loop for all of the same lane, as nearly all transports of a process are.
    """
    count = len(transports) - len(skipped)
    traffic.delivered += count * frame.count
    traffic.bytes_out += count * frame.size
    for transport in transports:
        lane = type(transport) if isinstance(transport, Lane) else Lane
        lane.write_directly(transports, frame, skipped)
        return


def watch_writes(
    transport: AsgiTransport, on_write: Callable[[Frame | Bundle], object] | None
) -> None:
    """
    Call ``on_write`` with each frame from now on, until None is given. Meanwhile frames leave by
    the writer task. It must not raise.
    """
    transport.release()
    transport.on_write = on_write
    is_free = transport.is_open and transport.closed is None and not transport.writing
    transport._idle = is_free and on_write is None


def write_with(transport: AsgiTransport, frame: Frame, own: Frame) -> None:
    """Write what the members of a group get, and ``own`` for this one alone, in one write."""
    traffic.delivered += 1
    traffic.pushed += 1
    traffic.bytes_out += frame.longest + own.longest
    lane = type(transport) if isinstance(transport, Lane) else Lane
    lane.write_directly((transport,), Joined((frame, own)))


def write_one(transport: AsgiTransport, frame: Frame | Bundle) -> None:
    """``transport.write(frame)``, which is counted as a frame to this client alone."""
    traffic.pushed += frame.count
    traffic.bytes_out += frame.size
    transport.write(frame)


def abort(transport: Any) -> None:
    """Reset asyncio's connection, so that the system, too, forgets what nobody will read."""
    with contextlib.suppress(AttributeError, OSError):
        at_once = struct.pack("ii", 1, 0)
        endpoint = transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    transport.abort()


def unsent_of(transport: Any) -> int:
    """The bytes that asyncio's connection holds, unsent."""
    try:
        size: int = transport.get_write_buffer_size()
    except AttributeError:
        # asyncio's for TLS, closed twice: uvicorn does that. It has forgotten its socket.
        return 0
    return size


def abort_unsent(transport: Any) -> None:
    """:func:`abort` it, if it holds any."""
    if unsent_of(transport):
        abort(transport)


def send_at_once(transport: Any) -> None:
    """
    Have the system send each write of asyncio's connection, not wait for an answer to the one
    before: that may take 40 ms. asyncio does so, but not for a socket that uvicorn was given
    (``--fd``), which it takes for one of another family; uvloop does. Where it is none of TCP,
    or cannot be found, it stays as it is.
    """
    if isinstance(transport, asyncio.BaseTransport):
        with contextlib.suppress(AttributeError, OSError):
            endpoint = transport.get_extra_info("socket")
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
