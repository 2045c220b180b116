"""
What clients may send to a site, and get from it, as a document of AsyncAPI 3.0.

::

    path of a route             a channel
    annotation of a filter      messages, with the JSON Schema that pydantic makes of it
      of a message filter         an operation "receive"
      of a call filter            one "receive" for its method, with a reply
    ``sends`` of a filter       an operation "send"; so is what filters return that members get

Needs the extra ``[typed]`` where anything is declared.
"""

import re
import types
import typing
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple

from ..chains.typed import adapter_of, data_hint, has_model, method_of, name_of, returned_hint
from ..conf import SettingError, describe
from ..pipelines.route import Route

Mode = Literal["validation", "serialization"]

#: By what the clients of a route speak: what a message is there.
CARRIED = {
    "plain": "Each text frame is a message.",
    "centrifuge": "Messages are the data of publish and send, calls are rpc, of the Centrifuge"
    " protocol.",
    "pusher": "Messages are the data of client events of the Pusher protocol.",
}
#: How schemas name one another.
SCHEMAS = "#/components/schemas/{model}"
#: A part of a path that a route captures; and what makes it a regular expression.
CAPTURED = re.compile(r"<(?:(\w+):)?(\w+)>")
_REGEX = re.compile(r"[\^$(\\]")


class Message(NamedTuple):
    """A message that a filter declares; ``mode`` says whether it comes in or goes out."""

    name: str
    hint: Any
    mode: Mode
    where: str


class Operation(NamedTuple):
    """What is done at a channel. ``reply`` is None where there is no answer."""

    name: str
    action: str
    summary: str
    messages: list[Message]
    reply: list[Message] | None = None


def document(routes: Iterable[Route], title: str, version: str) -> dict[str, Any]:
    """The document. Raises SettingError for a declaration that has no JSON Schema."""
    channels: dict[str, tuple[Route, str | None]] = {}
    for route in routes:
        paths: list[str | None] = [*route.paths]
        for path in paths or [None]:
            channels[_free(_slug(path or ""), channels)] = route, path
    found = {name: [*_operations(route)] for name, (route, _) in channels.items()}
    known = Messages(one for operations in found.values() for one in _messages(operations))
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": {
            name: _channel(*channels[name], known.keys_of(_messages(operations)))
            for name, operations in found.items()
        },
        "operations": {
            f"{one.name}_{name}": _operation(name, one, known)
            for name, operations in found.items()
            for one in operations
        },
        "components": {"messages": known.listed, "schemas": known.schemas},
    }


def _free(name: str, taken: Iterable[str]) -> str:
    """``name``, or one like it that nothing has."""
    number, chosen = 1, name
    while chosen in taken:
        number += 1
        chosen = f"{name}_{number}"
    return chosen


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", CAPTURED.sub(r"\2", text), flags=re.ASCII).strip("_") or "root"


# Channels and operations


def _channel(route: Route, path: str | None, messages: list[str]) -> dict[str, Any]:
    home = "each connection has its own" if route.dynamic else repr(route.groups[0])
    speaks = "plain" if route.protocol is None else route.protocol.name
    channel: dict[str, Any] = {
        "address": None,
        "description": f"{CARRIED[speaks]} Home group: {home}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
    }
    if path is None or _REGEX.search(path):
        channel["description"] += f" Path: {path or 'not known'}."
        return channel
    channel["address"] = CAPTURED.sub(r"{\2}", path)
    if captured := CAPTURED.findall(path):
        channel["parameters"] = {
            name: {"description": f"As Django's {kind or 'str'!r} matches."}
            for kind, name in captured
        }
    return channel


def _operation(channel: str, one: Operation, known: "Messages") -> dict[str, Any]:
    where = {"$ref": f"#/channels/{channel}"}

    def refer(messages: list[Message]) -> list[dict[str, str]]:
        return [{"$ref": f"{where['$ref']}/messages/{key}"} for key in known.keys_of(messages)]

    made: dict[str, Any] = {
        "action": one.action,
        "channel": where,
        "summary": one.summary,
        "messages": refer(one.messages),
    }
    if one.reply is not None:
        made["reply"] = {"channel": where, "messages": refer(one.reply)}
    return made


def _messages(operations: Iterable[Operation]) -> Iterator[Message]:
    for one in operations:
        yield from one.messages
        yield from one.reply or ()


