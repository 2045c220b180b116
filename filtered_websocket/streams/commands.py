"""
``POST /emulation``: what the client of a stream sends, which may be the stream of another process.
"""

import asyncio
import json
import re
from typing import Any, NamedTuple

from ..auth.addresses import address_of
from ..auth.sessions import session_of, session_user
from ..codecs.schema import has_protobuf, protobuf_class
from ..conf import conf
from ..connections.handshake import cookies_of
from ..logs import LogThrottle, get_logger
from ..types import Scope
from . import elsewhere, sessions
from .requests import Refused

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Bytes of a request beside its command, and how many times its bytes a command takes in JSON:
#: quotes and backslashes take two.
AROUND, ESCAPED = 1024, 2
#: An object of three texts: other JSON takes long to read, and much memory. Does not backtrack.
_TEXT = rb'[ \t\r\n]*+"(?:[^"\\]++|\\.)*+"[ \t\r\n]*+'
_MEMBER = _TEXT + rb":" + _TEXT
_THREE_TEXTS = re.compile(rb"\{" + rb",".join([_MEMBER] * 3) + rb"\}", re.DOTALL)
#: The longest names of sessions and nodes.
MOST_NAME = 256


class Command(NamedTuple):
    """What a client sends: text for JSON, bytes for Protobuf."""

    session: str
    node: str
    data: bytes | str


def most_bytes() -> int:
    """Of a request with the longest command."""
    return int(ESCAPED * conf.MAX_MESSAGE_SIZE + AROUND)


def read(body: bytes, binary: bool) -> Command:
    """The command in a request. :exc:`.Refused` 400 where there is none."""
    try:
        command = _of_protobuf(body) if binary else _of_json(body)
    except Refused:
        raise
    except Exception as error:  # google's DecodeError is not imported without the extra
        raise Refused(400, "no session, node and data") from error
    if max(len(command.session), len(command.node)) > MOST_NAME:
        raise Refused(400, "no session, node and data")
    return command


def _of_json(body: bytes) -> Command:
    if _THREE_TEXTS.fullmatch(body.strip()) is None:
        raise Refused(400, "no session, node and data")
    fields: Any = json.loads(body)
    parts = [fields[name] for name in Command._fields]
    for part in parts:
        part.encode()  # half of a surrogate pair is no text
    return Command(*parts)


def _of_protobuf(body: bytes) -> Command:
    if not has_protobuf():
        raise Refused(415, "this server does not speak Protobuf")
    message = protobuf_class("EmulationRequest")()
    message.ParseFromString(body)
    return Command(message.session, message.node, message.data)


async def carry_out(scope: Scope, command: Command) -> None:
    """Hand a command to its stream. :exc:`.Refused` where that is not possible."""
    cookie = sessions.cookie_of(scope)
    address = address_of(scope)
    outcome = await _hand_over(command, cookie, None, address)
    if outcome == sessions.WHOSE and cookie:
        outcome = await _hand_over(command, cookie, await _user_of(scope), address)
    if outcome != sessions.TAKEN:
        raise _refusal(outcome)


def _refusal(outcome: str) -> Refused:
    if outcome == sessions.WHOSE:
        return Refused(403, "the session of another user")
    if outcome == sessions.FULL:
        return Refused(429, "too many commands wait")
    if outcome == elsewhere.BUSY:
        return Refused(503, "try again", [(b"retry-after", b"1")])
    return Refused(404, "no such session")


async def _hand_over(command: Command, cookie: str, user: str | None, address: str) -> str:
    session, node, data = command
    stream = sessions.find(session)
    if stream is None or stream.loop is not asyncio.get_running_loop():
        return await elsewhere.hand_over(session, node, data, cookie, user, address)
    outcome = sessions.hand_over(stream, data, cookie, user)
    if outcome == sessions.TAKEN:
        # Who sends faster than its commands are handled waits for the answers.
        await stream.room()
        if stream.is_over:
            return sessions.UNKNOWN
    return outcome


async def _user_of(scope: Scope) -> str | None:
    """The primary key of who is logged in by the cookie of a request, as text."""
    try:
        found = await session_user({"session": session_of(cookies_of(scope))})
    except Exception as error:
        if _throttle.note("session"):
            logger.error("cannot look up the session of a command: %r", error)
        raise Refused(503, "try again", [(b"retry-after", b"1")]) from error
    return str(found.pk) if found.is_authenticated else None
