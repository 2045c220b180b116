"""
Logs Python's warning about a coroutine that was never awaited.

A filter that forgets ``await`` does nothing, and only Python notices: it shows a
RuntimeWarning, which daphne discards.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from ..logs import get_logger

logger = get_logger(__name__)


def log_unawaited() -> None:
    """
    From now on these warnings are log lines, unless ``logging.captureWarnings`` makes them so.

    Which warnings are shown, and how often, is still decided by Python's warning filters.
    """
    show: Any = warnings.showwarning
    is_ours = getattr(show, "func", None) is _show
    if not is_ours and getattr(show, "__module__", "") != "logging":
        warnings.showwarning = functools.partial(_show, show)


def _show(
    before: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    *rest: Any,
    **options: Any,
) -> None:
    if issubclass(category, RuntimeWarning) and "was never awaited" in str(message):
        logger.warning("%s:%d: %s", filename, lineno, message)
    else:
        before(message, category, filename, lineno, *rest, **options)