def _operations(route: Route) -> Iterator[Operation]:
    pipeline = route.pipeline
    received = [
        one
        for cls in pipeline.message.filters
        if has_model(hint := data_hint(cls))
        for one in _members(hint, "validation", cls)
    ]
    if received:
        yield Operation("receive", "receive", "What clients send.", received)
    for chain in pipeline.call:
        [cls] = chain.filters
        if has_model(hint := data_hint(cls)):
            yield _call(cls, hint)
    sent = [one for chain in pipeline.chains for cls in chain.filters for one in _sent(cls)]
    # On other routes nobody gets what a message filter returns.
    members_get = [pipeline.group, pipeline.send, *([pipeline.message] if route.protocol else [])]
    for chain in members_get:
        for cls in chain.filters:
            if has_model(hint := returned_hint(cls)):
                sent += _members(hint, "serialization", cls)
    if sent:
        yield Operation("send", "send", "What clients get.", sent)


def _call(cls: Any, hint: Any) -> Operation:
    method = method_of(cls)
    asked = [
        one._replace(name=f"{_slug(method)}_{one.name}")
        for one in _members(hint, "validation", cls)
    ]
    returned = returned_hint(cls)
    answers = [
        one._replace(name=f"{_slug(method)}_answer")
        for one in _members(returned, "serialization", cls)
        # Who returns None leaves the call to the next filter.
        if returned is not None and one.hint not in (Any, type(None))
    ]
    return Operation(f"call_{_slug(method)}", "receive", f"The call {method!r}.", asked, answers)


def _sent(cls: Any) -> Iterator[Message]:
    sends = getattr(cls, "sends", ())
    for hint in sends if isinstance(sends, tuple) else (sends,):
        yield from _members(hint, "serialization", cls)


def _members(hint: Any, mode: Mode, cls: Any) -> Iterator[Message]:
    """A message for each type of a union, or one."""
    bare = getattr(hint, "__value__", hint)
    if typing.get_origin(bare) is Annotated and _is_union(typing.get_args(bare)[0]):
        bare = typing.get_args(bare)[0]
    if bare is not hint or _is_union(bare):
        for one in typing.get_args(bare) if _is_union(bare) else (bare,):
            yield from _members(one, mode, cls)
        return
    name = "null" if hint is type(None) else _slug(name_of(hint))
    yield Message(name, hint, mode, f"{cls.__module__}.{cls.__qualname__}.filter")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


# Messages


class Messages:
    """Each message once, and the schemas of them all."""

    def __init__(self, declared: Iterable[Message]) -> None:
        self.listed: dict[str, Any] = {}
        self._keys: list[tuple[Message, str]] = []
        messages = [*declared]
        payloads, self.schemas = _schemas_of(messages) if messages else ([], {})
        for message, payload in zip(messages, payloads, strict=True):
            listed = {"name": message.name, "payload": payload}
            same = [key for key, one in self.listed.items() if one == listed]
            key = same[0] if same else _free(message.name, self.listed)
            self.listed[key] = listed
            self._keys.append((message, key))

    def keys_of(self, messages: Iterable[Message]) -> list[str]:
        """Under which they are listed, each once."""
        asked = [*messages]
        keys = [key for message, key in self._keys if message in asked]
        return [*dict.fromkeys(keys)]


def _schemas_of(messages: list[Message]) -> tuple[list[Any], dict[str, Any]]:
    """The schema of each, and those to which they refer."""
    pydantic: Any = import_module("pydantic")
    generator: Any = import_module("pydantic.json_schema").GenerateJsonSchema

    class Generator(generator):  # type: ignore[misc]
        """AsyncAPI has another ``discriminator``; what it says is in the types as well."""

        def tagged_union_schema(self, schema: Any) -> Any:
            made = super().tagged_union_schema(schema)
            made.pop("discriminator", None)
            return made

    inputs = [(n, one.mode, adapter_of(one.hint, one.where)) for n, one in enumerate(messages)]
    try:
        made, others = pydantic.TypeAdapter.json_schemas(
            inputs, ref_template=SCHEMAS, schema_generator=Generator
        )
    except pydantic.errors.PydanticUserError as error:
        said = describe(error).partition("\n")[0].rstrip(".")
        raise SettingError(f"a type has no JSON Schema: {said}.", "Change the type.") from error
    return [made[n, mode] for n, mode, _ in inputs], others.get("$defs", {})
