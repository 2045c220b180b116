"""
What each connection's access depends on (session, user, token); closes it when that is
revoked or expires.

::

    a control event ────────┐
    an expiry that is due ──┼── the database is asked about those ── 4401 where it has ended
    every RECHECK seconds ──┘   (one query for many, see rechecks)

Control events cross the layer like messages, in a group that no site can name. One that is
lost delays the end of a connection until the next RECHECK, and no longer.
"""

import asyncio
import itertools
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from ..auth.dependencies import Dependency, Dependents, Owners, all_dependencies, dependencies
from ..auth.tenants import tenant_name, tenant_of
from ..auth.validity import is_read_from_a_replica, is_token, is_user, password_hash
from ..close_codes import UNAUTHORIZED
from ..connections.connection import Connection
from ..exceptions import check_close
from ..layer.envelope import Batch, Sequence
from ..pipelines.rule_rechecks import RuleRechecks
from ..threads.tasks import Tasks
from ..types import Identity
from .events import ORDERS, Events, Orders, named_by
from .rechecks import Deadlines, Rechecks, Slot
from .registry import Answer, Inventory

#: How many sessions that have just ended are remembered.
MAX_ENDED = 1024
#: Pause before another attempt to find out whether control events arrive, seconds.
CONFIRM_AGAIN = 1.0
#: Control events about counts: they change nobody's access.
COUNTS = ("ask", "count")

#: Numbers for the control events that this process receives, in all its hubs.
_numbers = itertools.count(1)
_latest = 0


def latest_event() -> int:
    """
    The number of the latest control event of this process.

    Take it before the database is asked who connects, and give it to :meth:`Grants.add`.
    """
    return _latest


class Host(Protocol):
    """The part of a hub that is used here."""

    loop: asyncio.AbstractEventLoop
    tasks: Tasks
    events: Events
    layer_is_lost: bool
    connections: dict[str, Connection]

    async def receive_control(self) -> None: ...
    def send_control(self, event: dict[str, Any]) -> None: ...


