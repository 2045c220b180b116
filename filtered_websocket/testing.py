"""
Test your own filters without a server, Redis or threads.

::

    async def test_shout():
        async with connect([Shout, BroadcastMessagesFilter]) as ann, connect(...) as bob:
            await ann.send("hi")
            assert await bob.receive() == "HI"
"""

import asyncio
import contextlib
import inspect
import math
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import unquote, urlsplit

from django.contrib.auth.models import AnonymousUser
from django.test.utils import override_settings

from .connections.client import Client as StandIn
from .connections.connection import Connection
from .connections.handshake import LATEST_EVENT
from .consumers import FilteredWebSocketConsumer
from .exceptions import FilterError
from .filters.base import FilterMeta
from .groups import MAX_NAME, Action, GroupRule
from .history.stores import empty_histories as empty_histories
from .history.stores import history_of_tests
from .hub.registry import active_hub
from .hub.view import HubView
from .pipelines.entries import Entry
from .pipelines.permissions import ask
from .pipelines.rules import load_rules, make_rules
from .publishing.items import Published as Published
from .publishing.items import published as published
from .threads.blocking import in_the_thread_sensitive_thread
from .types import ASGIApplication, Call, Event

# So that also tests that never connect find nothing of one another.
history_of_tests()

#: How long ``receive`` and the other methods wait before they fail, seconds.
TIMEOUT = 5.0
#: Key of the scope: the client that the connection belongs to.
CLIENT = "filtered_websocket.testing.client"


class Closed(AssertionError):
    """The connection was closed where a message was expected."""


class Refused(AssertionError):
    """The connection was not accepted."""


def only_filters(*filters: Entry) -> Any:
    """Set ``INSTALLED_FILTERS`` to these, as a context manager or a decorator."""
    return override_settings(INSTALLED_FILTERS=list(filters))


