"""The connections of one process and pipeline, as filters see them."""

from collections.abc import Iterator, Mapping
from typing import Any

from .connection import Connection


class Users(Mapping[str, Connection]):
    """id -> connection, read-only. Iterating copies the keys first: safe from any thread."""

    def __init__(self, connections: dict[str, Connection]) -> None:
        self._connections = connections

    def __getitem__(self, key: str) -> Connection:
        return self._connections[key]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    # The inherited views look up every key again, which may have been removed meanwhile.
    def items(self) -> Any:
        return tuple(self._connections.items())

    def values(self) -> Any:
        return tuple(self._connections.values())
