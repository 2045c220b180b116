"""Who is in a group now, in all processes."""

from .base import Info, Stats
from .reading import apresence, apresence_stats, presence, presence_stats

__all__ = ["Info", "Stats", "apresence", "apresence_stats", "presence", "presence_stats"]