class Client:
    """The client's end of a connection."""

    def __init__(self, app: ASGIApplication, scope: dict[str, Any]) -> None:
        self._app = app
        self._scope = {**scope, CLIENT: self}
        self._input: asyncio.Queue[Event] = asyncio.Queue()
        self._output: asyncio.Queue[Event] = asyncio.Queue()
        self._read = asyncio.Event()
        self._task: asyncio.Task[None]
        self.accepted = False
        #: The subprotocol that the server chose, if any.
        self.subprotocol: str | None = None
        #: Set when the connection is closed, by either side.
        self.close_code: int | None = None
        self.close_reason: str = ""

    async def open(self) -> None:
        """Send the handshake; then ``accepted`` says whether it was accepted."""
        history_of_tests().begin()
        self._task = asyncio.create_task(self._serve(), name="fws-test-connection")
        self._input.put_nowait({"type": "websocket.connect"})
        event = await self._next()
        if event["type"] == "websocket.accept":
            self.accepted = True
            self.subprotocol = event.get("subprotocol")
        else:
            self._note_close(event)

    async def _serve(self) -> None:
        with in_the_thread_sensitive_thread():
            await self._app(self._scope, self._receive, self._output.put)

    async def _receive(self) -> Event:
        # The application asks for the next message: it has handled those before, unless
        # another task looks for a disconnect meanwhile.
        if self._input.empty() and asyncio.current_task() is self._task:
            self._read.set()
        event = await self._input.get()
        return event

    async def _next(self) -> Event:
        getting = asyncio.ensure_future(self._output.get())
        await asyncio.wait(
            {getting, self._task}, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if getting.done():
            return getting.result()
        getting.cancel()
        if self._task.done():
            self._task.result()
            raise Closed("the application has ended")
        raise TimeoutError(f"nothing came within {TIMEOUT} s")

    async def send(self, message: str | bytes) -> None:
        """Send a frame, text for ``str`` and binary for ``bytes``."""
        key = "text" if isinstance(message, str) else "bytes"
        self._read.clear()
        self._input.put_nowait({"type": "websocket.receive", key: message})

    @property
    def connection(self) -> Connection:
        """Its connection, as filters get it; :exc:`Closed` if it is not open."""
        return self._find()[1]

    def _find(self) -> tuple[HubView, Connection]:
        hub = active_hub()
        for view in () if hub is None else hub.views.values():
            for connection in view.connections.values():
                if connection.scope.get(CLIENT) is self:
                    return view, connection
        raise Closed("the connection is closed")

    async def call(self, method: str, data: Any = None) -> Any:
        """
        The answer of the call chain, as protocols ask for it; so many at once as the route
        allows. Raises what a filter raised, :exc:`~filtered_websocket.exceptions.NoSuchMethod`
        or :exc:`Closed`.
        """
        view, connection = self._find()
        calls = view.calls_of(connection)
        task = await calls.start(calls.answer(Call(method, data)))
        if task is not None:
            await asyncio.wait({task})
        if task is None or task.cancelled():
            raise Closed("the connection was closed before the call was answered")
        try:
            return task.result()
        except FilterError as error:
            raise error.__cause__ or error from None

    async def receive(self) -> str | bytes:
        """The next message; :exc:`Closed` if the connection is closed instead."""
        event = await self._next()
        if event["type"] == "websocket.close":
            self._note_close(event)
            raise Closed(f"closed with {self.close_code} {self.close_reason!r}")
        message: str | bytes | None = event.get("text")
        return event["bytes"] if message is None else message

    async def received_nothing(self) -> bool:
        """Whether no message waits or will come, once all that was sent is handled."""
        await self.settle()
        return self._output.empty()

    async def settle(self) -> None:
        """Return when all that was sent is handled, and what it published is delivered."""
        if not self._task.done():
            reading = asyncio.ensure_future(self._read.wait())
            await asyncio.wait(
                {reading, self._task}, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED
            )
            reading.cancel()
        hub = active_hub()
        if hub is not None:
            await hub.settled()
            await hub.link.round_trip()
            await hub.settled()
        # Let the writer tasks run.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def closed(self) -> int:
        """Wait for the server's close and return its code; messages before it are skipped."""
        while self.close_code is None:
            event = await self._next()
            if event["type"] == "websocket.close":
                self._note_close(event)
        return self.close_code

    async def close(self, code: int = 1000) -> None:
        """Close from this side, and return when the disconnect chain has run."""
        if self.close_code is None:
            self.close_code = code
        self._input.put_nowait({"type": "websocket.disconnect", "code": code})
        await self._task

    def _note_close(self, event: Event) -> None:
        self.close_code = event.get("code", 1000)
        self.close_reason = event.get("reason", "")


class connect:
    """
    A connection to an ASGI application, or to a pipeline of ``filters``:
    ``client = await connect(...)``, or ``async with connect(...) as client``, which closes it.

    ``user`` becomes ``web_socket_instance.user``; ``group_rules`` and ``personal`` are those of
    ``as_asgi``. If the connection is refused, ``async with`` raises :exc:`Refused`; ``await``
    returns a client whose ``accepted`` is False and whose ``close_code`` says why.
    """

    def __init__(
        self,
        app_or_filters: ASGIApplication | Iterable[Entry] | None = None,
        path: str = "/",
        *,
        user: Any = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Iterable[str] = (),
        group_rules: Sequence[GroupRule] | str | None = None,
        personal: bool = False,
    ) -> None:
        if isinstance(app_or_filters, str | FilterMeta):
            raise TypeError(f"connect() takes a list of filters, [...], not {app_or_filters!r:.80}")
        if callable(app_or_filters):
            if group_rules is not None or personal:
                raise TypeError("group_rules and personal are those of the application")
            app = app_or_filters
        else:
            app = FilteredWebSocketConsumer.as_asgi(
                filters=app_or_filters, group_rules=group_rules, personal=personal
            )
        parts = urlsplit(path)
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in (headers or {}).items()
            ],
            "subprotocols": list(subprotocols),
            "user": AnonymousUser() if user is None else user,
            # A test may make a user up: do not look for it in the database.
            LATEST_EVENT: math.inf,
        }
        self._client = Client(app, scope)

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def _open(self) -> Client:
        await self._client.open()
        return self._client

    async def __aenter__(self) -> Client:
        client = await self._open()
        if not client.accepted:
            await client.close()
            raise Refused(f"refused with {client.close_code} {client.close_reason!r}")
        return client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


async def allows(
    rules: Sequence[GroupRule] | str, action: Action, group: str, user: Any = None
) -> bool:
    """
    Whether group rules (a list, or the dotted path of one) allow ``"join"``, ``"publish"`` or
    ``"see"`` to a connection of ``user``, who is anonymous if None. No client may where no
    rule declares the name, or to a name that is reserved or too long.
    """
    loaded = load_rules(rules) if isinstance(rules, str) else make_rules(rules, "the rules")
    match = None if len(group) > MAX_NAME else loaded.find(group)
    if match is None or (action == "join" and match.rule is loaded.personal):
        return False
    connection = StandIn({"path": "/", "user": AnonymousUser() if user is None else user})
    with in_the_thread_sensitive_thread():
        answer: Any = ask(match.rule.allowed(action), connection, match.captured)
        return bool(await answer if inspect.isawaitable(answer) else answer)


@contextlib.asynccontextmanager
async def connect_many(
    count: int, app_or_filters: ASGIApplication | Iterable[Entry], path: str = "/"
) -> AsyncIterator[list[Client]]:
    """``count`` connections to one application, opened at the same time."""
    async with AsyncExitStack() as stack:
        connections = [connect(app_or_filters, path) for _ in range(count)]
        yield await asyncio.gather(*map(stack.enter_async_context, connections))
