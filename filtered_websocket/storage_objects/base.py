"""What every storage object can do."""

import argparse
import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

#: An event of the consumer chain that came from pub/sub.
Event = dict[str, Any]


def as_text(value: Any) -> str:
    """
    A key or member as text: ``bytes`` are decoded, a UUID or int is written out.

    TypeError for anything else, which two backends might store differently.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, uuid.UUID | int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a key or member is str, bytes, UUID or int, not {value!r:.80}")


class BaseStorageObject:
    """
    Sets of text by key, shared by all filters of a server.

    ``get``, ``add``, ``remove`` and ``publish`` are for plain filters; the same with an
    ``a`` before it are for async ones; here they run the plain ones in a thread.
    """

    #: Whether :meth:`listen` yields anything.
    listens = False

    def __init__(self, options: argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        self.options = options
        self._on_publish: Callable[[Event], None] | None = None

    @classmethod
    def parser(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add this storage object's own arguments to a command line."""
        return parser

    def attach(self, on_publish: Callable[[Event], None] | None) -> None:
        """Set the function that events of this process are given to; None: they are ignored."""
        self._on_publish = on_publish

    def get(self, item: Any) -> frozenset[str]:
        """The members of a key; empty where there is none."""
        raise NotImplementedError

    def __getitem__(self, item: Any) -> frozenset[str]:
        return self.get(item)

    def add(self, key: Any, value: Any) -> None:
        """Put a member into a key's set."""
        raise NotImplementedError

    def remove(self, key: Any, value: Any) -> None:
        """Take a member out; no error where it is not in."""
        raise NotImplementedError

    def publish(self, channel: Any, data: Any) -> None:
        """Send an event to the consumer chains of this server."""
        raise NotImplementedError

    async def aget(self, item: Any) -> frozenset[str]:
        """:meth:`get`, awaited."""
        return await asyncio.to_thread(self.get, item)

    async def aadd(self, key: Any, value: Any) -> None:
        """:meth:`add`, awaited."""
        await asyncio.to_thread(self.add, key, value)

    async def aremove(self, key: Any, value: Any) -> None:
        """:meth:`remove`, awaited."""
        await asyncio.to_thread(self.remove, key, value)

    async def apublish(self, channel: Any, data: Any) -> None:
        """:meth:`publish`, awaited."""
        await asyncio.to_thread(self.publish, channel, data)

    def listen(self) -> AsyncGenerator[Event, None]:
        """Yields events of pub/sub. Reconnects by itself, for as long as it is iterated."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close what belongs to the running event loop, such as its connections."""


class BasePubSubStorageObject(BaseStorageObject):
    """
    A storage object whose events come from a subscriber's thread, as in 0.4: the
    stand-alone server runs ``get_subscriber()(client=get_client(), options=options)``.
    """

    def get_client(self) -> Any:
        """The client that the subscriber listens with."""
        raise NotImplementedError

    @classmethod
    def get_subscriber(cls) -> Any:
        """A class with ``listener(web_socket_instance)`` and ``kill()``."""
        raise NotImplementedError
