"""Loads the entries of ``INSTALLED_FILTERS``: paths, dicts or classes -> filter classes."""

import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ..chains.stage import dotted_path
from ..conf import NotFound, SettingError, describe, get_attribute, import_longest
from ..filters.base import FilterBase, FilterMeta
from .options import bind, declared_options, describe_hint, fits

#: One entry of ``INSTALLED_FILTERS`` or of a route's ``filters``.
Entry = str | type[FilterBase] | Mapping[str, Any]


class PipelineError(SettingError):
    """A pipeline cannot be built."""

    def __init__(self, message: str, hint: str, number: int) -> None:
        super().__init__(message, hint)
        self.id = f"filtered_websocket.E{number:03}"


#: Its name in a printed pipeline, and a filter.
Named = tuple[str, type[FilterBase]]


def entry_name(entry: Entry) -> str:
    """One entry as text; the same in every process."""
    if isinstance(entry, Mapping):
        options = entry.get("OPTIONS") or {}
        name = entry_name(entry.get("NAME", "?"))
        return name + (json.dumps(options, sort_keys=True, default=repr) if options else "")
    if isinstance(entry, type):
        return dotted_path(entry)
    return entry if isinstance(entry, str) else repr(entry)


def load_entry(entry: Any) -> list[Named]:
    """The filters of one entry, with its options set. Raises :exc:`PipelineError`."""
    options: Mapping[str, Any] = {}
    name = entry
    if isinstance(entry, Mapping):
        unknown = set(entry) - {"NAME", "OPTIONS"}
        options = entry.get("OPTIONS", {})
        if unknown or "NAME" not in entry or not isinstance(options, Mapping):
            raise PipelineError(
                f"INSTALLED_FILTERS entry {entry!r} is not understood.",
                'Write {"NAME": "dotted.path", "OPTIONS": {...}}.',
                8,
            )
        name = entry["NAME"]
    if isinstance(name, FilterMeta):
        found = [(_verb(name.__name__), _usable(name, name))]
    elif isinstance(name, str):
        found = _find(name)
    else:
        raise PipelineError(
            f"INSTALLED_FILTERS entry {entry!r} is not understood.",
            "An entry is a dotted path to a module or a filter class, the class itself,"
            ' or {"NAME": ..., "OPTIONS": {...}}.',
            8,
        )
    return _bound(entry_name(name), found, options)


def _find(path: str) -> list[Named]:
    try:
        module, attribute = import_longest(path)
        if module is None:
            raise NotFound(
                "there is no such module or class.",
                "Check its spelling, and that it is on the Python path.",
            )
        value = get_attribute(module, attribute) if attribute else None
    except PipelineError:
        raise  # of a route that the module makes
    except SettingError as error:
        is_missing = isinstance(error, NotFound)
        hint = _spelling(path) or error.hint if is_missing else error.hint
        message = f"INSTALLED_FILTERS entry {path!r}: {error.message}"
        raise PipelineError(message, hint, 4 if is_missing else 9) from error.__cause__
    if not attribute:
        return _of_module(path, module)
    return [(_verb(attribute), _usable(path, value))]


def _spelling(path: str) -> str:
    """What a path that does not exist may be meant for, or nothing."""
    if path.endswith(".py"):
        return f"Write it as a module: {path.removesuffix('.py').strip('./').replace('/', '.')!r}."
    before, package, after = path.rpartition("filtered_websocket.")
    if before.rstrip(".") == before != "":
        return f"Is a comma missing before {package + after!r}?"
    module, rest = import_longest(path)
    if module is None:
        return ""
    name, *names = rest.split(".")
    inside = [one.name for one in pkgutil.iter_modules(getattr(module, "__path__", ()))]
    close = get_close_matches(name, [*vars(module), *inside], 1)
    meant = ".".join([module.__name__, *close, *names])
    # It is its own, where what it names is inside of a class.
    return f"Did you mean {meant!r}?" if close and meant != path else ""


def _of_module(path: str, module: Any) -> list[Named]:
    classes = [
        value
        for name, value in vars(module).items()
        # Not isinstance(), which would evaluate lazy objects.
        if issubclass(type(value), FilterMeta)
        and value.__module__ == module.__name__
        and value._chain_base is not value
        and not name.startswith("_")
    ]
    classes = list(dict.fromkeys(classes))
    if not classes:
        raise PipelineError(
            f"INSTALLED_FILTERS entry {path!r}: the module defines no filter.",
            "A filter is a public subclass of a chain base of filtered_websocket.filters.base,"
            " defined in that module.",
            5,
        )
    label = path.rpartition(".")[2]
    return [
        (label if _verb(cls.__name__) == label else f"{label}.{cls.__name__}", cls)
        for cls in (_usable(path, value) for value in classes)
    ]


def _usable(path: Any, value: Any) -> type[FilterBase]:
    """``value`` if it is a filter that defines ``filter()``; else PipelineError."""
    if not isinstance(value, FilterMeta) or value._chain_base is value:
        raise PipelineError(
            f"INSTALLED_FILTERS entry {path!r} is not a filter: {value!r}.",
            "A filter is a subclass of a chain base of filtered_websocket.filters.base, with a"
            " classmethod filter(cls, web_socket_instance, data).",
            10,
        )
    cls: Any = value
    if inspect.getattr_static(cls, "filter") is inspect.getattr_static(FilterBase, "filter"):
        raise PipelineError(
            f"INSTALLED_FILTERS entry {path!r}: {cls.__name__} defines no filter().",
            "Give it a classmethod filter(cls, web_socket_instance, data), or a leading"
            " underscore if it is a helper base.",
            10,
        )
    usable: type[FilterBase] = cls
    return usable


def _bound(
    path: str,
    found: list[Named],
    options: Mapping[str, Any],
) -> list[Named]:
    declared = {cls: _declared(path, cls) for _, cls in found} if options else {}
    known = sorted({name for hints in declared.values() for name in hints})
    for name in options:
        if name not in known:
            raise PipelineError(
                f"INSTALLED_FILTERS entry {path!r} has no option {name!r}.",
                f"Its options: {', '.join(known) or 'none'}.",
                6,
            )
    bound = []
    for label, cls in found:
        chosen = {name: options[name] for name in options if name in declared[cls]}
        for name, value in chosen.items():
            hint = declared[cls][name]
            if not fits(value, hint):
                raise PipelineError(
                    f"INSTALLED_FILTERS entry {path!r}: option {name!r} is {value!r}.",
                    f"It must be {describe_hint(hint)}.",
                    7,
                )
        try:
            bound.append((label, bind(cls, chosen)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Raised by the filter's __init_subclass__, where it checks its options.
            text = error if isinstance(error, ValueError) else describe(error)
            raise PipelineError(
                f"INSTALLED_FILTERS entry {path!r}: {text}.", "Change its OPTIONS.", 7
            ) from error
    return bound


def _declared(path: str, cls: type[FilterBase]) -> dict[str, Any]:
    try:
        return declared_options(cls)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise PipelineError(
            f"INSTALLED_FILTERS entry {path!r}: the annotations of {cls.__name__} cannot be"
            f" evaluated: {describe(error)}.",
            "Import their types at run time, not only if TYPE_CHECKING.",
            7,
        ) from error


def _verb(class_name: str) -> str:
    """The name of a class in a printed pipeline: ``RateLimitFilter`` -> ``rate_limit``."""
    name = class_name.removesuffix("Filter") or class_name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
