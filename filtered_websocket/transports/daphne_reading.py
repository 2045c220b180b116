"""
daphne's lane in: whole short frames are taken out of what arrived, all else is autobahn's.

Autobahn spends 11 microseconds on such a frame: some 40 calls, a masker made by way of
its C library, a Deferred for listeners that nobody added. This takes 1.5, daphne's own
``onMessage`` included.
"""

import sys
from operator import attrgetter
from typing import Any

from ..codecs.frames import is_utf8
from ..logs import get_logger
from .inbox import Inbox

logger = get_logger(__name__)

#: Longest payload that is taken, bytes: beyond it autobahn's masker is the faster one.
LONGEST = 1024
#: Methods of the protocol by which bytes become messages.
WAYS_IN = (
    "_dataReceived",
    "_onMessage",
    "_onMessageBegin",
    "_onMessageEnd",
    "_onMessageFrame",
    "_onMessageFrameBegin",
    "_onMessageFrameData",
    "_onMessageFrameEnd",
    "consumeData",
    "dataReceived",
    "onFrameBegin",
    "onFrameData",
    "onFrameEnd",
    "onMessageBegin",
    "onMessageEnd",
    "onMessageFrame",
    "onMessageFrameBegin",
    "onMessageFrameData",
    "onMessageFrameEnd",
    "processData",
)
#: What is used of the protocol object besides.
look_at_reading = attrgetter(
    "STATE_OPEN",
    "_listeners",
    "_perMessageCompress",
    "applyMask",
    "autoPingTimeoutCall",
    "current_frame",
    "data",
    "failedByMe",
    "inside_message",
    "logFrames",
    "logOctets",
    "maxFramePayloadSize",
    "maxMessagePayloadSize",
    "onMessage",
    "state",
    "trackedTimings",
    "trafficStats.incomingOctetsAppLevel",
    "trafficStats.incomingOctetsWebSocketLevel",
    "trafficStats.incomingOctetsWireLevel",
    "trafficStats.incomingWebSocketFrames",
    "trafficStats.incomingWebSocketMessages",
)


# In one function, although it is long: it runs for every read of every socket, where calls
# of functions for its steps would be felt.
def data_received(self: Any, data: bytes) -> None:
    """
    ``dataReceived`` of a protocol that takes short frames.

    Hands on the messages of the frames that ``data`` begins with, behind the rest of one
    that autobahn has begun, as long as they are final, masked, uncompressed, short,
    complete and, where text, UTF-8. From the first other one on, and in any other state,
    ``data`` is for autobahn: control frames keep their place, and what is wrong is found
    and answered there. Once the inbox is full, the rest is left at its gate.
    """
    gate = self.application_queue.gate
    if gate.keeps:
        gate.rest += data
        return
    is_open = self.STATE_OPEN
    autobahn: Any = type(self).__base__
    if (
        (self.data or self.current_frame is not None)
        and self.state == is_open
        and not self.failedByMe
    ):
        lack = _lack(self, data)
        if 0 < lack < len(data):
            # Autobahn ends the frame that it has begun, and no more: of a client that never
            # pauses, every read begins in the middle of one.
            autobahn.dataReceived(self, data[:lack])
            data = data[lack:]
            if self.failedByMe:
                # So it leaves what stands behind a frame that is wrong.
                self.data += data
                self.trafficStats.incomingOctetsWireLevel += len(data)
                return
    if (
        self.data
        or self.current_frame is not None
        or self.inside_message
        or self.failedByMe
        # Which any traffic may call off.
        or self.autoPingTimeoutCall is not None
        or self._listeners is not None
        or 0 < self.maxMessagePayloadSize < LONGEST
        or 0 < self.maxFramePayloadSize < LONGEST
    ):
        autobahn.dataReceived(self, data)
        return
    at = count = octets = 0
    end = len(data)
    while at + 6 <= end and self.state == is_open and not gate.is_shut:
        # RFC 6455 section 5.2; without the bit for "masked", the size is below zero.
        first, size = data[at], data[at + 1] - 0x80
        mask = at + 2
        if size == 126:
            size = data[mask] << 8 | data[mask + 1]
            mask += 2
            if size < 126:
                break
        elif size == 127:
            break
        start = mask + 4
        stop = start + size
        if not (0x81 <= first <= 0x82 and 0 <= size <= LONGEST and stop <= end):
            break
        payload = _unmask(data[mask:start], data[start:stop], size)
        if first == 0x81 and not is_utf8(payload):
            break
        at = stop
        count += 1
        octets += size
        self.onMessage(payload, first == 0x82)
    if count:
        stats = self.trafficStats
        stats.incomingOctetsWireLevel += at
        stats.incomingOctetsWebSocketLevel += octets
        stats.incomingOctetsAppLevel += octets
        stats.incomingWebSocketFrames += count
        stats.incomingWebSocketMessages += count
    if at == end:
        return
    if gate.is_shut:
        gate.rest = data[at:]
    else:
        autobahn.dataReceived(self, data[at:])


def _lack(protocol: Any, data: bytes) -> int:
    """
    Octets of ``data`` that end the text or binary frame which has begun; 0 for another.

    Were it wrong, autobahn would get the same octets, in other pieces.
    """
    frame = protocol.current_frame
    if frame is not None:
        lack: int = frame.length - protocol.current_frame_masker.pointer()
        return lack if frame.opcode in (1, 2) else 0
    begun = len(protocol.data)
    head: bytes = protocol.data + data[:8]
    if len(head) < 8 or not 0x81 <= head[0] <= 0x82:
        return 0
    size = head[1] - 0x80
    if size == 126:
        return 8 + (head[2] << 8 | head[3]) - begun
    return 6 + size - begun if 0 <= size < 126 else 0


def _unmask(mask: bytes, payload: bytes, size: int) -> bytes:
    """RFC 6455 section 5.3, all octets at once: as two numbers of ``size`` octets."""
    key = (mask * ((size + 3) >> 2))[:size]
    number = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return number.to_bytes(size, "little")


#: Class of a protocol -> the same that takes short frames; None where it must not.
_taking: dict[type, type | None] = {}


def take_short_frames(protocol: Any) -> bool:
    """Have ``protocol`` take short frames from now on; whether it is as known."""
    kind = type(protocol)
    if type(protocol.application_queue) is not Inbox:
        return False
    if getattr(kind, "dataReceived", None) is data_received:
        return True
    if kind not in _taking:
        _taking[kind] = _make_taking(kind)
    taking = _taking[kind]
    if taking is None:
        return False
    try:
        look_at_reading(protocol)
    except AttributeError as error:
        logger.warning("autobahn is not as this package knows it: %s", error)
        return False
    if (
        protocol._perMessageCompress is not None
        or not protocol.applyMask
        or protocol.logFrames
        or protocol.logOctets
        or protocol.trackedTimings is not None
        or not vars(protocol).keys().isdisjoint(WAYS_IN)
    ):
        return False
    # Its class, not an attribute that refers to it: no cycle, and no byte per connection.
    protocol.__class__ = taking
    return True


def _make_taking(kind: type) -> type | None:
    """A subclass is welcome that leaves alone how messages come about."""
    server = sys.modules.get("autobahn.twisted.websocket")
    known = getattr(server, "WebSocketServerProtocol", None)
    for way in WAYS_IN:
        if getattr(kind, way, None) is not getattr(known, way, way):
            return None
    # One base only: with two, Python takes its objects for others than those of ``kind``.
    names = {"__module__": kind.__module__, "dataReceived": data_received}
    return type(kind.__name__, (kind,), names)
