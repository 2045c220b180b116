"""System checks of metrics."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from django.core.checks import CheckMessage, Error

from ..conf import SETTINGS, conf

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def check_metrics(**kwargs: Any) -> list[CheckMessage]:
    """What metrics need that are asked for."""
    return [*_check_installed(), *_check_directory()]


def _check_installed() -> Iterable[CheckMessage]:
    allowed = conf.METRICS_ALLOWED
    if not allowed or not SETTINGS["METRICS_ALLOWED"][1].allows(allowed):
        return  # check_settings reports a wrong value
    if find_spec("prometheus_client") is None:
        yield Error(
            "FILTERED_WEBSOCKET['METRICS_ALLOWED'] is set, and prometheus-client is not installed:"
            " the page of metrics answers 404.",
            hint="Install it: pip install 'filtered-websocket[metrics]'.",
            id="filtered_websocket.E032",
        )


def _check_directory() -> Iterable[CheckMessage]:
    directory = os.environ.get(DIRECTORY)
    if directory and not (os.path.isdir(directory) and os.access(directory, os.W_OK)):
        yield Error(
            f"{DIRECTORY} is {directory!r}, where this process cannot write files: no metrics are"
            " shown.",
            hint="Make that directory, empty, before the server starts.",
            id="filtered_websocket.E033",
        )
