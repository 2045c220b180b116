"""The Pusher protocol, for routes that name it: ``as_asgi(protocol="pusher")``."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from ..codecs.data import Data, from_bytes
from ..codecs.frames import BYTES, dump_json
from ..hub.registry import asked
from ..pipelines.rules import Rules
from ..transports import AsgiTransport
from ..types import Scope
from .channels import ChannelRules
from .codes import translate
from .connection import CONNECTIONS, PusherConnection
from .pushes import Pushes
from .session import Session


class Pusher:
    """One object for all routes; also their codec, for their chains."""

    name = "pusher"
    #: Where ``with_websockets(protocols=True)`` serves it; other paths are answered as well.
    path = "app/<path:key>"
    #: Users sign in, and join their own group then.
    is_personal = False

    translate = staticmethod(translate)

    def rules(self, declared: Rules | None) -> Rules:
        """The rules of a route: those that the site has declared, and the kinds of channels."""
        return ChannelRules(declared)

    def connection(
        self, scope: Scope, view: Any, transport: AsgiTransport, home: str
    ) -> PusherConnection:
        """A connection that speaks it."""
        transport.translate = translate
        return PusherConnection(scope, view, transport, home)

    def session(self, consumer: Any, view: Any) -> Session:
        """What handles the frames of the connection of ``consumer``."""
        return Session(consumer, view)

    def pushes(self, counts: Counter[str]) -> Pushes:
        """What sends to the subscribers of one pipeline."""
        return Pushes(counts)

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The message in data, which is JSON where it can be."""
        return from_bytes(bytes(frame)).value

    def encode(self, message: Any, meta: Any) -> str | bytes:
        """A message as it is published."""
        if isinstance(message, Data):
            return message.payload
        return bytes(message) if isinstance(message, BYTES) else dump_json(message)


PUSHER = Pusher()


def _count(hub: Any, key: str, reply: Callable[[dict[str, Any]], None]) -> None:
    """How many connections of this process have the key of an app."""
    pushes = [view.pushes for view in hub.views.values()]
    counts = [one.apps[key] for one in pushes if isinstance(one, Pushes)]
    reply({CONNECTIONS: sum(counts)})


asked[CONNECTIONS] = _count
