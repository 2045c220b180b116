"""Control events: what one process tells the hubs of all."""

from typing import Any

from ..layer.publish_queue import new_item
from ..logs import get_logger
from ..publish import is_heard, own_hub

logger = get_logger(__name__)


def recheck(kind: str, pk: Any) -> None:
    """Have every process ask whether connections of this ``token`` or ``user`` may stay."""
    tell({"is": "changed", "kind": kind, "id": str(pk)})


def tell(event: dict[str, Any]) -> None:
    """Say ``event`` to the hubs of all processes; what hinders that is logged, not raised."""
    try:
        if is_heard():
            hub = own_hub()
            # Made here, where a mistake is caught; the queue's bound is for messages.
            hub.call(hub.send_control, event, new_item(event))
    except Exception as error:
        # Whoever saved or logged out has done so, whatever is wrong with the layer.
        logger.error("connections end only at the next RECHECK: %r", error)
