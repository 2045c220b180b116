"""
Connection limits per process, user and address. While the process drains, none is
accepted.

Each process counts its own connections: a site of several processes accepts up to the
limit in each of them.
"""

import contextlib
import importlib
from collections import Counter
from collections.abc import Hashable
from typing import Any

from ..close_codes import OVER_CAPACITY, TOO_MANY
from ..conf import conf
from ..connections.connection import Connection
from ..logs import LogThrottle, get_logger
from .drain import DRAINING, ending

resource: Any = None
with contextlib.suppress(ImportError):  # Windows has no such module, and no such limit
    resource = importlib.import_module("resource")

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Code and reason of a refusal.
Refusal = tuple[int, str]


#: File descriptors for other things than connections: logs, databases, Redis.
SPARE_DESCRIPTORS = 64


def missing_descriptors() -> int:
    """How many file descriptors the process lacks for ``MAX_CONNECTIONS``; 0 if unknown."""
    most = conf.MAX_CONNECTIONS
    if resource is None:
        return 0
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most is None or allowed == resource.RLIM_INFINITY:
        return 0
    return max(0, int(most) + SPARE_DESCRIPTORS - int(allowed))


class Limits:
    """Counts connections from their handshake until they end; refused ones do not count."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Hashable, ...]] = Counter()
        #: Connection id -> the counters that it is part of.
        self._held: dict[str, tuple[tuple[Hashable, ...], ...]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def begin(self) -> None:
        """
        Warn if the process may open too few files for ``MAX_CONNECTIONS``; where the system
        cannot tell (Windows), say once what it lacks.
        """
        if resource is None and not _throttle.counts["posix"]:
            _throttle.note("posix")
            logger.info(
                "this system is for development: it has no limit of open files to check, and a"
                " process that is killed does not close its connections with 4200 (Ctrl-C does)"
            )
        missing = missing_descriptors()
        if missing and _throttle.note("descriptors"):
            logger.warning(
                "this process may open %d files too few for MAX_CONNECTIONS: raise its limit"
                " (ulimit -n)",
                missing,
            )

    def enter(self, connection: Connection) -> Refusal | None:
        """Count a handshake before authentication; a refusal if a limit is reached."""
        if ending.is_set():
            return DRAINING
        most = conf.MAX_CONNECTIONS
        if most is not None and len(self) >= most:
            return OVER_CAPACITY, "this server is full"
        keys: tuple[tuple[Hashable, ...], ...] = ()
        most = conf.MAX_CONNECTIONS_PER_ADDRESS
        # On a Unix socket no client has an address: they are not counted together.
        if most is not None and connection.address:
            keys = (("address", connection.address),)
            if self._counts[keys[0]] >= most:
                return TOO_MANY, "too many connections from this address"
        self._held[connection.id] = keys
        if keys:
            self._counts.update(keys)
        return None

    def identified(self, connection: Connection) -> Refusal | None:
        """Count it for its user, after authentication; a refusal if a limit is reached."""
        most = conf.MAX_CONNECTIONS_PER_USER
        if most is None or (user := connection.user_id) is None:
            return None
        key = ("user", connection.tenant, user)
        if self._counts[key] >= most:
            return TOO_MANY, "too many connections of this user"
        self._held[connection.id] += (key,)
        self._counts[key] += 1
        return None

    def leave(self, connection: Connection) -> None:
        """It has ended, or was refused: count it no more."""
        for key in self._held.pop(connection.id, ()):
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
