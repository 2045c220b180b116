"""Messages that a hub sends to itself, to check that its subscriptions work."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..conf import conf
from ..types import GroupLayer
from .envelope import VERSION, BadEnvelope
from .health import LOST

#: The key of a probe in its envelope.
PROBE = "probe"


class Probes:
    """
    One message to this hub through each host of the layer.

    Each goes through a group of its own, joined like any other: it returns only if the
    layer still knows that this hub has joined.
    """

    def __init__(self, layer: GroupLayer, on_reconnected: Callable[[Exception], None]) -> None:
        self._layer = layer
        self._on_reconnected = on_reconnected
        self._sent: set[str] = set()
        self._returned = asyncio.Event()
        self.keys = _one_key_per_host(layer, f"{conf.NAMESPACE}.probe.{secrets.token_hex(8)}")

    async def send(self) -> None:
        """Send one through each host; raises what the layer raises."""
        self._returned.clear()
        self._sent = {f"{key} {secrets.token_hex(8)}" for key in self.keys}
        for token in tuple(self._sent):
            key, _, _ = token.partition(" ")
            await self._layer.group_send(key, {"v": VERSION, PROBE: token})

    async def wait_returned(self) -> None:
        """Return when all of the last :meth:`send` have come back."""
        await self._returned.wait()

    def handle(self, token: Any) -> None:
        """
        A probe has arrived; one of an earlier :meth:`send` is ignored.

        Raises :exc:`BadEnvelope` for anything that no hub sends as a probe.
        """
        if not isinstance(token, str) or not token.startswith(f"{conf.NAMESPACE}.probe."):
            raise BadEnvelope(f"not a probe: {type(token).__name__} {token!r:.80}")
        if token in self._sent:
            self._sent.discard(token)
            if not self._sent:
                self._returned.set()

    def watch_connections(self) -> None:
        """
        Have every reconnect of the layer's subscriber connections reported.

        The pubsub layer of channels_redis reconnects and subscribes again without an event,
        and what was published meanwhile is lost. redis-py connections accept a callback.
        Where these attributes are missing, the next missing probe detects it.
        """
        for connection in self._connections():
            connection.register_connect_callback(self._connected)

    async def close_connections(self) -> None:
        """
        Close the subscriber connections; the pubsub layer opens new ones. Otherwise a
        connection whose other end has vanished would never receive anything again.
        """
        for connection in self._connections():
            with suppress(*LOST):
                await connection.disconnect(nowait=True)

    def _connections(self) -> list[Any]:
        """The pubsub layer's subscriber connections, where it has the known attributes."""
        pubsubs = [getattr(shard, "_pubsub", None) for shard in getattr(self._layer, "_shards", ())]
        found = [getattr(pubsub, "connection", None) for pubsub in pubsubs]
        return [one for one in found if hasattr(one, "register_connect_callback")]

    def _connected(self, connection: Any) -> None:
        self._on_reconnected(ConnectionError("the subscriber connection was cut and reconnected"))


def _one_key_per_host(layer: GroupLayer, base: str) -> list[str]:
    """Group names that together use every host, as far as the layer shows its hosts."""
    hosts = len(getattr(layer, "_shards", ())) or getattr(layer, "ring_size", 1)
    keys: dict[object, str] = {}
    # The layer hashes names to 12 bits: a thousand names per host are enough.
    for number in range(1000 * hosts):
        key = f"{base}.{number}"
        keys.setdefault(_host_of(layer, key), key)
        if len(keys) == hosts:
            break
    return list(keys.values())


def _host_of(layer: Any, key: str) -> object:
    """Which host a group is on, for the layers of channels_redis."""
    if hasattr(layer, "_get_shard"):
        return layer._get_shard(layer._get_group_channel_name(key))
    if hasattr(layer, "consistent_hash"):
        return layer.consistent_hash(key)
    return None
