"""
Bad credentials, counted by the address they come from.

In the memory of one process: a site of many processes grants as many times the limit.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from ..conf import conf
from ..types import Scope

#: How long a bad credential is remembered against its address, seconds.
WINDOW = 10.0
#: The longest that a bad credential is kept waiting for its answer, seconds.
MAX_DELAY = 1.0
#: How many addresses are remembered; then the one whose window ends first is forgotten.
MAX_ADDRESSES = 10_000


class _Count(NamedTuple):
    bad: int
    until: float


class Guesses:
    """Bounded: the memory of it does not grow with the number of attackers."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        #: Address -> credentials that are being looked up: bad, until one is found good.
        self._asked: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def _count(self, address: str) -> _Count:
        now = time.monotonic()
        count = self._counts.get(address)
        return count if count is not None and now < count.until else _Count(0, now + WINDOW)

    def note(self, address: str) -> float:
        """Count a bad credential; how long its answer should wait, seconds."""
        bad, until = self._count(address)
        if not bad:
            # A new window ends last, also that of an address seen before.
            self._counts.pop(address, None)
            if len(self._counts) >= MAX_ADDRESSES:
                self._counts.popitem(last=False)
        self._counts[address] = _Count(bad + 1, until)
        limit = conf.GUESS_LIMIT
        if limit is None or bad >= limit:
            # Off; or refused for nothing, so that waiting would only cost us a socket.
            return 0.0
        return MAX_DELAY * (bad + 1) / float(limit)

    def is_over(self, address: str) -> bool:
        """Whether this address has had its share of bad credentials, or may soon."""
        limit = conf.GUESS_LIMIT
        bad = self._count(address).bad + self._asked[address]
        return limit is not None and bad >= limit

    @contextmanager
    def asking(self, address: str) -> Iterator[None]:
        """While the database is asked about a credential from there."""
        self._asked[address] += 1
        try:
            yield
        finally:
            self._asked[address] -= 1
            if not self._asked[address]:
                del self._asked[address]


def address_of(scope: Scope) -> str:
    """
    Whom a handshake is counted against: the peer's address, or what the outermost of
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
        # The right-most entries are the proxies' own; what is left of them anybody can write.
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
