"""Copies of messages, and which of them are encoded equally."""

import copy
import marshal
from typing import Any

#: Exact types whose values cannot be changed.
CONSTANT = frozenset({str, bytes, int, float, bool, type(None)})
#: This version of marshal writes equal values as equal bytes, however often one occurs.
WITHOUT_REFERENCES = 2


def copy_of(message: Any) -> Any:
    """A copy that shares nothing with ``message`` that could be changed."""
    kind = type(message)
    if kind is bytearray:
        return bytearray(message)
    if kind is dict:
        return {key: copy_of(value) for key, value in message.items()}
    if kind is list:
        return [copy_of(value) for value in message]
    return message if kind in CONSTANT else copy.deepcopy(message)


def key_of(result: Any) -> tuple[type, bytes] | None:
    """
    The same for builtin values that are encoded equally: 1, 1.0 and True are not. None for
    anything else.
    """
    try:
        return type(result), marshal.dumps(result, WITHOUT_REFERENCES)
    except ValueError:
        return None
