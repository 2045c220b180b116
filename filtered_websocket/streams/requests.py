"""
Reads requests of clients, and answers those that are no stream.

Every request is from a page that may connect, as the handshake of a WebSocket is: a page of
another site could send commands with the cookies of a user otherwise.
"""

import asyncio

from ..connections.handshake import NOT_ALLOWED, refusal_reason
from ..connections.origins import headers, site_rule
from ..types import Receive, Scope, Send

#: How long a client may take to send the body of its request, seconds.
BODY_TIMEOUT = 10.0
#: What a page of another origin may send, and how long a browser remembers that, seconds.
ALLOWED_HEADERS, MAX_AGE = b"authorization, content-type", b"300"
#: Requests that no script has made: links, forms, images of any page.
NO_SCRIPT = (b"navigate", b"no-cors")

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, words: str, more: Headers | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.headers = more or []


class Gone(Exception):
    """The client has left."""


def origin_problem(scope: Scope) -> str:
    """Why the page that sends a request may not; empty if it may."""
    if problem := refusal_reason(scope, site_rule, any_host=False):
        return problem
    if headers(scope, b"origin"):
        return ""
    # A browser sends no Origin with a GET that no script of another site can read, which has
    # cookies all the same. It says what it is (Fetch Metadata).
    is_foreign = headers(scope, b"sec-fetch-site") in ([b"cross-site"], [b"same-site"])
    is_no_script = any(mode in NO_SCRIPT for mode in headers(scope, b"sec-fetch-mode"))
    return NOT_ALLOWED if is_foreign or is_no_script else ""


def shared_with(scope: Scope) -> Headers:
    """What lets a page of an allowed origin read the answer (the CORS protocol of Fetch)."""
    origins = headers(scope, b"origin")
    if not origins:
        return [(b"vary", b"origin")]
    return [
        (b"vary", b"origin"),
        (b"access-control-allow-origin", origins[0]),
        (b"access-control-allow-credentials", b"true"),
    ]


def preflight(methods: str) -> Headers:
    """The answer to a browser that asks whether a page may send a request."""
    return [
        (b"access-control-allow-methods", methods.encode()),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-max-age", MAX_AGE),
    ]


async def read_body(receive: Receive, most: int) -> bytes:
    """The body of a request; :exc:`Refused` 413 where it is longer, 408 where it does not come."""
    # Not bytes: of many small parts each would be copied again and again.
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise Gone
                body += event.get("body", b"")
                if len(body) > most:
                    raise Refused(413, f"at most {most} bytes")
                if not event.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, "the body did not come in time") from None


async def answer(send: Send, status: int, more: Headers, words: str = "") -> None:
    """Answer a request, with a line for who reads it."""
    body = words.encode() + b"\n" if words else b""
    about = [(b"content-type", b"text/plain; charset=utf-8")] if body else []
    if status != 204:
        about.append((b"content-length", str(len(body)).encode()))
    all_headers = [*about, (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