class Grants:
    """Connections by what their access depends on. Belongs to the hub's event loop."""

    def __init__(self, hub: Host) -> None:
        self._hub = hub
        #: By slot: what the handshake showed, and the token that was used since.
        self._held: dict[Connection, dict[Slot, Identity]] = {}
        #: ("token" | "user" | "session", id) -> the connections that depend on it.
        self._dependent: Dependents[Connection] = Dependents()
        self._owners: Owners[Connection] = Owners()
        self._deadlines = Deadlines(hub.loop)
        self._rechecks = Rechecks(hub.tasks, hub.loop, self._held, self._replace)
        self._ended: dict[Dependency, str] = {}
        self._sequence = Sequence()
        self.rule_rechecks = RuleRechecks(hub)
        self._orders = Orders(self.add, self.remove)
        self.inventory = Inventory(hub)
        #: Number of the latest control event; who was authenticated before it is re-checked.
        self.events_seen = 0
        self._number_event()
        #: Connections added before control events were known to arrive; None from then on.
        self._unconfirmed: set[Connection] | None = set()
        self._confirmation = secrets.token_hex(8)
        self._confirm_timer: asyncio.TimerHandle | None = None
        #: Requests for counts: nonce -> the answers so far.
        self.counts_asked: dict[str, list[Answer]] = {}

    # What depends on what

    async def receiving(self) -> None:
        """Return when control events arrive here, or the layer is lost."""
        await self._hub.receive_control()

    def add(
        self, connection: Connection, identity: Identity, since: float, slot: Slot = "handshake"
    ) -> None:
        """
        The access of ``connection`` depends on ``identity`` from now on, instead of what it
        had in that slot; ``since`` is what :func:`latest_event` was before the database was
        asked: whoever may have missed an event since then is re-checked. Infinity for what
        was not read from the database.

        TypeError for an ``expires_at`` that is not a datetime; whatever ``TENANT`` raises.
        """
        has_user = is_user(identity.user)
        if has_user:
            known = identity.session_hash or password_hash(identity.user)
            active = identity.user.is_active
            identity = replace(identity, session_hash=known, was_active=active)
        connection.tenant = tenant_of(connection.context)
        self._set(connection, self._held.get(connection, {}) | {slot: identity})
        if is_token(identity.token):
            self._rechecks.note_used(connection, identity.token.pk)
        for key in dependencies(identity) if self._ended else ():
            if key in self._ended:
                connection.close(UNAUTHORIZED, self._ended[key])
        is_stale = has_user and is_read_from_a_replica(identity.user)
        if self.events_seen > since or is_stale:
            self._rechecks.add([connection])
        if self._unconfirmed is not None and since != math.inf:
            self._unconfirmed.add(connection)
            if self._confirm_timer is None:
                self._send_confirmation()
        self._rechecks.start()

    def note_user(self, connection: Connection) -> None:
        """Have events about its user find it, also where its access does not depend on that."""
        identity = connection.identity
        depends = identity is not None and connection.user is identity.user
        if self._owners.note(connection, None if depends else connection.user):
            connection.tenant = tenant_of(connection.context)

    def remove(self, connection: Connection, slot: Slot) -> None:
        """Its access depends no longer on what that slot had."""
        held = self._held.get(connection, {})
        self._set(connection, {name: one for name, one in held.items() if name != slot})

    def remove_all(self, connection: Connection) -> None:
        """``connection`` has ended."""
        self._set(connection, {})
        self._owners.forget(connection)
        if self._unconfirmed is not None:
            self._unconfirmed.discard(connection)

    def _set(self, connection: Connection, held: dict[Slot, Identity]) -> None:
        before = all_dependencies(self._held.pop(connection, {}).values())
        after = all_dependencies(held.values())
        for key in before - after:
            self._dependent.drop(key, connection)
        for key in after - before:
            self._dependent.hold(key, connection)
        if held:
            self._held[connection] = held
        self._deadlines.set(connection, held)

    def _replace(self, connection: Connection, slot: Slot, identity: Identity) -> None:
        """The same access as the database has it now; its expiry may have changed."""
        self._held[connection][slot] = identity
        self._deadlines.set(connection, self._held[connection])

    def recheck_all(self) -> None:
        """Re-check every connection: control events may have been missed."""
        self._number_event()
        self._rechecks.add(self._held)
        self.rule_rechecks.begin()
        self.inventory.missed()

    def count(self) -> dict[str, int]:
        """Token id -> connections of this hub that depend on it."""
        return {name: len(who) for (kind, name), who in self._dependent.items() if kind == "token"}

    async def stop(self) -> None:
        """Do the re-checks that wait, write when tokens were used, and end the task."""
        self._stop_confirming()
        await self.rule_rechecks.stop()
        await self._rechecks.stop()

    def go_on(self) -> None:
        """Undo :meth:`stop` for connections that came meanwhile."""
        if self._held:
            self._rechecks.start()
        if self._unconfirmed and self._confirm_timer is None:
            self._send_confirmation()
        self.rule_rechecks.go_on()

    # Whether control events arrive

    def _send_confirmation(self) -> None:
        """
        Send an event to this hub itself until it arrives: a layer may accept a subscription
        before it takes effect, and what was sent until then is missed.
        """
        if not self._hub.layer_is_lost:
            self._hub.send_control({"is": "count", "nonce": self._confirmation, "tokens": {}})
        self._confirm_timer = self._hub.loop.call_later(CONFIRM_AGAIN, self._send_confirmation)

    def _confirm(self) -> None:
        """It arrived: re-check whoever was authenticated before, once."""
        self._stop_confirming()
        if self._unconfirmed is not None:
            first, self._unconfirmed = self._unconfirmed, None
            self._number_event()
            self._rechecks.add(first)

    def _stop_confirming(self) -> None:
        if self._confirm_timer is not None:
            self._confirm_timer.cancel()
            self._confirm_timer = None

    # Control events

    def _number_event(self) -> None:
        global _latest
        _latest = self.events_seen = next(_numbers)

    def receive(self, batch: Batch) -> None:
        """Handle control events of any process. What is none is counted as a bad envelope."""
        missed = self._sequence.record(batch)
        if missed is None:
            return
        if missed:
            self.recheck_all()
        for item in batch.items:
            try:
                self._handle(json.loads(item.payload))
            except Exception as error:
                # Of any class: an int() of Infinity raises OverflowError, for example.
                self._hub.events.bad_envelope(error)

    def handle(self, event: dict[str, Any]) -> None:
        """Handle an event of this process at once, even while the layer is lost."""
        if event["is"] not in COUNTS:
            self._handle(event)

    def _handle(self, event: dict[str, Any]) -> None:
        handler = self._handlers[event["is"]]
        if event.get("kind") in ORDERS:
            self._orders.handle(event, self._named(event))
            return
        if event["is"] not in COUNTS:
            self._number_event()
        handler(self, event)

    def _named(self, event: dict[str, Any]) -> list[Connection]:
        """The connections that an order is about: of a user, or the one with this id."""
        name, tenant = str(event["id"]), event.get("tenant", "")
        users = (one for one in self._find("user", name) if tenant_name(one.tenant) == tenant)
        return named_by(event, {*users, *self._find("connection", str(event.get("client", name)))})

    def _find(self, kind: str, name: str) -> set[Connection]:
        found = {*self._dependent.get((kind, name), ()), *self._owners.get((kind, name))}
        if kind == "connection" and name in self._hub.connections:
            found.add(self._hub.connections[name])
        return found

    def _changed(self, event: dict[str, Any]) -> None:
        self._rechecks.add(self._find(str(event["kind"]), str(event["id"])))

    def _close(self, event: dict[str, Any]) -> None:
        key = str(event["kind"]), str(event["id"])
        code, reason = int(event["code"]), str(event["reason"])
        check_close(code, reason)
        found = {*self._find(*key), *self._find("connection", str(event.get("client", "")))}
        for connection in named_by(event, found):
            connection.close(code, reason)
        if event["kind"] == "session":
            # Django sends this just before the row is deleted: whoever connects in between
            # is closed, too.
            self._ended[key] = reason
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]

    def _send_count(self, event: dict[str, Any]) -> None:
        self.inventory.answer(event, self.count)

    def _note_count(self, event: dict[str, Any]) -> None:
        self.inventory.hear(event)
        if event["nonce"] == self._confirmation:
            self._confirm()
        if event["nonce"] in self.counts_asked:
            self.counts_asked[event["nonce"]].append(Answer.read(event))

    _handlers: dict[str, Callable[["Grants", dict[str, Any]], None]] = {
        "changed": _changed,
        "sweep": lambda self, event: self.recheck_all(),
        "close": _close,
        "ask": _send_count,
        "count": _note_count,
    }
