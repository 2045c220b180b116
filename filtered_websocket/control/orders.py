"""Sends control events to the hubs of all processes."""

import secrets
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

from ..auth.tenants import tenant_name, tenant_of
from ..exceptions import check_close
from ..groups import RESERVED
from ..layer.envelope import CONTROL, check_group
from ..logs import get_logger
from ..publish import queueing_hub, send_now
from ..publishing.items import control_item

logger = get_logger(__name__)


def recheck(kind: str, pk: Any) -> None:
    """Have every process re-check the connections of this ``token`` or ``user``."""
    send({"is": "changed", "kind": kind, "id": str(pk)})


def tell(key: str, value: Any) -> bool:
    """
    Tell all processes something that ``hub.registry.told`` has a function for; earlier versions
    take it for an answer that nobody waits for. Returns as :func:`send`.
    """
    return send({"is": "count", "nonce": secrets.token_hex(8), "tokens": {}, key: value})


def change(kind: str, name: str, group: str, client: str = "") -> bool:
    """
    Have connections ``subscribe`` or ``unsubscribe``: those of the user with this key, or the
    one with this id. With ``client`` that connection of theirs only; without a ``name``, that
    one if nobody is logged in on it. Returns as :func:`send`.

    ValueError for names of groups that are reserved.
    """
    for prefix, whose in RESERVED.items():
        if check_group(group).startswith(prefix):
            raise ValueError(f"group {group!r:.80}: names that begin with {prefix!r} are {whose}")
    event = {"is": "changed", "kind": kind, **_about(name, client), "group": group, **_tenant()}
    return send({**event, "n": secrets.token_hex(8)})


def set_expiry(name: str, client: str, at: int | None) -> bool:
    """
    Have connections expire at this Unix time, or not at all by this order; which ones, and
    what is returned, as of :func:`change`.
    """
    return send({"is": "changed", "kind": "expiry", **_about(name, client), "at": at, **_tenant()})


def close(
    kind: str, name: str, code: int, reason: str, client: str = "", keep: Iterable[str] = ()
) -> bool:
    """
    Close the connections of a ``user``, ``token`` or ``session``, or one ``connection``, but
    for those with the ids in ``keep``; ``client`` and what is returned as in
    :func:`change`.

    ValueError for a code or reason that an application may not send.
    """
    # Checked here, so that the caller gets the error.
    check_close(code, reason)
    event = {"is": "close", "kind": kind, **_about(name, client), "code": code, "reason": reason}
    kept = list(keep)
    return send({**event, "keep": kept} if kept else event)


def _about(name: str, client: str) -> dict[str, str]:
    """The fields that say which connections an event is about."""
    # A process of an earlier version knows the id alone: never that of somebody else's connection.
    return {"id": name, "client": client} if client else {"id": name}


def _tenant() -> dict[str, str]:
    tenant = tenant_name(tenant_of(copy_context()))
    return {"tenant": tenant} if tenant else {}


def send(event: dict[str, Any]) -> bool:
    """
    Send ``event`` to the hubs of all processes. Errors are logged, never raised. Whether
    there was none.

    In a process that serves no WebSockets it returns when Redis has it, as ``publish`` does.
    """
    try:
        hub = queueing_hub()
        # Encoded here, where an error is caught. The queue's bound is for messages only.
        item = control_item(event)
        if hub is not None:
            hub.call(hub.send_control, event, item)
        else:
            send_now(CONTROL, item)
    except Exception as error:
        # An error of the layer must not break the save or the logout that caused this.
        logger.error(
            "cannot send a control event: %r; its connections close at the next RECHECK", error
        )
        return False
    return True
