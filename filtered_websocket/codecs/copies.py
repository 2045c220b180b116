"""Copies of messages, of their own or made of what JSON has; and which are encoded equally."""

import copy
import marshal
from functools import lru_cache
from importlib import import_module
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from ..types import Identity

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


class EventBytes(bytes):
    """The payload of an event of Channels: its JSON, and what filters get a copy of."""

    event: dict[str, Any]


class Encoder(DjangoJSONEncoder):
    """Django's, which also writes models and dataclasses."""

    def default(self, o: Any) -> Any:
        return plain_copy(o) if is_model(o) else super().default(o)


def is_model(value: Any) -> bool:
    """Whether it is a pydantic model or a dataclass; not who connects, which has secrets."""
    kind = type(value)
    return (
        hasattr(kind, "__pydantic_serializer__") or hasattr(kind, "__dataclass_fields__")
    ) and not isinstance(value, Identity)


def plain_copy(model: Any) -> Any:
    """A model or dataclass as pydantic writes it in JSON: by aliases, where fields have them."""
    kind: Any = type(model)
    serializer = getattr(kind, "__pydantic_serializer__", None) or _serializer_of(kind)
    return serializer.to_python(model, mode="json", by_alias=True)


@lru_cache(256)
def _serializer_of(kind: type) -> Any:
    """That of a dataclass which is not pydantic's own."""
    try:
        pydantic: Any = import_module("pydantic")
        return pydantic.TypeAdapter(kind).serializer
    except (ImportError, AttributeError):
        raise TypeError(
            f"{kind.__name__} is a dataclass, which pydantic 2 writes as JSON:"
            " pip install 'filtered-websocket[typed]'"
        ) from None
