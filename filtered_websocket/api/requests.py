"""Reads the fields of a request, finds the group that it names, and says what is wrong."""

import base64
import binascii
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, Literal, TypeVar

from ..auth.tenants import personal_group
from ..codecs.json import JSONCodec
from ..groups import PERSONAL_PREFIX, TOKEN_PREFIX, GroupRule
from ..layer.envelope import MAX_GROUP_NAME
from ..pipelines.keeping import site_rules
from ..protocols.codes import ERRORS

T = TypeVar("T")


class ApiError(Exception):
    """The answer is this error; ``detail`` says what was found, and the cure."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(f"{ERRORS[code]}: {detail}" if detail else ERRORS[code])
        self.code = code

    @property
    def answer(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": str(self)}}


class _Codec(JSONCodec):
    """For callers with a key: Django limits how long a body may be."""

    max_depth = 64
    max_keys = 100_000


_parse = _Codec().parse


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in the body of a request; an empty body is one without fields."""
    try:
        fields = _parse(body.decode()) if body else {}
    except (ValueError, RecursionError) as error:
        raise ApiError(107, f"the body is not JSON: {error}"[:200]) from error
    return as_object(fields, "the body")


def as_object(value: Any, name: str) -> dict[str, Any]:
    """``value``, if it is a JSON object."""
    if not isinstance(value, dict):
        raise ApiError(107, f"{name} is a JSON object, not {value!r:.80}")
    return value


class Request:
    """
    The fields of a request. What is null counts as absent; a field that has another type
    raises :exc:`ApiError` 107.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def _get(self, name: str, kind: type[T], words: str, default: T) -> T:
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ApiError(107, f"{name!r} is {words}, not {value!r:.80}")
        return value

    def text(self, name: str) -> str:
        """A text; empty where it is absent."""
        return self._get(name, str, "a text", "")

    def needed(self, name: str) -> str:
        """A text that is not empty."""
        text = self.text(name)
        if not text:
            raise ApiError(107, f"{name!r} is missing")
        return text

    def flag(self, name: str) -> bool:
        """True or false; false where it is absent."""
        return self._get(name, bool, "true or false", False)

    def number(self, name: str) -> int | None:
        """A whole number."""
        return self._get(name, int, "a whole number", None)

    def listed(self, name: str) -> list[Any]:
        """A list; empty where it is absent."""
        return self._get(name, list, "a list", [])

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty where it is absent."""
        found = self.listed(name)
        for one in found:
            if not isinstance(one, str):
                raise ApiError(107, f"{name!r} is a list of texts: {one!r:.80} is none")
        return found

    def part(self, name: str) -> "Request | None":
        """The fields of an object in it."""
        value = self._fields.get(name)
        return None if value is None else Request(as_object(value, repr(name)))

    def tags(self) -> dict[str, str]:
        """Texts by name; empty where there are none."""
        tags = self._get("tags", dict, "an object of texts", {})
        for name, value in tags.items():
            if not isinstance(value, str):
                raise ApiError(107, f"'tags' is an object of texts: {name!r:.80} is {value!r:.80}")
        return tags

    def decoded(self, name: str) -> bytes | None:
        """The bytes of a text in base64."""
        text = self.text(name)
        try:
            return base64.b64decode(text, validate=True) if text else None
        except (ValueError, binascii.Error):
            raise ApiError(107, f"{name!r} is not base64") from None

    def refuse(self, *names: str) -> None:
        """:exc:`ApiError` 108 for a field that says something and has no effect here."""
        for name in names:
            if self._fields.get(name) not in (None, "", False, [], {}):
                raise ApiError(108, f"this server does nothing with {name!r}")


# Groups


def group_of(channel: str) -> str:
    """
    The group with this name on the wire, where a user's own one is ``#<pk>``.

    :exc:`ApiError` 107 for what is no name, and 102 where the site has rules and none of them
    declares it: a mistake in a name would otherwise publish to nobody.
    """
    if channel.startswith("#"):
        if channel == "#":
            raise ApiError(107, "'#' is followed by the primary key of a user")
        return personal_group(channel[1:], copy_context())
    if channel.startswith(PERSONAL_PREFIX):
        key = channel.removeprefix(PERSONAL_PREFIX)
        raise ApiError(107, f"the own group of a user is called {'#' + key!r:.80} here")
    if not 0 < len(channel) <= MAX_GROUP_NAME:
        raise ApiError(107, f"a channel has 1 to {MAX_GROUP_NAME} characters, not {len(channel)}")
    rules = site_rules()
    if rules is None or channel.startswith(TOKEN_PREFIX) or rules.find(channel) is not None:
        return channel
    raise ApiError(102, f"no group rule in {rules.source} matches {channel!r:.80}")


def keeping_group(channel: str, what: Literal["presence", "history"]) -> str:
    """:func:`group_of`, if its rule says that this is kept; else error 108."""
    group = group_of(channel)
    rule = _rule_of(group)
    if rule is None or not getattr(rule, what):
        raise ApiError(108, f"no group rule with {what}=... matches {channel!r:.80}")
    return group


def _rule_of(group: str) -> GroupRule | None:
    rules = site_rules()
    match = None if rules is None else rules.find(group)
    return None if match is None else match.rule
