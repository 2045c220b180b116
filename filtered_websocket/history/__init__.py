"""Keeps publications of groups, so that who was away gets what was missed, or is told."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..publishing.direct_history import forget_history, history
    from .base import Page, Position, Publication
    from .stores import aforget_history, ahistory

#: Where each name is; imported when it is first asked for, as Redis' client takes a while. What
#: needs no event loop stands above this wing, as it asks on the connection that publishes.
_NAMES = {
    "Page": ".base",
    "Position": ".base",
    "Publication": ".base",
    "aforget_history": ".stores",
    "ahistory": ".stores",
    "forget_history": "..publishing.direct_history",
    "history": "..publishing.direct_history",
}

__all__ = [
    "Page",
    "Position",
    "Publication",
    "aforget_history",
    "ahistory",
    "forget_history",
    "history",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NAMES[name], __name__), name)
