"""
daphne's lane for reading: complete short frames are parsed here, all others by autobahn.

Autobahn takes 11 microseconds for such a frame: some 40 calls, a masker made by its C
library, a Deferred for listeners that nobody added. This takes 1.5, including daphne's
``onMessage``.
"""

import logging
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..codecs.frames import LONGEST_SHORT, read_short_frame
from ..logs import get_logger
from .inbox import Inbox

logger = get_logger(__name__)

#: Methods of the protocol that parse what arrives. A subclass must not override them.
RECEIVING_METHODS = (
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
#: Other attributes used of the protocol object.
reading_attributes = attrgetter(
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
    "muted",
    "onMessage",
    "state",
    "trackedTimings",
    "trafficStats.incomingOctetsAppLevel",
    "trafficStats.incomingOctetsWebSocketLevel",
    "trafficStats.incomingOctetsWireLevel",
    "trafficStats.incomingWebSocketFrames",
    "trafficStats.incomingWebSocketMessages",
)


# In one function: it runs for every read of every socket, where more calls would cost
# measurable time.
def data_received(self: Any, data: bytes) -> None:
    """
    ``dataReceived`` of a protocol whose short frames are parsed here.

    First autobahn gets the end of a frame that it has begun. Then frames are parsed here as
    long as they are final, masked, uncompressed, short, complete and, where text, UTF-8.
    From the first other frame on, and in any other state, autobahn gets ``data``: so control
    frames keep their place, and errors are found and answered by autobahn. Once the inbox
    is full, the remaining bytes are kept in its reader.
    """
    reader = self.application_queue.reader
    if reader.keeps_bytes:
        reader.unparsed += data
        return
    is_open = self.STATE_OPEN
    autobahn: Any = type(self).__base__
    if (
        (self.data or self.current_frame is not None)
        and self.state == is_open
        and not self.failedByMe
    ):
        missing = _missing(self, data)
        if 0 < missing < len(data):
            # Autobahn gets the end of the frame that it has begun, and no more: where a
            # client never pauses, every read begins in the middle of a frame.
            autobahn.dataReceived(self, data[:missing])
            data = data[missing:]
            if self.failedByMe:
                # Autobahn, too, keeps what follows a wrong frame, unparsed.
                self.data += data
                self.trafficStats.incomingOctetsWireLevel += len(data)
                return
    if (
        self.data
        or self.current_frame is not None
        or self.inside_message
        or self.failedByMe
        # Any traffic may cancel this timeout: autobahn does that.
        or self.autoPingTimeoutCall is not None
        or self._listeners is not None
        or 0 < self.maxMessagePayloadSize < LONGEST_SHORT
        or 0 < self.maxFramePayloadSize < LONGEST_SHORT
    ):
        autobahn.dataReceived(self, data)
        return
    put = _message_handler(self)
    at = count = octets = 0
    while self.state == is_open and not reader.is_paused:
        found = read_short_frame(data, at)
        if found is None:
            break
        payload, text, at = found
        count += 1
        octets += len(payload)
        put(payload, text)
    if count:
        stats = self.trafficStats
        stats.incomingOctetsWireLevel += at
        stats.incomingOctetsWebSocketLevel += octets
        stats.incomingOctetsAppLevel += octets
        stats.incomingWebSocketFrames += count
        stats.incomingWebSocketMessages += count
    if at == len(data):
        return
    if reader.is_paused:
        reader.unparsed = data[at:]
    else:
        autobahn.dataReceived(self, data[at:])


def _message_handler(protocol: Any) -> Callable[[bytes, bool], None]:
    """
    What is called with each payload, and whether it is text: as daphne's ``onMessage``, but
    the payload is not decoded; ``onMessage`` itself where it is another, or has to log.
    """
    daphnes = sys.modules["daphne.ws_protocol"]
    handle = protocol.onMessage
    if (
        getattr(handle, "__func__", None) is not daphnes.WebSocketProtocol.onMessage
        or protocol.muted
        or daphnes.logger.isEnabledFor(logging.DEBUG)
    ):
        return lambda payload, text: handle(payload, not text)
    protocol.last_ping = time.time()
    put: Callable[[bytes, bool], None] = protocol.application_queue.put_message
    return put


def _missing(protocol: Any, data: bytes) -> int:
    """
    How many bytes of ``data`` complete the text or binary frame that has begun; 0 for other
    frames.

    A wrong answer would do no harm: autobahn gets the same bytes, split elsewhere.
    """
    frame = protocol.current_frame
    if frame is not None:
        missing: int = frame.length - protocol.current_frame_masker.pointer()
        return missing if frame.opcode in (1, 2) else 0
    begun = len(protocol.data)
    head: bytes = protocol.data + data[:8]
    if len(head) < 8 or not 0x81 <= head[0] <= 0x82:
        return 0
    size = head[1] - 0x80
    if size == 126:
        return 8 + (head[2] << 8 | head[3]) - begun
    return 6 + size - begun if 0 <= size < 126 else 0


#: Class of a protocol -> its subclass that parses short frames; None where it must not.
_reading_classes: dict[type, type | None] = {}


def read_short_frames(protocol: Any) -> bool:
    """Parse short frames of ``protocol`` here from now on. Returns whether that is possible."""
    kind = type(protocol)
    if type(protocol.application_queue) is not Inbox:
        return False
    if getattr(kind, "dataReceived", None) is data_received:
        return True
    if kind not in _reading_classes:
        _reading_classes[kind] = _make_reading_class(kind)
    reading_class = _reading_classes[kind]
    if reading_class is None:
        return False
    try:
        reading_attributes(protocol)
    except AttributeError as error:
        logger.warning(
            "frames are read by autobahn, whose release differs from those that this package"
            " supports (%s)",
            error,
        )
        return False
    if (
        protocol._perMessageCompress is not None
        or not protocol.applyMask
        or protocol.logFrames
        or protocol.logOctets
        or protocol.trackedTimings is not None
        or not vars(protocol).keys().isdisjoint(RECEIVING_METHODS)
    ):
        return False
    # The class and not an attribute is set: no reference cycle, no memory per connection.
    protocol.__class__ = reading_class
    return True


def _make_reading_class(kind: type) -> type | None:
    """A subclass of ``kind``; None where ``kind`` overrides how messages are parsed."""
    server = sys.modules.get("autobahn.twisted.websocket")
    known = getattr(server, "WebSocketServerProtocol", None)
    for way in RECEIVING_METHODS:
        if getattr(kind, way, None) is not getattr(known, way, way):
            return None
    # One base only: with two, the memory layout differs and Python refuses the change.
    names = {"__module__": kind.__module__, "dataReceived": data_received}
    return type(kind.__name__, (kind,), names)
