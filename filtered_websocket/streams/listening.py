"""
Server-sent events for pages that only listen: ``GET /events/?group=news&group=sports``.

A stream whose commands are said here, not by its client: connect, and subscribe to each group,
from the position in ``Last-Event-ID`` on. What its session answers becomes events::

    replies, once all are there   200, or a refusal
    publication                   id: of all groups; event: its name; data: its text
    not recovered                 event: gap
    lost while it is connected    subscribed again, from its position on
    ping                          a comment, which the server answers itself once it is sent
    disconnect                    the end, after which browsers come back; where it is final,
                                  event: close, and 204 to the browser that comes back
"""

import json
import random
from typing import Any
from urllib.parse import parse_qs

from ..close_codes import FORBIDDEN, RESYNC
from ..codecs.frames import dump_json
from ..connections.origins import headers
from ..history.base import Position
from ..protocols.codes import TEMPORARY, translate
from ..types import Scope, Send
from .formats import EVENTS, PLAIN, Places, event_of
from .requests import Headers, Refused, answer
from .stream import Stream

#: Most groups of one stream: each event has the positions of all.
MOST_GROUPS = 32
#: The id of the last event that a page gets: its browser sends it when it comes back.
FINAL = "!"
#: Within which a browser comes back, at random, milliseconds; and where it was refused for now.
RETRY, RETRY_LATER = (2_000, 8_000), (10_000, 30_000)
#: Codes of errors and of the end of a subscription.
UNKNOWN, ALREADY, LOST = 102, 105, 2500
#: So many bytes wait for the replies of all groups. Past it the response begins without them.
MOST_HELD = 65_536


def is_asked(scope: Scope) -> bool:
    """Whether a request is that of an ``EventSource``; others are for the site's own page."""
    accepted = b",".join(headers(scope, b"accept")).lower()
    return bool(scope["method"] == "GET" and b"text/event-stream" in accepted)


