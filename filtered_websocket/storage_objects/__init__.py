"""
Storage objects: sets of text that filters share, and the source of raw pub/sub events.

A storage object is a module with a class ``StorageObject``; ``STORAGE_OBJECT_MODULE`` in
the environment chooses it, else the setting ``STORAGE``.
"""

import argparse
import functools
import os
from typing import Any

from django.core.signals import setting_changed

from ..conf import SettingError, conf, describe, import_longest
from .base import BaseStorageObject

#: The environment variable, which overrides the setting.
VARIABLE = "STORAGE_OBJECT_MODULE"


def storage_class(path: str) -> type[BaseStorageObject]:
    """``StorageObject`` of the module at ``path``; SettingError if there is none."""
    try:
        module, rest = import_longest(path)
    except SettingError as error:
        raise SettingError(
            f"storage object {path!r}: {error.message}", error.hint
        ) from error.__cause__
    if module is None or rest:
        raise SettingError(
            f"storage object {path!r}: there is no such module.",
            "Give the path of a module that has a class StorageObject.",
        )
    found = getattr(module, "StorageObject", None)
    if not isinstance(found, type) or not hasattr(found, "parser"):
        raise SettingError(
            f"storage object {path!r}: its StorageObject is {found!r:.80}.",
            "Make it a subclass of filtered_websocket.storage_objects.base.BaseStorageObject.",
        )
    cls: type[BaseStorageObject] = found
    return cls


def storage_path() -> str:
    """The path of the chosen module."""
    chosen: str = os.environ.get(VARIABLE) or conf.STORAGE["BACKEND"]
    return chosen


def default_options(cls: type[BaseStorageObject]) -> argparse.Namespace:
    """The default options of a storage object. SettingError if its parser() fails."""
    try:
        return cls.parser(argparse.ArgumentParser(add_help=False)).parse_args([])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise SettingError(
            f"storage object {cls.__module__!r}: its parser() raises {describe(error)}.",
            "It adds options that all have defaults to the parser it is given.",
        ) from error


def use_storage_object(storage_object: Any) -> None:
    """Use this storage object in the process instead of the settings'; None: the settings'."""
    global _used
    _used = storage_object


_used: Any = None


def get_storage_object() -> Any:
    """This process's storage object, made at first use."""
    return _storage_object() if _used is None else _used


def chosen() -> tuple[type[BaseStorageObject], argparse.Namespace]:
    """
    The class that settings choose, and its options: those its ``parser()`` declares, with
    ``STORAGE["OPTIONS"]`` set. SettingError for a mistake.
    """
    cls = storage_class(storage_path())
    options = default_options(cls)
    for name, value in conf.STORAGE.get("OPTIONS", {}).items():
        if not hasattr(options, name):
            known = ", ".join(sorted(vars(options))) or "none"
            raise SettingError(
                f"FILTERED_WEBSOCKET['STORAGE'] has no option {name!r}.",
                f"Its options: {known}.",
            )
        setattr(options, name, value)
    return cls, options


@functools.cache
def _storage_object() -> Any:
    cls, options = chosen()
    return cls(options)


def _forget(setting: str, **kwargs: Any) -> None:
    if setting == "FILTERED_WEBSOCKET":
        _storage_object.cache_clear()


setting_changed.connect(_forget, dispatch_uid="filtered_websocket.storage_objects")
