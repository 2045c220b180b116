"""
Origins of pages and of the web views of apps, and the rules that say which may connect.

Browsers let any page open a WebSocket to any server, with the cookies of that server; only
the Origin header tells which page it was (RFC 6455 section 10.2).
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.http.request import validate_host

from ..conf import conf
from ..types import Scope

DEFAULT_PORTS = {"http": 80, "https": 443}
#: The hosts that Django allows with ``DEBUG`` on and ``ALLOWED_HOSTS`` empty.
DEBUG_HOSTS = [".localhost", "127.0.0.1", "[::1]"]
#: Schemes of WebSocket addresses, which are no origins.
NOT_OF_PAGES = ("ws", "wss")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST_AND_PORT = re.compile(r"([^\s/?#@:\\\[\]*]+)(?::(\d{1,5}))?", re.ASCII)


class Origin(NamedTuple):
    """
    A serialised origin (HTML standard section 7.1.1), in lower case.

    ``null``, which sandboxed frames and some apps send, has that scheme and no host; so has
    ``file://``. The port of http and https is always set.
    """

    scheme: str
    host: str = ""
    port: int | None = None

    @property
    def is_web(self) -> bool:
        """Whether it is that of a page which a web server serves."""
        return self.scheme in DEFAULT_PORTS


#: Whether a page of this origin may connect. Answers are remembered: it may look at settings,
#: and of the scope at the headers about host and origin, and at nothing else.
OriginRule: TypeAlias = Callable[[Scope, Origin], bool]


def headers(scope: Scope, name: bytes) -> list[bytes]:
    """The values of every header with this (lower-case) name."""
    return [value for header, value in scope["headers"] if header == name]


def parse_origin(scope: Scope) -> Origin | None:
    """
    The Origin header of a handshake (RFC 6455 section 4.1); ValueError if it is malformed.

    None without such a header: then no browser sent it, and no page can abuse the cookies
    of a user.
    """
    origins = headers(scope, b"origin")
    if not origins:
        return None
    if len(origins) > 1:
        raise ValueError("more than one Origin header")
    return _parse(origins[0].decode("ascii"))


def _parse(text: str) -> Origin:
    """Scheme, host and port; ValueError for anything else."""
    if text == "null":
        return Origin("null")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme in DEFAULT_PORTS:
        return _parse_web(text)
    if not separator or not _SCHEME.fullmatch(scheme) or scheme in NOT_OF_PAGES:
        raise ValueError("not the origin of a page")
    if scheme == "file" and not rest:
        return Origin(scheme)
    found = _HOST_AND_PORT.fullmatch(rest)
    if found is None or not text.isprintable() or not text.isascii():
        raise ValueError("not the origin of a page")
    host, port = found.groups()
    return Origin(scheme, host.lower(), None if port is None else int(port))


def _parse_web(text: str) -> Origin:
    origin: SplitResult = urlsplit(text)
    if (
        not origin.hostname
        or origin.username is not None
        or origin.path
        or not text.isprintable()  # urlsplit ignores tabs and line breaks
        or any(one in text for one in " ?#")
    ):
        raise ValueError("not the origin of a page")
    # Raises ValueError if it is not a port number.
    port = origin.port
    return Origin(origin.scheme, str(origin.hostname), port or DEFAULT_PORTS[origin.scheme])


def allowed_hosts() -> list[str]:
    """``ALLOWED_HOSTS`` as Django applies it to HTTP requests."""
    hosts: list[str] = settings.ALLOWED_HOSTS
    return DEBUG_HOSTS if settings.DEBUG and not hosts else hosts


def is_allowed_host(scope: Scope, origin: Origin) -> bool:
    """Whether a page's host is one of ALLOWED_HOSTS; apps have to be listed."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return origin.is_web and validate_host(host, allowed_hosts())


def is_same_origin(scope: Scope, origin: Origin) -> bool:
    """Whether the page's host and port are those of the Host header."""
    if not origin.is_web:
        return False
    host = urlsplit("//" + dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
    default = DEFAULT_PORTS[origin.scheme]
    return (origin.host, origin.port) == (host.hostname, host.port or default)


def normal_origin(text: str) -> Origin:
    """The origin that a setting names (RFC 6454 section 4); ValueError if it is not one."""
    try:
        origin = _parse(text if text.endswith("://") else text.removesuffix("/"))
        rest = origin.host.removeprefix("*.")
        if "*" in rest or (origin.host and not rest):
            raise ValueError("it has a '*' that is not the first label of the host")
    except ValueError as error:
        raise ValueError(
            f"{text!r:.80} is no origin: write it as https://example.com, or as an app sends it,"
            " like capacitor://localhost"
        ) from error
    return origin


def one_of_origins(origins: Iterable[str]) -> OriginRule:
    """
    A rule that allows only these origins: ``https://example.com:8443``,
    ``https://*.example.com`` (its subdomains, not itself), ``capacitor://localhost``,
    ``null``, ``file://``, or ``*`` (any origin).

    ValueError for an entry that is not an origin.
    """
    listed = list(origins)
    wanted = {normal_origin(origin) for origin in listed if origin != "*"}
    wild = [
        (origin.scheme, origin.host.removeprefix("*"), origin.port)
        for origin in wanted
        if origin.host.startswith("*.")
    ]

    def is_listed(scope: Scope, origin: Origin) -> bool:
        return (
            "*" in listed
            or origin in wanted
            or any(
                (origin.scheme, origin.port) == (scheme, port) and origin.host.endswith(end)
                for scheme, end, port in wild
            )
        )

    return is_listed


def site_rule(scope: Scope, origin: Origin) -> bool:
    """The rule of a Django site: ``ALLOWED_ORIGINS`` if it is set, else ``ALLOWED_HOSTS``."""
    origins = conf.ALLOWED_ORIGINS
    rule = is_allowed_host if origins is None else _listed(tuple(origins))
    return rule(scope, origin)


#: A site has one list; tests have many.
_listed = functools.lru_cache(16)(one_of_origins)
