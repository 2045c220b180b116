"""Sets in this process's memory. They end with it, and no other process sees them."""

import argparse
import threading
from typing import Any

from .base import BaseStorageObject, as_text


class StorageObject(BaseStorageObject):
    """Never waits, so its async methods need no thread."""

    def __init__(self, options: argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        super().__init__(options, *args, **kwargs)
        self._sets: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def get(self, item: Any) -> frozenset[str]:
        with self._lock:
            return frozenset(self._sets.get(as_text(item), ()))

    def add(self, key: Any, value: Any) -> None:
        member = as_text(value)
        with self._lock:
            self._sets.setdefault(as_text(key), set()).add(member)

    def remove(self, key: Any, value: Any) -> None:
        name, member = as_text(key), as_text(value)
        with self._lock:
            members = self._sets.get(name)
            if members is None:
                return
            members.discard(member)
            if not members:
                del self._sets[name]

    def publish(self, channel: Any, data: Any) -> None:
        """Gives the event to the consumer chains of this process; with Redis, of all."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"data is str or bytes, not {data!r:.80}")
        if self._on_publish is not None:
            event = {"type": "message", "channel": as_text(channel), "data": data}
            self._on_publish({**event, "pattern": None})

    async def aget(self, item: Any) -> frozenset[str]:
        return self.get(item)

    async def aadd(self, key: Any, value: Any) -> None:
        self.add(key, value)

    async def aremove(self, key: Any, value: Any) -> None:
        self.remove(key, value)

    async def apublish(self, channel: Any, data: Any) -> None:
        self.publish(channel, data)
