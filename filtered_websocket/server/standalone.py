"""Sets up Django for the command-line programs, which need no project."""

import argparse
import os
import sys
from typing import NoReturn

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

_is_standalone = False


def set_up() -> bool:
    """
    ``django.setup()`` with the site's settings where DJANGO_SETTINGS_MODULE names them,
    else with the few that this package needs; True for a site's.

    Modules of the current directory can be imported from here on.
    """
    global _is_standalone
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        _is_standalone = True
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            # There is no database: no authentication, and tokens are not checked.
            FILTERED_WEBSOCKET={"AUTHENTICATORS": [], "TOKENS": "open"},
            INSTALLED_APPS=[],
            # The program sets up logging itself.
            LOGGING_CONFIG=None,
            SECRET_KEY="no sessions, nothing is signed",
            USE_TZ=True,
        )
    django.setup()
    return not _is_standalone


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def error_line(error: BaseException) -> str:
    """
    An exception as one line for the command line, where filters are not settings.

    Its class is named unless this package raised it.
    """
    text = str(error).replace("INSTALLED_FILTERS entry", "filter")
    text = text.replace("INSTALLED_FILTERS: ", "")
    if not isinstance(error, ImproperlyConfigured | ValueError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())
