"""Options of a filter: its annotated class attributes, set for one pipeline."""

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ..filters.base import FilterBase


def declared_options(cls: type[FilterBase]) -> dict[str, Any]:
    """Option -> annotation: what ``OPTIONS`` may set on ``cls``."""
    return {
        name: hint
        for name, hint in typing.get_type_hints(cls).items()
        if typing.get_origin(hint) is not typing.ClassVar and not name.startswith("_")
    }


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` has the type ``hint``. An int is accepted as float, a bool as neither."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if origin is None:
        return isinstance(value, hint)
    if not isinstance(value, origin):
        return False
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(origin, Mapping):
        return all(fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items())
    return all(fits(item, arguments[0]) for item in value)


def describe_hint(hint: Any) -> str:
    """An annotation as written in source code."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def bind(cls: type[FilterBase], options: Mapping[str, Any]) -> type[FilterBase]:
    """A subclass of ``cls`` with ``options`` set, which is not registered on the chain base."""
    if not options:
        return cls
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_registers": False,
        **options,
    }
    bound: type[FilterBase] = type(cls)(cls.__name__, (cls,), namespace)  # type: ignore[misc]
    return bound
