"""Messages that a hub sends itself, to know whether its subscriptions stand."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..conf import conf
from ..types import ChannelLayer
from .envelope import VERSION
from .health import LOST

#: The key of a probe in its envelope.
PROBE = "probe"


class Probes:
    """
    Messages to ourselves, one through each host of the layer.

    They go through groups of their own, joined as any other, so that one returns only
    if the layer still knows what was joined.
    """

    def __init__(self, layer: ChannelLayer, on_cut: Callable[[Exception], None]) -> None:
        self._layer = layer
        self._on_cut = on_cut
        self._sent: set[str] = set()
        self._returned = asyncio.Event()
        self.keys = _one_key_per_host(layer, f"{conf.NAMESPACE}.probe.{secrets.token_hex(8)}")

    async def send(self) -> None:
        """Send one of each; raises what the layer raises."""
        self._returned.clear()
        self._sent = {f"{key} {secrets.token_hex(8)}" for key in self.keys}
        for token in tuple(self._sent):
            key, _, _ = token.partition(" ")
            await self._layer.group_send(key, {"v": VERSION, PROBE: token})

    async def returned(self) -> None:
        """Return when all that were sent last have come back."""
        await self._returned.wait()

    def note(self, token: Any) -> None:
        """One has arrived, though perhaps of an earlier round."""
        if token in self._sent:
            self._sent.discard(token)
            if not self._sent:
                self._returned.set()

    def watch_connections(self) -> None:
        """
        Hear of every connection that the layer makes anew to listen.

        The pubsub layer of channels_redis subscribes again without a word, and what was
        published meanwhile is gone; redis-py tells whoever asks the connection. Where
        these attributes are not, the next probe that is missing has to do.
        """
        for connection in self._connections():
            connection.register_connect_callback(self._connected)

    async def cut(self) -> None:
        """
        End the connections that listen; the pubsub layer makes new ones. One whose other
        end has gone without a word would stay silent, and the layer deaf, for ever.
        """
        for connection in self._connections():
            with suppress(*LOST):
                await connection.disconnect(nowait=True)

    def _connections(self) -> list[Any]:
        """Of the pubsub layer, one for each host, where it has the shape we know."""
        pubsubs = [getattr(shard, "_pubsub", None) for shard in getattr(self._layer, "_shards", ())]
        found = [getattr(pubsub, "connection", None) for pubsub in pubsubs]
        return [one for one in found if hasattr(one, "register_connect_callback")]

    def _connected(self, connection: Any) -> None:
        self._on_cut(ConnectionError("the subscription was cut, and made anew"))


def _one_key_per_host(layer: ChannelLayer, base: str) -> list[str]:
    """Names of groups that together use every host, as far as the layer shows them."""
    hosts = len(getattr(layer, "_shards", ())) or getattr(layer, "ring_size", 1)
    keys: dict[object, str] = {}
    # A hash of 12 bits spreads them: a thousand names a host find it.
    for number in range(1000 * hosts):
        key = f"{base}.{number}"
        keys.setdefault(_host_of(layer, key), key)
        if len(keys) == hosts:
            break
    return list(keys.values())


def _host_of(layer: Any, key: str) -> object:
    """Which host carries a group, where the layer is one of channels_redis."""
    if hasattr(layer, "_get_shard"):
        return layer._get_shard(layer._get_group_channel_name(key))
    if hasattr(layer, "consistent_hash"):
        return layer.consistent_hash(key)
    return None
