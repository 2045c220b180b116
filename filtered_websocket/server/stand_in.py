"""Used instead of a server and a hub, where one pipeline runs over standard input."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from ..codecs.frames import Frame, text_event
from ..connections.connection import Connection, Exclude, excluded_ids
from ..connections.subscription import Subscription, recovered
from ..connections.token_groups import token_of
from ..exceptions import NotAllowed
from ..groups import Action
from ..history.base import Position
from ..hub import joining
from ..layer.envelope import check_group
from ..pipelines.keeping import keep_by
from ..pipelines.pipeline import Pipeline
from ..publishing.items import new_item
from ..storage_objects import get_storage_object
from ..threads.result import Result
from ..transports import settle


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
        #: The subscriptions that have ended, whose leave chain has not run.
        self.ended: list[Subscription] = []

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
        return joining.join(self, connection, group, trusted, data, None)

    def recover(
        self, connection: Connection, group: str, since: Position, trusted: bool, data: Any
    ) -> Any:
        joined = joining.join(self, connection, group, trusted, data, since)
        return connection.start_task(recovered(connection, group, joined), "fws-recover")

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

    def present(self, group: str) -> Mapping[str, Any]:
        return {}

    def leave(self, connection: Connection, group: str) -> None:
        connection.joined.discard(group)
        ended = connection.remove_subscription(group)
        if ended is not None:
            self.ended.append(ended)

    async def use_token(self, connection: Connection, key: str | None) -> Any:
        connection.token = await token_of(connection, key)
        if connection.token is not None:
            self.become_member(connection, connection.token.group_name)
        return connection.token

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
    ) -> None:
        to = self.pipeline.home if group is None else group
        self.submit(message, to, sender="", exclude=excluded_ids(exclude), on_commit=on_commit)

    def fan_out(self, group: str, message: Any, *, exclude: Exclude = ()) -> None:
        for connection in self.users.values():
            connection.push(message)

    def submit(
        self,
        message: Any,
        group: str,
        *,
        sender: str,
        exclude: Iterable[str],
        on_commit: bool,
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        keep_by(self.pipeline.rules, check_group(group), idempotency_key)
        new_item(message, sender=sender, exclude=exclude, text=text_event.get(), meta=meta)
        self.published += 1

    def asubmit(
        self, message: Any, group: str, *, sender: str, exclude: Iterable[str], **more: Any
    ) -> Result[Position | None]:
        self.submit(message, group, sender=sender, exclude=exclude, on_commit=False, **more)
        return Result(None)
