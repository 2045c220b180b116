"""
What a handshake offers to say who it is, cookies apart; and the handshake without it.

::

    Authorization: Token KEY          header (or Bearer)
    Sec-WebSocket-Protocol: fws, fws.token.KEY     subprotocol
    /?ticket=TICKET   /?token=KEY     ticket, query

What looks like a credential counts as one however badly it is written, so that a typing
error refuses a client and never makes it anonymous.
"""

from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from django.views.decorators.debug import sensitive_variables

from .types import Scope

#: The subprotocol that is answered where a client offers it.
SUBPROTOCOL = "fws"
#: What precedes the key where a client offers it as a subprotocol.
TOKEN_SUBPROTOCOL = "fws.token."
#: Schemes of the Authorization header (RFC 9110 section 11.6.2); others are not ours.
SCHEMES = ("token", "bearer")
#: Parameters of the query, and what each is called here.
QUERY = {"ticket": "ticket", "token": "query"}


class Credential(NamedTuple):
    """One secret and the way it came: ``header``, ``subprotocol``, ``ticket`` or ``query``."""

    kind: str
    secret: str

    def __repr__(self) -> str:
        return f"<Credential {self.kind}>"


def _is_credential(name: bytes, value: bytes) -> bool:
    scheme, _, _ = value.decode("latin-1").strip().partition(" ")
    return name == b"authorization" and scheme.lower() in SCHEMES


def _is_token(subprotocol: str) -> bool:
    return subprotocol[: len(TOKEN_SUBPROTOCOL)].lower() == TOKEN_SUBPROTOCOL


def _query(scope: Scope) -> list[tuple[str, str]]:
    query: bytes = scope.get("query_string", b"")
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []


@sensitive_variables()
def credentials(scope: Scope) -> list[Credential]:
    """Every credential of a handshake, in no order that means anything."""
    found = []
    for name, value in scope.get("headers", ()):
        if name == b"authorization" and _is_credential(name, value):
            _, _, secret = value.decode("latin-1").strip().partition(" ")
            found.append(Credential("header", secret.strip()))
    for subprotocol in scope.get("subprotocols", ()):
        if _is_token(subprotocol):
            # In the wrong case it opens nothing.
            is_right = subprotocol.startswith(TOKEN_SUBPROTOCOL)
            secret = subprotocol[len(TOKEN_SUBPROTOCOL) :] if is_right else ""
            found.append(Credential("subprotocol", secret))
    found += [Credential(QUERY[name], value) for name, value in _query(scope) if name in QUERY]
    return found


@sensitive_variables()
def clean_query(scope: Scope) -> bytes:
    """The query string without credentials; as it was where it has none."""
    pairs = _query(scope)
    clean = [(name, value) for name, value in pairs if name not in QUERY]
    query: bytes = scope.get("query_string", b"")
    return query if len(clean) == len(pairs) else urlencode(clean).encode()


@sensitive_variables()
def without_credentials(scope: Scope) -> Scope:
    """A copy of ``scope`` that holds none, for filters and their logs."""
    subprotocols = [name for name in scope.get("subprotocols", ()) if not _is_token(name)]
    headers = [
        (name, ", ".join(subprotocols).encode() if name == b"sec-websocket-protocol" else value)
        for name, value in scope.get("headers", ())
        if not _is_credential(name, value)
    ]
    return {
        **scope,
        "headers": headers,
        "subprotocols": subprotocols,
        "query_string": clean_query(scope),
    }
