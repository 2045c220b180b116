"""System checks of the apps of the Pusher protocol, and of what their clients can listen to."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from ..conf import SettingError, conf
from ..pipelines.entries import PipelineError
from ..pipelines.keeping import site_rules
from ..pipelines.route import Route, known_routes

#: The shortest secret that nobody finds by trying, if its characters are random.
MIN_SECRET = 20


def check_pusher(**kwargs: Any) -> Iterable[CheckMessage]:
    """``PUSHER_APPS``, and groups of routes that are public channels."""
    if not conf.PUSHER_APPS:
        return list(_check_served())
    # Only for sites that have an app.
    apps, channels = (
        import_module(f"filtered_websocket.pusher.{name}") for name in ("apps", "channels")
    )
    try:
        found = apps.site_apps()
    except SettingError as error:
        return [Error(error.message, hint=error.hint, id="filtered_websocket.E031")]
    return [*_check_secrets(found), *_check_public(channels)]


def _check_served() -> Iterable[CheckMessage]:
    for route in known_routes():
        try:
            protocol = route.protocol
        except PipelineError:
            continue  # check_filters reports it
        if protocol is not None and protocol.name == "pusher":
            yield Warning(
                f"Clients of {_where(route)} speak 'pusher', and there is no app: all are refused"
                " with 4001.",
                hint="Add one to FILTERED_WEBSOCKET['PUSHER_APPS'].",
                id="filtered_websocket.W025",
            )
            return


def _check_secrets(apps: Iterable[Any]) -> Iterable[CheckMessage]:
    for app in apps:
        if len(app.secret) < MIN_SECRET:
            yield Warning(
                f"The SECRET of the Pusher app {app.id!r} has {len(app.secret)} characters: who has"
                " one signature can find a short secret by trying, and sign for any user.",
                hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
                id="filtered_websocket.W026",
            )


def _check_public(channels: Any) -> Iterable[CheckMessage]:
    """That nobody listens to a plain route by the name of its group, unless the site knows."""
    try:
        rules = site_rules()
    except PipelineError:
        return  # check_filters reports it
    for name, where in _plain_groups():
        match = None if rules is None else rules.find(name)
        is_open = match is None or match.rule.join is True
        is_public = channels.is_channel(name) and not channels.kind_of(name).is_private
        if is_open and is_public:
            yield Warning(
                f"The group {name!r} of {where} is a public channel of the first Pusher app: who"
                " knows the app's key, as every page does, may subscribe to it.",
                hint=f"Declare it in GROUPS: group({name!r}, join=False), or join=True and silence"
                " this where it may be public; or name it with a colon.",
                id="filtered_websocket.W027",
            )


def _plain_groups() -> Iterable[tuple[str, str]]:
    """Those that connections of plain routes are in, and the route."""
    for route in known_routes():
        try:
            names = route.joined if route.paths and route.protocol is None else ()
        except PipelineError:
            continue
        for name in names:
            yield name, _where(route)


def _where(route: Route) -> str:
    return f"the route at {', '.join(route.paths)}" if route.paths else "a route"
