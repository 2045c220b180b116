"""Loads the ASGI application: its routes are known from then on. System checks of it."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from ..conf import SettingError, import_object
from ..pipelines.entries import PipelineError


def load_application() -> Any:
    """
    What ``ASGI_APPLICATION`` names, or None without that setting.

    :exc:`PipelineError` for a mistake in a route, :exc:`SettingError` for any other error of
    its module. (Channels' own function drops the text of an ImportError.)
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return None
    try:
        return import_object(path)
    except PipelineError:
        raise
    except SettingError as error:
        message = f"ASGI_APPLICATION {path!r}: {error.message}"
        raise SettingError(message, error.hint) from error.__cause__


def check_application(**kwargs: Any) -> Iterable[CheckMessage]:
    """ASGI_APPLICATION can be imported."""
    try:
        load_application()
    except PipelineError:
        return []  # check_filters reports it
    except SettingError as error:
        return [Error(error.message, hint=error.hint, id="filtered_websocket.E020")]
    return []
