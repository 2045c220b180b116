"""The client address that connections are counted by, also behind proxies."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from ..conf import conf
from ..logs import ABOUT
from ..types import Scope


def log_fields_of(scope: Scope) -> dict[str, Any]:
    """``extra`` of a line of the log about a handshake that is not a connection yet."""
    return {ABOUT: {"client_address": address_of(scope)}}


def address_of(scope: Scope) -> str:
    """
    The address that a handshake is counted by: the peer's, or the one that the outermost of
    ``TRUSTED_PROXIES`` proxies saw; of IPv6 the /64, which one customer has (RFC 6177).

    Empty for a peer without one, as on a Unix socket.
    """
    ip = ip_of(scope)
    if isinstance(ip, IPv6Address):
        return f"{IPv6Address(int(ip) >> 64 << 64)}/64"
    return "" if ip is None else str(ip)


def ip_of(scope: Scope) -> IPv4Address | IPv6Address | None:
    """The whole address, where there is one."""
    client = scope.get("client")
    peer = str(client[0]) if client else ""
    proxies = conf.TRUSTED_PROXIES
    if proxies:
        forwarded = [
            hop.strip()
            for name, value in scope.get("headers", ())
            if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]
        # The proxies append theirs on the right; a client can send whatever is left of them.
        if len(forwarded) >= proxies:
            return _read(forwarded[-proxies]) or _read(peer)
    return _read(peer)


def scope_of(meta: Mapping[str, Any]) -> Scope:
    """What is read here, of the ``META`` of an HTTP request."""
    forwarded = meta.get("HTTP_X_FORWARDED_FOR")
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode("latin-1"))]
    return {"client": (meta.get("REMOTE_ADDR", ""), 0), "headers": headers}


def _read(address: str) -> IPv4Address | IPv6Address | None:
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
