"""A module that raises."""

raise RuntimeError("not today")
