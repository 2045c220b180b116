"""Loads the ASGI application: its routes are known from then on. System checks of it."""

import contextlib
import re
from collections import deque
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.management import get_commands
from django.urls import URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

from ..conf import SettingError, import_object
from ..layer.health import LayerError
from ..pipelines.entries import PipelineError
from ..pipelines.route import known_routes

#: Apps whose ``runserver`` speaks WSGI.
WSGI_ONLY = ("django.core", "django.contrib.staticfiles")
#: The view of the demo page: module and name.
DEMO = ("filtered_websocket.views", "demo")
#: How many objects of an application are looked at.
MAX_OBJECTS = 5000
_REGEX = re.compile(r"[\^$(\\]")


def load_application() -> Any:
    """
    What ``ASGI_APPLICATION`` names, or None without that setting.

    :exc:`PipelineError` for a mistake in a route, :exc:`LayerError` for one in the channel
    layer, :exc:`SettingError` for any other error of its module.
    (Channels' own function drops the text of an ImportError.)
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return None
    try:
        return import_object(path)
    except (PipelineError, LayerError):
        raise
    except SettingError as error:
        message = f"ASGI_APPLICATION {path!r}: {error.message}"
        raise SettingError(message, error.hint) from error.__cause__


def check_application(**kwargs: Any) -> Iterable[CheckMessage]:
    """ASGI_APPLICATION can be imported and serves WebSockets, and so does ``runserver``."""
    try:
        application = load_application()
    except (PipelineError, LayerError):
        return []  # check_filters and check_written_layer report it
    except SettingError as error:
        return [Error(error.message, hint=error.hint, id="filtered_websocket.E020")]
    if application is None:
        return []
    return [*_check_served(application), *_check_runserver(), *_check_demo()]


def _check_served(application: Any) -> Iterable[CheckMessage]:
    routes = known_routes()
    # A route that a site makes is served by a router of its own, if not by ours.
    if any(route.paths or not route.is_offered for route in routes):
        return
    if not can_reach(application, {id(route) for route in routes}):
        yield Warning(
            f"ASGI_APPLICATION {settings.ASGI_APPLICATION!r} serves no WebSocket route of this"
            " package.",
            hint="Wrap it in asgi.py: application = with_websockets(get_asgi_application()).",
            id="filtered_websocket.W015",
        )


def can_reach(application: Any, ids: set[int]) -> bool:
    """
    Whether an object with one of these ids is found in what ``application`` is made of:
    attributes, closures and containers. True if it is made of too much to look through.
    """
    seen: set[int] = set()
    waiting: deque[Any] = deque([application])
    while waiting:
        value = waiting.popleft()
        # Not isinstance(), which would evaluate lazy objects.
        if id(value) in seen or issubclass(type(value), str | bytes | int | type | ModuleType):
            continue
        if id(value) in ids or len(seen) >= MAX_OBJECTS:
            return True
        seen.add(id(value))
        waiting.extend(_parts(value))
    return False


def _parts(value: Any) -> Iterable[Any]:
    if issubclass(type(value), dict):
        yield from value.values()
    elif issubclass(type(value), list | tuple | set):
        yield from value
    else:
        # An error of a proxy, or of a variable that has no value yet, is nobody's here.
        with contextlib.suppress(Exception):
            yield from tuple(value.__dict__.values())
        if type(value) is FunctionType:
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):
                    yield cell.cell_contents


def _check_runserver() -> Iterable[CheckMessage]:
    if settings.DEBUG and get_commands().get("runserver") in WSGI_ONLY:
        yield Warning(
            "'manage.py runserver' serves no WebSockets.",
            hint="Add 'daphne' to INSTALLED_APPS, above 'django.contrib.staticfiles'.",
            id="filtered_websocket.W016",
        )


def _check_demo() -> Iterable[CheckMessage]:
    served = {path for route in known_routes() for path in route.paths}
    if not served or any(map(_REGEX.search, served)) or not getattr(settings, "ROOT_URLCONF", ""):
        return  # what the routes match is not known
    same = set(map(_without_names, served))
    for page in _demo_pages(get_resolver().url_patterns, "/"):
        if _without_names(page) not in same:
            yield Warning(
                f"The demo page at {page!r} connects to a WebSocket at the same path, where there"
                " is no route.",
                hint="Add one: with_websockets(http, [*websocket_urlpatterns,"
                f" path({page[1:]!r}, FilteredWebSocketConsumer.as_asgi())]). Routes:"
                f" {', '.join(sorted(served))}.",
                id="filtered_websocket.W017",
            )


def _demo_pages(patterns: Iterable[Any], prefix: str) -> Iterable[str]:
    """The paths of the demo page; without those whose path is a regex or has a language."""
    for entry in patterns:
        if not isinstance(entry.pattern, RoutePattern):
            continue
        where = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _demo_pages(entry.url_patterns, where)
        elif (entry.callback.__module__, entry.callback.__name__) == DEMO and not _is_room(entry):
            yield where


def _is_room(entry: Any) -> bool:
    """Whether the page connects to a route of a protocol, wherever that is."""
    route = getattr(entry.default_args.get("websocket"), "route", None)
    return getattr(route, "protocol", None) is not None


def _without_names(path: str) -> str:
    return re.sub("<[^>]*>", "<>", path)
