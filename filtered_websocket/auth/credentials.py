"""
Finds the credentials in a handshake (cookies are not among them), and removes them.

::

    Authorization: Token KEY          header (or Bearer)
    Sec-WebSocket-Protocol: fws, fws.token.KEY     subprotocol
    /?ticket=TICKET   /?token=KEY     ticket, query

What looks like a credential counts as one although it is misspelt, so that a typing error
refuses a client and never makes it anonymous: the right word in the wrong case or with the
wrong punctuation, and a whole key wherever it stands.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_plus

from django.views.decorators.debug import sensitive_variables

from ..types import Scope
from .keys import is_key

#: The subprotocol that is answered where a client offers it.
SUBPROTOCOL = "fws"
#: What precedes the key where a client offers it as a subprotocol.
TOKEN_SUBPROTOCOL = "fws.token."
#: Schemes of the Authorization header (RFC 9110 section 11.6.2); others are not ours.
SCHEMES = ("token", "bearer")
#: Parameters of the query, and what each is called here.
QUERY = {"ticket": "ticket", "token": "query"}

#: Bytes of the shortest parameter that can be a credential: a name alone.
SHORTEST = min(map(len, QUERY))

#: One of our schemes at the beginning, or behind a comma: daphne joins headers of one name.
_SCHEME = re.compile(r"(?:token|bearer)(?![\w-])", re.IGNORECASE)
_SECOND_SCHEME = re.compile(r",\s*(?:token|bearer)\s", re.IGNORECASE)
_NOT_OF_KEYS = re.compile(r"[^A-Za-z0-9_-]+")


class Credential(NamedTuple):
    """One secret and the way it came: ``header``, ``subprotocol``, ``ticket`` or ``query``."""

    kind: str
    secret: str

    def __repr__(self) -> str:
        return f"<Credential {self.kind}>"


def _contains_key(text: str) -> bool:
    """Whether ``text`` contains a key, which is a credential wherever it stands."""
    return any(map(is_key, _NOT_OF_KEYS.split(text)))


def _of_header(name: bytes, value: bytes) -> Credential | None:
    if name != b"authorization":
        return None
    text = value.decode("latin-1").strip()
    scheme, *rest = text.split(maxsplit=1) or [""]
    if scheme.lower() in SCHEMES:
        return Credential("header", rest[0] if rest else "")
    is_ours = _SCHEME.match(text) or _SECOND_SCHEME.search(text) or _contains_key(text)
    # A misspelt one is refused.
    return Credential("header", "") if is_ours else None


def _of_subprotocol(subprotocol: str) -> Credential | None:
    if subprotocol.startswith(TOKEN_SUBPROTOCOL):
        return Credential("subprotocol", subprotocol[len(TOKEN_SUBPROTOCOL) :])
    is_ours = subprotocol.strip().lower().startswith(TOKEN_SUBPROTOCOL.rstrip("."))
    return Credential("subprotocol", "") if is_ours or _contains_key(subprotocol) else None


def _of_parameter(parameter: bytes) -> Credential | None:
    if len(parameter) < SHORTEST:
        return None
    name, _, value = (unquote_plus(part.decode("latin-1")) for part in parameter.partition(b"="))
    if name in QUERY:
        return Credential(QUERY[name], value)
    kind = QUERY.get(name.strip().lower())
    if kind is None and (_contains_key(name) or _contains_key(value)):
        kind = QUERY["token"]
    return None if kind is None else Credential(kind, "")


def _parameters(scope: Scope) -> list[bytes]:
    query: bytes = scope.get("query_string", b"")
    return query.split(b"&")


def credentials(scope: Scope) -> list[Credential]:
    """Every credential of a handshake, in no particular order."""
    if not (scope.get("query_string") or scope.get("subprotocols")):
        for name, _ in scope.get("headers", ()):
            if name == b"authorization":
                break
        else:
            return []
    return _credentials(scope)


@sensitive_variables()
def _credentials(scope: Scope) -> list[Credential]:
    found = [
        *(_of_header(name, value) for name, value in scope.get("headers", ())),
        *map(_of_subprotocol, scope.get("subprotocols", ())),
        *map(_of_parameter, _parameters(scope)),
    ]
    return [credential for credential in found if credential is not None]


@sensitive_variables()
def clean_query(scope: Scope) -> bytes:
    """The query string without credentials; the rest stays the same, byte by byte."""
    return b"&".join(one for one in _parameters(scope) if _of_parameter(one) is None)


@sensitive_variables()
def without_credentials(scope: Scope) -> Scope:
    """A copy of ``scope`` without credentials, for filters and their logs."""
    subprotocols = [name for name in scope.get("subprotocols", ()) if not _of_subprotocol(name)]
    offered = [(b"sec-websocket-protocol", ", ".join(subprotocols).encode())]
    headers = [
        (name, value)
        for name, value in scope.get("headers", ())
        if name != b"sec-websocket-protocol" and _of_header(name, value) is None
    ]
    return {
        **scope,
        "headers": [*headers, *(offered if subprotocols else [])],
        "subprotocols": subprotocols,
        "query_string": clean_query(scope),
    }
