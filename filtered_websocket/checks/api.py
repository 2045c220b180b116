"""System checks of the HTTP API."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from ..conf import SETTINGS, conf

#: The shortest key that nobody finds by trying, if its characters are random.
MIN_KEY = 20


def check_api(**kwargs: Any) -> list[CheckMessage]:
    """Keys of the settings."""
    keys = conf.API_KEY
    if settings.DEBUG or not keys or not SETTINGS["API_KEY"][1].allows(keys):
        return []
    shortest = min(len(key) for key in ([keys] if isinstance(keys, str) else keys))
    if shortest >= MIN_KEY:
        return []
    return [
        Warning(
            f"FILTERED_WEBSOCKET['API_KEY'] has a key of {shortest} characters, and DEBUG is off:"
            " who guesses it may publish to every group and close every connection.",
            hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            id="filtered_websocket.W023",
        )
    ]