def asked(scope: Scope) -> tuple[list[str], str]:
    """The groups that a request names, and the id of the last event that its client got."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    groups = [*dict.fromkeys(query.get("group", ()))]
    if "" in groups:
        raise Refused(400, "a group has a name")
    if len(groups) > MOST_GROUPS:
        raise Refused(400, f"at most {MOST_GROUPS} groups")
    sent = [value.decode("latin-1") for value in headers(scope, b"last-event-id") if value]
    return groups, (sent or query.get("last_event_id") or [""])[0]


class Listening(Stream):
    """The stream of one page. Belongs to its event loop."""

    #: How its session writes.
    codec = PLAIN
    #: What is written depends on what this client was sent before: not the same for many.
    takes_now = False

    def __init__(
        self, scope: Scope, send: Send, groups: list[str], last: str, more: Headers
    ) -> None:
        super().__init__(scope, send, EVENTS, more)
        self._number = 0
        #: Number of a command that waits for its reply -> the group.
        self._asked: dict[int, str] = {}
        #: What comes before all replies are there.
        self._held = b""
        #: Status and text of the answer where it is refused.
        self._refusal: tuple[int, str] | None = None
        self._joined: set[str] = set()
        self._places = Places(groups, last)
        subs = {name: since_fields(place) for name, place in self._places.of_server.items()}
        self._say("", connect={"subs": subs})
        for group in groups:
            self._subscribe(group)

    # What it says to its session

    def _say(self, group: str, **command: Any) -> None:
        self._number += 1
        self._asked[self._number] = group
        self._put(dump_json({"id": self._number, **command}))

    def _put(self, command: str) -> None:
        # There are few: no limit of what clients send.
        self._inbox.add({"type": "websocket.receive", "text": command})

    def _subscribe(self, group: str) -> None:
        place = self._places.of(group)
        since = since_fields(place) if place is not None else {}
        self._say(group, subscribe={"channel": group, **since})

    def connected(self, connection: Any) -> dict[str, str]:
        """Its session has a client. Nobody else may send it commands."""
        self.connection = connection
        return {}

    # What its session says

    async def _start(self) -> None:
        """The connection is accepted: whether its groups are, the replies say."""

    async def write(self, payload: bytes) -> None:
        await self._server.room()
        if self._refusal is not None:
            return
        body = self._read(payload)
        if not self._is_started:
            self._held += body
            if not self._may_begin():
                return
            await super()._start()
            # The id comes last: whoever has it has got what comes before.
            retry = b"retry: %d\n\n" % random.randint(*RETRY)
            body = b"".join([retry, self._held, self._places.line, b"\n"])
            self._held = b""
        if body:
            await self._send_body(body)

    def _read(self, payload: bytes) -> bytes:
        """What its client is told of what its session says."""
        if payload.startswith(b'"'):
            where, _, event = payload.partition(b"\n")
            head, _, offset = where.rpartition(b" ")
            return self._places.move(head, int(offset)) + event
        if payload == PLAIN.ping.payload:
            self._put("{}")
            return b":\n\n"
        said: Any = json.loads(payload)
        if "push" not in said:
            return self._answered(said)
        push = said["push"]
        if "subscribe" in push:
            return self._subscribed(push["channel"], push["subscribe"])
        if "unsubscribe" not in push:
            return b""
        if push["unsubscribe"]["code"] == LOST:
            self._subscribe(push["channel"])
            return b""
        return self._unsubscribed(push["channel"])

    def _may_begin(self) -> bool:
        if not self._asked and not self._joined and self._refusal is None:
            self._refuse_soon(400, "name a group: ?group=NAME")
        if self._refusal is not None:
            return False
        return not self._asked or len(self._held) > MOST_HELD

    def _answered(self, reply: Any) -> bytes:
        group = self._asked.pop(reply["id"])
        if "error" in reply:
            return self._failed(group, reply["error"])
        if not group:
            subs = reply["connect"].get("subs", {})
            for name in self._places.of_server.keys() - subs.keys():
                self._places.forget(name)
            return b"".join([self._subscribed(name, result) for name, result in subs.items()])
        return self._subscribed(group, reply["subscribe"])

    def _subscribed(self, group: str, result: Any) -> bytes:
        """It is a member of a group: what it has missed, or that this cannot be told."""
        self._joined.add(group)
        head = PLAIN.head(group, 0)
        if "recoverable" in result:
            self._places.begin(group, Position(result["epoch"], result.get("offset", 0)))
        else:
            self._places.forget(group)
        missed = [
            self._places.move(head, one["offset"]) + one["event"].encode()
            for one in result.get("publications", ())
        ]
        if result.get("was_recovering") and not result.get("recovered"):
            missed.append(self._places.line + event_of(group.encode(), "gap"))
        if self._is_started:
            missed.append(self._places.line + b"\n")
        return b"".join(missed)

    def _failed(self, group: str, error: Any) -> bytes:
        code = error["code"]
        if code == ALREADY:  # the server has joined it
            return b""
        if not self._is_started:
            status = 503 if code in TEMPORARY else 404 if code == UNKNOWN else 403
            self._refuse_soon(status, f"group {group!r:.80}: {error['message']}")
            return b""
        if code in TEMPORARY:
            self.connection.close(RESYNC, "insufficient state")
            return b""
        return self._unsubscribed(group)

    def _unsubscribed(self, group: str) -> bytes:
        """It is no member of a group any more."""
        self._joined.discard(group)
        self._places.forget(group)
        if not self._joined:
            self.connection.close(FORBIDDEN, "no group is left")
        return self._places.line + event_of(group.encode(), "unsubscribe")

    # How it ends

    def _refuse_soon(self, status: int, words: str) -> None:
        self._refusal = status, words
        self.connection.close(FORBIDDEN, "refused")

    async def end(self, code: int, reason: str) -> None:
        """End the body; where another try would not help, tell the browser."""
        code, reason = translate(code, reason)
        is_final = code == 1009 or code // 500 in (7, 9)
        if not self._is_started:
            status, words = self._refusal or (403 if is_final else 503, reason)
            await self._refuse(status, words)
            return
        body = b""
        if is_final:
            told = dump_json({"code": code, "reason": reason}).encode()
            body = b"id: %b\n%b" % (FINAL.encode(), event_of(told, "close"))
        await self._server.room()
        await self._send_body(body, is_last=True)

    async def _refuse(self, status: int, words: str = "refused") -> None:
        """
        Answer with an error, after which no browser comes back; but 503 is an empty stream,
        after which it does.
        """
        if status == 503:
            await super()._start()
            retry = b"retry: %d\n\n" % random.randint(*RETRY_LATER)
            await self._send_body(retry, is_last=True)
            return
        self._is_started = self._is_ended = True
        self._server.release()
        await answer(self._http, status, self._headers, words)


def since_fields(place: Position) -> dict[str, Any]:
    """What asks for all after this position."""
    return {"recover": True, "epoch": place.epoch, "offset": place.offset}
