"""
Runs a pipeline on standard input: each line is a message, each result is printed as a line::

    $ printf 'a\\nb\\n' | python -m filtered_websocket.pipe myfilters.Shout
    A
    B

For trying out a filter. The connection is simulated: what is sent to it is printed; what it
publishes and the groups that it joins are counted.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, cast

from django.core.exceptions import ImproperlyConfigured

from .codecs.frames import Frame, text_event, to_frame
from .connections.connection import Connection
from .connections.handshake import Handshake
from .connections.subscription import Subscription
from .connections.token_groups import token_of
from .exceptions import Close, Drop, FilterError, NotAllowed
from .groups import Action
from .hub import joining
from .layer.envelope import check_group
from .pipelines.pipeline import Pipeline
from .publishing.items import new_item
from .server.standalone import Parser, error_line, set_up
from .storage_objects import get_storage_object
from .threads.result import Result
from .transports import AsgiTransport, settle


class Printer:
    """Used instead of a transport: prints each frame as a line."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self.closed: tuple[int, str] | None = None

    @property
    def closing(self) -> bool:
        return self.closed is not None

    def line(self, data: bytes) -> None:
        # Flushed at once: the reader of this output may be waiting.
        self._output.write(data + b"\n")
        self._output.flush()

    def write(self, frame: Frame, done: "asyncio.Future[None] | None" = None) -> None:
        if self.closed is None:
            self.line(frame.payload)
        settle(done)

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)


class StandInView:
    """Used instead of the hub, with no other connection."""

    codec = None
    queue = property(lambda self: self)

    def __init__(self, loop: asyncio.AbstractEventLoop, pipeline: Pipeline) -> None:
        self.loop = loop
        self.pipeline = pipeline
        self._thread = threading.get_ident()
        self.users: Mapping[str, Connection] = {}
        self.published = 0
        self.groups: set[str] = set()

    def queue_of(self, connection: Connection) -> Any:
        return self

    @property
    def storage_object(self) -> Any:
        return get_storage_object()

    def put(self, event: Any, block: bool = True, timeout: float | None = None) -> None:
        """Ignored: consumer chains do not run here."""

    @property
    def is_current(self) -> bool:
        return threading.get_ident() == self._thread

    def call(self, function: Callable[..., object], *args: Any) -> None:
        if self.is_current:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    def join(self, connection: Connection, group: str, trusted: bool, data: Any) -> Any:
        return joining.join(self, connection, group, trusted, data)

    def enter(self, connection: Connection, group: str) -> Any:
        return joining.enter(self, connection, group, trusted=True)

    def allows(self, connection: Connection, action: Action, group: str) -> Any:
        return joining.allows(self, connection, action, group)

    def become_member(
        self, connection: Connection, group: str, subscription: Subscription | None = None
    ) -> bool:
        self.groups.add(group)
        if subscription is not None:
            connection.add_subscription(subscription)
        connection.joined.add(group)
        return True

    def not_allowed(self, error: NotAllowed, where: str) -> None:
        """Never called: without group rules nothing is refused later."""

    def leave(self, connection: Connection, group: str) -> None:
        connection.joined.discard(group)
        connection.remove_subscription(group)

    async def use_token(self, connection: Connection, key: str | None) -> Any:
        connection.token = await token_of(connection, key)
        if connection.token is not None:
            self.become_member(connection, connection.token.group_name)
        return connection.token

    def submit(
        self, message: Any, group: str, *, sender: str, exclude: Iterable[str], on_commit: bool
    ) -> None:
        check_group(group)
        new_item(message, sender=sender, exclude=exclude, text=text_event.get())
        self.published += 1

    def asubmit(
        self, message: Any, group: str, *, sender: str, exclude: Iterable[str]
    ) -> Result[None]:
        self.submit(message, group, sender=sender, exclude=exclude, on_commit=False)
        return Result(None)


class Pipe:
    """One run of a pipeline over ``lines``."""

    def __init__(self, pipeline: Pipeline, output: BinaryIO, errors: Any) -> None:
        self._pipeline = pipeline
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
            await self._step(f"line {number}", self._message(bytearray(line.rstrip(b"\r\n"))))
            if self._printer.closed is not None:
                break
        connection.close_code, connection.close_reason = self._printer.closed or (1000, "")
        for chain in pipeline.disconnect:
            await self._step("disconnect", chain.arun(connection))
        self._report_totals()

    async def _message(self, frame: bytearray) -> None:
        text_event.set(True)
        frame = await self._pipeline.data.arun(self._connection, frame)
        message = await self._pipeline.message.arun(self._connection, frame)
        self._printer.line(to_frame(message, text=True).payload)

    async def _step(self, where: str, running: Awaitable[Any]) -> bool:
        """
        Await one event's chains. Returns whether they ran to their end and the connection
        is still open.

        An exception of a filter is reported with its place; the next event still runs.
        """
        try:
            await running
        except NotAllowed as refusal:
            self._report(f"{where}: {refusal}")
            return False
        except Drop:
            return False
        except Close as close:
            self._printer.close(close.code, close.reason)
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


async def run(filters: Sequence[str]) -> int:
    """Run ``filters`` on standard input; returns the exit status."""
    if sys.stdin is None or sys.stdout is None:
        return _fail("standard input and standard output must be open")
    try:
        pipeline = Pipeline(filters)
        get_storage_object()
    except ImproperlyConfigured as error:
        return _fail(error_line(error))
    pipe = Pipe(pipeline, sys.stdout.buffer, sys.stderr)
    try:
        await pipe.run(sys.stdin.buffer)
    except BrokenPipeError:
        # The reader has closed the pipe. Python must not fail on that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(pipe.failed)


def _fail(words: str) -> int:
    print(f"pipe: error: {words}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="pipe", description="Runs standard input through filters.")
    parser.add_argument("filters", nargs="+", metavar="FILTER", help="a module or a class")
    options = parser.parse_args(arguments)
    try:
        set_up()
    except Exception as error:
        return _fail(error_line(error))
    try:
        return asyncio.run(run(options.filters))
    except OSError as error:
        return _fail(error_line(error))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
