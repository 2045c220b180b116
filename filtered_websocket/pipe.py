"""
Runs a pipeline on standard input: each line is a message, each result is printed as a line::

    $ printf 'a\\nb\\n' | python -m filtered_websocket.pipe myfilters.Shout
    A
    B

For trying out a filter. The connection is simulated: what is sent to it is printed; what it
publishes and the groups that it joins are counted. With ``--chain group`` each line is a
message of a group that it is in, with ``--chain call`` a method and its data as JSON, with
``--chain join`` a group to join and the data of the client as JSON::

    $ echo 'add [1, 2]' | python -m filtered_websocket.pipe --chain call myfilters.Add
    3

With ``--protocol centrifuge`` each line is a frame of a client that speaks that protocol, and
what it is sent is printed. Nothing leaves the process then, either.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from django.core.exceptions import ImproperlyConfigured
from django.test.utils import override_settings

from .chains.calls import first_answer
from .chains.current import About, about_event
from .codecs.frames import dump_json, text_event, to_frame
from .connections.connection import Connection
from .connections.handshake import Handshake
from .consumers import FilteredWebSocketConsumer
from .exceptions import Close, Drop, FilterError, InvalidData, NoSuchMethod, NotAllowed
from .hub.hub import get_hub
from .pipelines.pipeline import Pipeline
from .protocols.serving import PLAIN, PROTOCOLS
from .server.stand_in import Printer, StandInView
from .server.standalone import Parser, error_line, set_up
from .storage_objects import get_storage_object
from .transports import AsgiTransport
from .types import Call, Event

#: What a line of the input may be.
CHAINS = ("message", "group", "call", "join")


class Pipe:
    """One run of a pipeline over ``lines``."""

    def __init__(
        self, pipeline: Pipeline, output: BinaryIO, errors: Any, chain: str = "message"
    ) -> None:
        self._pipeline = pipeline
        handlers = self._message, self._group, self._call, self._join
        self._handle = dict(zip(CHAINS, handlers, strict=True))[chain]
        self._errors = errors
        self._printer = Printer(output)
        self._view = StandInView(asyncio.get_running_loop(), pipeline)
        scope = {"type": "websocket", "path": "/", "headers": []}
        transport = cast(AsgiTransport, self._printer)
        self._connection = Connection(scope, self._view, transport, pipeline.home)
        self._view.users = {self._connection.id: self._connection}
        self.failed = False

    async def run(self, lines: Iterable[bytes]) -> None:
        """Run connect, every line, disconnect. Memory does not grow with the input."""
        connection, pipeline = self._connection, self._pipeline
        handshake = Handshake(connection.scope)
        if not await self._step("connect", pipeline.connect.arun(connection, handshake)):
            self._report("the connect chain refused the connection")
            self.failed = True
            return
        for number, line in enumerate(lines, 1):
            await self._step(f"line {number}", self._handle(bytearray(line.rstrip(b"\r\n"))))
            await self._run_leave_chains()
            if self._printer.closed is not None:
                break
        connection.close_code, connection.close_reason = self._printer.closed or (1000, "")
        connection.last_groups = connection.groups
        for group in sorted(connection.last_groups):
            self._view.leave(connection, group)
        await self._run_leave_chains()
        for chain in pipeline.disconnect:
            await self._step("disconnect", chain.arun(connection))
        self._report_totals()

    async def _message(self, frame: bytearray) -> None:
        text_event.set(True)
        frame = await self._pipeline.data.arun(self._connection, frame)
        message = await self._pipeline.message.arun(self._connection, frame)
        self._printer.line(to_frame(message, text=True).payload)

    async def _group(self, frame: bytearray) -> None:
        text_event.set(True)
        about_event.set(About(self._pipeline.home, "", {}))
        message = await self._pipeline.group.arun(self._view, frame)
        message = await self._pipeline.send.arun(self._connection, message)
        self._printer.line(to_frame(message, text=True).payload)

    async def _call(self, line: bytearray) -> None:
        call = Call(*_with_data(line))
        answer = await first_answer(self._pipeline.call, self._connection, call)
        self._printer.line(dump_json(answer).encode())

    async def _join(self, line: bytearray) -> None:
        group, data = _with_data(line)
        await self._connection.join(group, data=data)
        joined = self._connection.subscriptions.get(group)
        if joined is not None:
            told = {"group": group, "info": joined.info, "reply": joined.reply}
            self._printer.line(dump_json(told).encode())

    async def _run_leave_chains(self) -> None:
        ended, self._view.ended = self._view.ended, []
        for subscription in ended:
            for chain in self._pipeline.leave:
                where = f"leave {subscription.group!r}"
                await self._step(where, chain.arun(self._connection, subscription))

    async def _step(self, where: str, running: Awaitable[Any]) -> bool:
        """
        Await one event's chains. Returns whether they ran to their end and the connection
        is still open.

        An exception of a filter is reported with its place; the next event still runs.
        """
        try:
            await running
        except (NotAllowed, InvalidData) as refusal:
            self._report(f"{where}: {refusal}")
            return False
        except Drop:
            return False
        except Close as close:
            self._printer.close(close.code, close.reason)
        except NoSuchMethod as error:
            self._report(f"{where}: no filter answers {error.method!r}")
            self.failed = True
            return False
        except (FilterError, TypeError, ValueError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, BrokenPipeError):
                # Raised in a filter that prints, because nobody reads standard output.
                raise cause from None
            who = f"{error.path} raised " if isinstance(error, FilterError) else ""
            self._report(f"{where}: {who}{type(cause).__name__}: {cause}")
            self.failed = True
            return False
        return self._printer.closed is None

    def _report(self, words: str) -> None:
        print(f"pipe: {' '.join(words.split())}", file=self._errors, flush=True)

    def _report_totals(self) -> None:
        if self._view.published:
            self._report(f"{self._view.published} published")
        if self._view.groups:
            self._report(f"{len(self._view.groups)} groups joined")
        if self._printer.closed is not None:
            self._report(f"closed with {self._printer.closed[0]} {self._printer.closed[1]!r}")


def _with_data(line: bytearray) -> tuple[str, Any]:
    """A line of one word and, if there is more, JSON."""
    word, _, data = line.decode().partition(" ")
    return word, json.loads(data) if data else None


class Frames:
    """A client that speaks a protocol: each line is a frame, and each frame a line."""

    def __init__(
        self, filters: Sequence[Any], output: BinaryIO, errors: Any, protocol: str
    ) -> None:
        self._app = FilteredWebSocketConsumer.as_asgi(filters=filters, protocol=protocol)
        self._printer = Printer(output)
        self._errors = errors
        self._lines: Iterator[bytes] = iter(())
        self._has_begun = False
        self.failed = False

    async def run(self, lines: Iterable[bytes]) -> None:
        """Connect, send every line, disconnect."""
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
        self._lines = iter(lines)
        with override_settings(CHANNEL_LAYERS={}):
            await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Event:
        if not self._has_begun:
            self._has_begun = True
            return {"type": "websocket.connect"}
        await self._settled()
        line = next(self._lines, None)
        if line is None:
            return {"type": "websocket.disconnect", "code": 1000}
        try:
            return {"type": "websocket.receive", "text": line.rstrip(b"\r\n").decode()}
        except UnicodeDecodeError:
            return {"type": "websocket.receive", "bytes": line}

    async def _settled(self) -> None:
        """Return when all that was sent is answered."""
        hub = get_hub()
        for connection in tuple(hub.connections.values()):
            if connection.running is not None:
                await connection.running.settled()
        await hub.settled()
        # Let the writer write.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.send":
            self._printer.line(event["text"].encode())
        elif event["type"] == "websocket.close":
            self.failed = True
            told = f"pipe: closed with {event['code']} {event.get('reason', '')!r}"
            print(told, file=self._errors, flush=True)


async def run(filters: Sequence[str], chain: str, protocol: str = PLAIN) -> int:
    """
    Run ``filters`` on standard input, by one of ``CHAINS``, or as clients of a protocol send
    it; returns the exit status.
    """
    if sys.stdin is None or sys.stdout is None:
        return _fail("standard input and standard output must be open")
    pipe: Pipe | Frames
    try:
        if protocol == PLAIN:
            pipe = Pipe(Pipeline(filters), sys.stdout.buffer, sys.stderr, chain)
        else:
            pipe = Frames(filters, sys.stdout.buffer, sys.stderr, protocol)
        get_storage_object()
    except ImproperlyConfigured as error:
        return _fail(error_line(error))
    try:
        await pipe.run(sys.stdin.buffer)
    except BrokenPipeError:
        # The reader has closed the pipe. Python must not fail on that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(pipe.failed)


def _fail(words: str) -> int:
    print(f"pipe: error: {words}", file=sys.stderr)
    return 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line, also of ``manage.py pipe``."""
    parser.add_argument("filters", nargs="+", metavar="FILTER", help="a module or a class")
    parser.add_argument(
        "--chain",
        choices=CHAINS,
        default=CHAINS[0],
        help="what a line is: a message of the client or of a group, a call, or a group to join",
    )
    parser.add_argument(
        "--protocol",
        choices=(PLAIN, *PROTOCOLS),
        default=PLAIN,
        help="how the client speaks; other than plain, a line is a frame, whatever the chain",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="pipe", description="Runs standard input through filters.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        set_up()
    except Exception as error:
        return _fail(error_line(error))
    try:
        return asyncio.run(run(options.filters, options.chain, options.protocol))
    except OSError as error:
        return _fail(error_line(error))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
