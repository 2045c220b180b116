"""Django without a project: what the command-line programs set up before they begin."""

import os
import sys
from typing import Any

import django
from django.conf import settings

from .filters.entries import PipelineError
from .filters.pipeline import Pipeline


def set_up(**overrides: Any) -> bool:
    """
    ``django.setup()`` with the site's settings where DJANGO_SETTINGS_MODULE names them,
    else with the few that this package needs; True for a site's.

    ``overrides`` win over either. Modules of the current directory can be imported.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    is_site = settings.configured or bool(os.environ.get("DJANGO_SETTINGS_MODULE"))
    if not is_site:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            INSTALLED_APPS=[],
            # Logging is the program's.
            LOGGING_CONFIG=None,
            SECRET_KEY="no sessions, nothing is signed",
            USE_TZ=True,
        )
    for name, value in overrides.items():
        setattr(settings, name, value)
    django.setup()
    return is_site


def in_words(error: Exception) -> str:
    """A mistake as one line for a command line, where filters are not settings."""
    text = str(error).replace("INSTALLED_FILTERS entry", "filter")
    return " ".join(text.replace("INSTALLED_FILTERS: ", "").split())


def build(filters: list[str]) -> Pipeline:
    """The pipeline of ``filters``; :exc:`PipelineError` for a mistake."""
    return Pipeline(filters)


__all__ = ["PipelineError", "build", "in_words", "set_up"]
