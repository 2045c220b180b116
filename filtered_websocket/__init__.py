"""
WebSocket servers composed the way a shell composes programs:
``cat server_event | behavior_a | behavior_b``.

These names can be imported before ``django.setup()``; the rest of the public
surface is imported from its own module.
"""

from .chains.current import current
from .exceptions import Close, Drop, NotAllowed, PublishError
from .filters.base import (
    FilterBase,
    FilterMeta,
    WebSocketCallFilter,
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
)

__version__ = "1.0.0.dev0"

__all__ = [
    "Close",
    "Drop",
    "FilterBase",
    "FilterMeta",
    "NotAllowed",
    "PublishError",
    "WebSocketCallFilter",
    "WebSocketConnectFilter",
    "WebSocketConsumerFilter",
    "WebSocketDataFilter",
    "WebSocketDisconnectFilter",
    "WebSocketGroupFilter",
    "WebSocketJoinFilter",
    "WebSocketLeaveFilter",
    "WebSocketMessageFilter",
    "WebSocketSendFilter",
    "__version__",
    "current",
]
