"""The client address that connections are counted by, also behind proxies."""

from ipaddress import IPv6Address, ip_address

from ..conf import conf
from ..types import Scope


def address_of(scope: Scope) -> str:
    """
    The address that a handshake is counted by: the peer's, or the one that the outermost of
    ``TRUSTED_PROXIES`` proxies saw; of IPv6 the /64, which one customer has (RFC 6177).

    Empty for a peer without one, as on a Unix socket.
    """
    client = scope.get("client")
    address = str(client[0]) if client else ""
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
            address = forwarded[-proxies]
    return _normal(address) or (_normal(str(client[0])) if client else "")


def _normal(address: str) -> str:
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None:
            return f"{IPv6Address(int(ip) >> 64 << 64)}/64"
        ip = ip.ipv4_mapped
    return str(ip)
