"""System checks of apps of the Pusher protocol, and of what their clients can listen to."""

from collections.abc import Collection, Iterable
from importlib import import_module
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError

from ..conf import SettingError, conf
from ..pipelines.entries import PipelineError
from ..pipelines.keeping import site_rules
from ..pipelines.route import Route, known_routes

#: The shortest secret that nobody finds by trying, if its characters are random.
MIN_SECRET = 20


def check_pusher(**kwargs: Any) -> Iterable[CheckMessage]:
    """``PUSHER_APPS``, and groups of routes that are public channels."""
    if not conf.PUSHER_APPS:
        return () if conf.PUSHER_APPS_IN_ADMIN else list(_check_served())
    # Only for sites that have an app.
    apps, channels = (
        import_module(f"filtered_websocket.pusher.{name}") for name in ("apps", "channels")
    )
    try:
        found = apps.site_apps()
    except SettingError as error:
        return [Error(error.message, hint=error.hint, id="filtered_websocket.E031")]
    return [*_check_secrets(found), *_check_public(channels)]


def check_pusher_rows(databases: Collection[str] | None = None, **kwargs: Any) -> list[Warning]:
    """Apps of the admin that are refused. Only where Django lets checks use the database."""
    if not conf.PUSHER_APPS_IN_ADMIN:
        return []
    apps = import_module("filtered_websocket.pusher.apps")
    rows = apps.app_rows()
    if rows.db not in (databases or ()):
        return []
    try:
        return [warning for row in rows for warning in _check_row(apps, row)]
    except (DatabaseError, SettingError):
        return []  # the table is to be made; check_pusher reports mistakes in PUSHER_APPS


def _check_row(apps: Any, row: Any) -> Iterable[Warning]:
    try:
        apps.make_app_of(row)
    except (SettingError, ValueError) as error:
        yield Warning(
            f"The Pusher app {str(row)!r} of the admin is refused: {error}.",
            hint="Correct it in the admin, or delete it there.",
            id="filtered_websocket.W030",
        )
        return
    if row.is_of_an_old_key:
        yield Warning(
            f"The secret of the Pusher app {str(row)!r} is encrypted with one of"
            " SECRET_KEY_FALLBACKS: without that the app is refused.",
            hint="Run 'manage.py fws_encrypt' before you remove that key: it encrypts all again.",
            id="filtered_websocket.W031",
        )


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
