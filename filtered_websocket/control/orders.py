"""Sends control events to the hubs of all processes."""

from typing import Any

from ..layer.envelope import CONTROL
from ..logs import get_logger
from ..publish import queueing_hub, send_now
from ..publishing.items import new_item

logger = get_logger(__name__)


def recheck(kind: str, pk: Any) -> None:
    """Have every process re-check the connections of this ``token`` or ``user``."""
    send({"is": "changed", "kind": kind, "id": str(pk)})


def send(event: dict[str, Any]) -> None:
    """
    Send ``event`` to the hubs of all processes. Errors are logged, never raised.

    In a process that serves no WebSockets it returns when Redis has it, as ``publish`` does.
    """
    try:
        hub = queueing_hub()
        # Encoded here, where an error is caught. The queue's bound is for messages only.
        item = new_item(event)
        if hub is not None:
            hub.call(hub.send_control, event, item)
        else:
            send_now(CONTROL, item)
    except Exception as error:
        # An error of the layer must not break the save or the logout that caused this.
        logger.error(
            "cannot send a control event: %r; its connections close at the next RECHECK", error
        )
