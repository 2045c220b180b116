"""
The messages of ``centrifuge.proto``: what JSON objects are checked by, and Protobuf classes.

The classes are made when the first client asks for Protobuf, from the same file: generated
code would only work with one major version of Google's runtime and the one after.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "filtered_websocket.centrifuge"
SOURCE = Path(__file__).with_name("centrifuge.proto")

_MESSAGE = re.compile(r"^message (\w+) \{(.*?)\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (repeated )?(?:map<string, (\w+)>|(\w+)) (\w+) = (\d+);$", re.MULTILINE)


class BadFrame(ValueError):
    """A frame that is not of this protocol."""


class Field(NamedTuple):
    """A field: its number, its type (of the values, of a map), and how often it comes."""

    number: int
    type: str
    is_repeated: bool
    is_map: bool


#: The lowest and the highest number of each type of numbers.
NUMBERS = {
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}


@cache
def messages() -> dict[str, dict[str, Field]]:
    """Message -> name of a field -> the field."""
    return {
        name: {
            field: Field(int(number), of_map or plain, bool(repeated), bool(of_map))
            for repeated, of_map, plain, field, number in _FIELD.findall(body)
        }
        for name, body in _MESSAGE.findall(SOURCE.read_text())
    }


def read(message: str, value: Any, data_of: Callable[[Any], Any]) -> dict[str, Any]:
    """
    The fields of a message that was JSON; ``data_of`` makes those that the schema calls bytes,
    which are any JSON. Unknown fields are left out. ValueError where it is no such message.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{message} is an object")
    fields = messages()[message]
    made: dict[str, Any] = {}
    for name, part in value.items():
        field = fields.get(name)
        if field is None:
            continue
        if not field.is_map:
            made[name] = _read_one(name, field.type, part, data_of)
        elif isinstance(part, dict):
            made[name] = {k: _read_one(name, field.type, one, data_of) for k, one in part.items()}
        else:
            raise ValueError(f"{name} is an object")
    return made


def _read_one(name: str, kind: str, value: Any, data_of: Callable[[Any], Any]) -> Any:
    if kind == "bytes":
        return data_of(value)
    if kind == "string":
        is_good = isinstance(value, str)
    elif kind == "bool":
        is_good = isinstance(value, bool)
    elif kind in NUMBERS:
        low, high = NUMBERS[kind]
        is_good = type(value) is int and low <= value <= high
    else:
        return read(kind, value, data_of)
    if not is_good:
        raise ValueError(f"{name} is not of type {kind}")
    return value


def has_protobuf() -> bool:
    """Whether Google's runtime is installed: the extra ``[protobuf]``."""
    return find_spec("google") is not None and find_spec("google.protobuf") is not None


@cache
def protobuf_class(message: str) -> Any:
    """The Protobuf class of a message. ImportError without the extra ``[protobuf]``."""
    pool = _pool()
    factory = import_module("google.protobuf.message_factory")
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{message}"))


@cache
def _pool() -> Any:
    descriptors = import_module("google.protobuf.descriptor_pb2")
    file = descriptors.FileDescriptorProto(
        name="filtered_websocket/codecs/centrifuge.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in messages().items():
        message = file.message_type.add(name=name)
        for field_name, field in fields.items():
            _add(message, field_name, field)
    # Not the default pool: the clients' own messages may be in it.
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    pool.Add(file)
    return pool


def _add(message: Any, name: str, field: Field) -> None:
    added = message.field.add(name=name, number=field.number)
    kinds = type(added)
    added.label = (
        kinds.LABEL_REPEATED if field.is_repeated or field.is_map else kinds.LABEL_OPTIONAL
    )
    if not field.is_map:
        _set_type(added, field.type)
        return
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", "string"), ("value", field.type)), 1):
        half = entry.field.add(name=part, number=number, label=kinds.LABEL_OPTIONAL)
        _set_type(half, kind)
    added.type = kinds.TYPE_MESSAGE
    added.type_name = f".{PACKAGE}.{message.name}.{entry.name}"


def _set_type(added: Any, kind: str) -> None:
    if kind in messages():
        added.type = type(added).TYPE_MESSAGE
        added.type_name = f".{PACKAGE}.{kind}"
    else:
        added.type = getattr(type(added), f"TYPE_{kind.upper()}")
