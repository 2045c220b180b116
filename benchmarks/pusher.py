"""Bytes of clients that speak the Pusher protocol."""

import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .contenders import PAYLOAD
from .servers.site_settings import PUSHER_APP
from .wire import MASK, Wire, build_frame


def say(event: str, **fields: Any) -> bytes:
    return json.dumps({"event": event, **fields}, separators=(",", ":")).encode()


def sign(text: str) -> str:
    secret = str(PUSHER_APP["SECRET"]).encode()
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class PusherWire(Wire):
    """One that is subscribed to a private channel, and sends client events to the others."""

    channel: str = ""

    def target(self, kind: str, group: str) -> str:
        return f"/app/{PUSHER_APP['KEY']}?protocol=7"

    @property
    def greetings(self) -> tuple[tuple[bytes, bytes | None], ...]:
        events = "pusher:connection_established", "pusher_internal:subscription_succeeded"
        return tuple((b'{"event":"%s"' % event.encode(), None) for event in events)

    def reply(self, payload: bytes, answer: bytes | None) -> bytes | None:
        said = json.loads(payload)
        if said["event"] != "pusher:connection_established":
            return None
        socket_id = json.loads(said["data"])["socket_id"]
        auth = f"{PUSHER_APP['KEY']}:{sign(f'{socket_id}:{self.channel}')}"
        return say("pusher:subscribe", data={"channel": self.channel, "auth": auth})

    @cached_property
    def outgoing(self) -> bytes:
        data = self.payload.decode()
        said = say("client-message", channel=self.channel, data=data)
        return build_frame(said, mask=MASK)

    @property
    def incoming(self) -> bytes:  # type: ignore[override]
        """Not known."""
        return b""

    def delivers(self, payload: bytes) -> bool:
        return payload.startswith(b'{"event":"client-') and self.payload in payload

    def answer(self, payload: bytes) -> bytes | None:
        return say("pusher:pong", data={}) if b'"pusher:ping"' in payload else None


def pusher_wire(group: str) -> PusherWire:
    """How a client speaks that is in this group."""
    return PusherWire(PAYLOAD, channel=f"private-{group}")
