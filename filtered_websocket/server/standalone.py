"""Django without a project: what the command-line programs set up before they begin."""

import argparse
import os
import sys
from typing import NoReturn

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

_is_ours = False


def set_up() -> bool:
    """
    ``django.setup()`` with the site's settings where DJANGO_SETTINGS_MODULE names them,
    else with the few that this package needs; True for a site's.

    Modules of the current directory can be imported from here on.
    """
    global _is_ours
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        _is_ours = True
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            # No database: nobody to look up, and a token is what a client says it is.
            FILTERED_WEBSOCKET={"AUTHENTICATORS": [], "TOKENS": "open"},
            INSTALLED_APPS=[],
            # Logging is the program's.
            LOGGING_CONFIG=None,
            SECRET_KEY="no sessions, nothing is signed",
            USE_TZ=True,
        )
    django.setup()
    return not _is_ours


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def in_words(error: BaseException) -> str:
    """
    A mistake as one line for a command line, where filters are not settings.

    What this package raises says it all; of anything else the kind is said too.
    """
    text = str(error).replace("INSTALLED_FILTERS entry", "filter")
    text = text.replace("INSTALLED_FILTERS: ", "")
    if not isinstance(error, ImproperlyConfigured | ValueError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())
