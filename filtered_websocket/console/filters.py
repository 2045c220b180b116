"""
The console's own pipeline, of filters as a site would write them::

    connect | enter                staff with the permission, on the console's own page
    data    | rate_limit
    call    | look | watch | act   what is shown, what passes by, and what is done

Permissions are asked of the database: at the handshake, every ``LOOK_AGAIN`` seconds while
somebody looks, and at each action.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.urls import path

from .. import Close, NotAllowed, WebSocketCallFilter, WebSocketConnectFilter
from ..auth.tenants import tenant_name, tenant_of
from ..close_codes import FORBIDDEN
from ..conf import conf
from ..connections.connection import Connection
from ..connections.handshake import Handshake
from ..consumers import FilteredWebSocketConsumer
from ..pipelines.permissions import fresh_users
from ..threads.blocking import run_blocking
from ..types import Call
from .actions import ACTIONS, TEE, VIEW, Refused, find_permissions, page_key
from .asking import LOOKS
from .tee import Subject, Tee, on_connection, on_group, on_place

#: Permissions are asked again after so many seconds.
LOOK_AGAIN = 5.0
#: What a page offers as a subprotocol: this and its key.
PREFIX = "fws-console."
#: A page watches for so long at most, seconds, and so many messages.
TEE_SECONDS, TEE_MESSAGES = 300.0, 1000
#: How many calls of one page run at once, and how many each of the staff may make.
CALLS = 4
RATE = {"rate": "10/s", "burst": 40, "per": "user"}


def _now_permitted(user: Any) -> frozenset[str]:
    """As the database has it now. It blocks."""
    return find_permissions(fresh_users([user])[0])


async def permissions_of(connection: Connection) -> frozenset[str]:
    """
    What its user may, asked of the database every ``LOOK_AGAIN`` seconds. Once that is nothing
    the connection is closed.
    """
    known, at = connection.state["permissions"]
    if time.monotonic() - at >= LOOK_AGAIN:
        try:
            known = await run_blocking(_now_permitted, connection.user)
            connection.state["permissions"] = known, time.monotonic()
        except Exception:
            # While the database is away, staff may look for as long as connections stay open.
            if time.monotonic() - at >= conf.RECHECK:
                raise
    return _permitted(known)


def _permitted(known: frozenset[str]) -> frozenset[str]:
    if VIEW not in known:
        raise Close(FORBIDDEN, "no permission for the console")
    return known


class EnterFilter(WebSocketConnectFilter):
    """Lets staff in who have a session, the permission, and the console's page."""

    @classmethod
    async def filter(cls, web_socket_instance: Connection, handshake: Handshake) -> None:
        identity = web_socket_instance.identity
        if identity is None or not identity.session_key:
            # Not a token, and not a site without SessionAuthenticator: a logout would end nothing.
            raise Close(FORBIDDEN, "the console needs a session")
        key = (PREFIX + page_key(identity.user)).encode()
        # As bytes: a client may offer texts that are not ASCII.
        offered = [one.encode("utf-8", "replace") for one in handshake.subprotocols]
        if not any(hmac.compare_digest(one, key) for one in offered):
            raise Close(FORBIDDEN, "not the page of the console: load it again")
        if tenant_name(tenant_of(web_socket_instance.context)) not in ("", conf.CONSOLE_TENANT):
            # Groups, pipes and errors are those of all: nobody may see those of another tenant.
            raise Close(FORBIDDEN, "the console shows all tenants: see CONSOLE_TENANT")
        known = await run_blocking(_now_permitted, identity.user)
        web_socket_instance.state["permissions"] = known, time.monotonic()
        _permitted(known)


def _about(call: Call) -> Mapping[str, Any]:
    return call.data if isinstance(call.data, dict) else {}


class LookFilter(WebSocketCallFilter):
    """Answers what a page shows."""

    @classmethod
    async def filter(cls, web_socket_instance: Connection, call: Call) -> Any:
        look = LOOKS.get(call.method)
        if look is None:
            return None
        permissions = await permissions_of(web_socket_instance)
        return await look(permissions, _about(call))


class WatchFilter(WebSocketCallFilter):
    """
    Sends a page what passes a connection, a group or a place in a pipe, for a while: one tee at
    a time. Without ``tee_console`` it shows that something passes, and not what.
    """

    @classmethod
    async def filter(cls, web_socket_instance: Connection, call: Call) -> Any:
        if call.method not in ("tee", "untee"):
            return None
        about, connection = _about(call), web_socket_instance
        subject = _subject(about) if call.method == "tee" else None
        if subject is None and call.method == "tee":
            return {"problem": "a tee is on a connection, a group, or a place of a route"}
        permissions = await permissions_of(connection)
        # Another call may run meanwhile: nothing is awaited between these two.
        running = connection.state.pop("tee", None)
        if subject is not None:
            steps = _show(connection, subject, about.get("number"), TEE in permissions)
            connection.state["tee"] = connection.start_task(steps, "fws-console-tee")
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        return {"done": True}


def _subject(about: Mapping[str, Any]) -> Subject | None:
    """What a page wants to watch; None if it has not said so."""
    texts = {name: text for name, text in about.items() if isinstance(text, str) and text}
    if "connection" in texts:
        return on_connection(texts["connection"])
    if "group" in texts:
        return on_group(texts["group"])
    return on_place(texts["route"], texts.get("part", "")) if "route" in texts else None


async def _show(connection: Connection, subject: Subject, number: Any, payloads: bool) -> None:
    """Send what passes to a page, which calls this tee by a ``number``."""
    bounds: Any = {"seconds": TEE_SECONDS, "messages": TEE_MESSAGES, "payloads": payloads}
    told: dict[str, Any] = {"tee": number}
    try:
        async with Tee(subject, skip=[connection.id], **bounds) as tee:
            async for record in tee:
                now = await permissions_of(connection)
                if payloads and TEE not in now:
                    break
                await connection.send({**told, "record": record})
            told["dropped"] = tee.dropped
    except Close as close:
        connection.close(close.code, close.reason)
    except TimeoutError as error:
        told["problem"] = f"the channel layer does not answer: {error}"
    except Exception as error:
        connection.call_failed(error)
        told["problem"] = "it cannot be watched: the log of the server says why"
    connection.push({**told, "ended": True})


class ActFilter(WebSocketCallFilter):
    """Does what staff may do, whose permission is asked of the database each time."""

    blocking = True

    @classmethod
    def filter(cls, web_socket_instance: Connection, call: Call) -> Any:
        action = ACTIONS.get(call.method)
        if action is None:
            return None
        user = fresh_users([web_socket_instance.user])[0]
        if action.permission not in _permitted(find_permissions(user)):
            raise NotAllowed(f"no permission to {call.method}")
        try:
            action.do(user, _about(call))
        except Refused as refusal:
            return {"problem": str(refusal)}
        return {"done": True}


def console_urlpatterns() -> list[Any]:
    """
    The route of the console, where the site has the admin and ``CONSOLE`` names it. It comes
    before others: a site may have a route for every path.
    """
    if conf.CONSOLE is None or not apps.is_installed("django.contrib.admin"):
        return []
    limit = {"NAME": "filtered_websocket.filters.rate_limit", "OPTIONS": RATE}
    application: Any = FilteredWebSocketConsumer.as_asgi(
        filters=[EnterFilter, limit, LookFilter, WatchFilter, ActFilter],
        protocol="centrifuge",
        # Its clients join no group.
        group_rules=[],
        personal=False,
        calls=CALLS,
    )
    application.route.is_own = True
    return [path(conf.CONSOLE, application)]
