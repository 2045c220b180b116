"""
Types that filters declare: a pydantic model or a dataclass as the annotation of ``data``.

::

    message   data is checked and converted; the filter gets the instance, and so does the next
              one where it returns None
    call      so is the data of the calls of its ``method``; other calls pass it by

All is decided when a pipeline is built: a filter without such an annotation is called as it is.
"""

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from operator import or_
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Protocol, Union

from ..codecs.copies import is_model
from ..codecs.data import PARSER
from ..codecs.frames import BYTES, dump_json
from ..codecs.json import BadDocument
from ..conf import SettingError, describe
from ..exceptions import InvalidData, Problem
from ..logs import printable
from ..types import Call

INSTALL = "pip install 'filtered-websocket[typed]'"
#: So many problems of one message are told.
MOST_TOLD = 3
#: Of a message with more, none is: pydantic takes many times as long to describe as to find them.
MOST_FOUND = 100
#: How much of the name of a field and of what is wrong with it, in characters.
LONGEST_FIELD, LONGEST_WORDS = 60, 160
#: What :func:`stops_early` is about.
LISTS = (list, tuple, set, frozenset)
#: What may be as it came from JSON.
OF_JSON = (dict, list, str)
#: A name in the text of an annotation, with its module and what it is defined in.
_DOTTED = re.compile(r"[\w<>.]+")
_ONE_VALUE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FilterClass(Protocol):
    """The part of a filter that is used here."""

    filter: typing.ClassVar[Callable[..., Any]]


class Typed:
    """What a filter declares that its data is."""

    def __init__(self, cls: "type[FilterClass]", hint: Any) -> None:
        where = f"{cls.__module__}.{cls.__qualname__}.filter"
        self.hint = hint
        self._adapter = adapter_of(hint, where, stops_early)
        self._as_json = reads_json_otherwise(self._adapter.core_schema)
        #: Called with the connection and what is wrong, if the filter has it.
        self._invalid: Callable[[Any, InvalidData], object] | None = getattr(cls, "invalid", None)

    def read(self, connection: Any, data: Any) -> Any:
        """``data`` as the filter gets it. Raises InvalidData for what a client has sent wrong."""
        try:
            return self._read(data)
        except InvalidData as error:
            if self._invalid is not None:
                self._invalid(connection, error)
            raise

    def _read(self, data: Any) -> Any:
        if isinstance(data, BYTES):  # a route without a codec
            data = _parsed(bytes(data))
        pydantic: Any = import_module("pydantic")
        text = self._json_of(data)
        try:
            if text is None:
                return self._adapter.validate_python(data)
            return self._adapter.validate_json(text)
        except pydantic.ValidationError as error:
            if is_model(data):
                # Made by the codec or a filter: not the client's mistake.
                raise TypeError(
                    f"it takes {name_of(self.hint)}, and gets {type(data).__name__} from what is"
                    " before it"
                ) from None
            raise InvalidData(problems_of(error)) from None

    def _json_of(self, data: Any) -> str | None:
        """What pydantic has to read as JSON; None if it may read the objects themselves."""
        if not (self._as_json and isinstance(data, OF_JSON)):
            return None
        try:
            return dump_json(data)
        except (TypeError, ValueError, RecursionError):
            return None  # a codec of the site has made what JSON does not have


def _parsed(payload: bytes) -> Any:
    """JSON from a client, with the limits of the JSON codec."""
    try:
        return PARSER.parse(payload.decode())
    except BadDocument as error:
        raise InvalidData([Problem("", str(error))]) from None
    except (ValueError, RecursionError):
        raise InvalidData([Problem("", "not JSON")]) from None


def problems_of(error: Any) -> list[Problem]:
    """The first problems of a ValidationError, without the values that the client has sent."""
    count = error.error_count()
    if count > MOST_FOUND:
        return [Problem("", f"{count} values are not as declared")]
    found = error.errors(include_url=False, include_input=False)[:MOST_TOLD]
    return [
        # Names may be the client's own, and so may parts of what a site's validator says.
        Problem(_bounded(".".join(map(str, one["loc"])), LONGEST_FIELD), _words(one))
        for one in found
    ]


def _bounded(text: str, length: int) -> str:
    return printable(text[:length])[:length]


def _words(problem: dict[str, Any]) -> str:
    if problem["type"] == "union_tag_invalid":  # its own words have the value
        about = problem["ctx"]
        return f"{about['discriminator']} should be one of {about['expected_tags']}"
    # Before what a validator of the site says.
    words = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return _bounded(words, LONGEST_WORDS)


def reads_json_otherwise(schema: Any) -> bool:
    """
    Whether pydantic takes other values from JSON than from the objects that it becomes: a strict
    model takes a text for a date from JSON only, for one.
    """
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            if (
                one.get("strict") is True
                or one.get("type") == "json-or-python"
                or one.get("val_json_bytes", "utf8") != "utf8"
            ):
                return True
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return False


# What is declared


def typed_of(cls: "type[FilterClass]") -> Typed | None:
    """What ``cls`` declares; None if that is neither a model nor a dataclass."""
    hint = data_hint(cls)
    return Typed(cls, hint) if has_model(hint) else None


def method_of(cls: "type[FilterClass]") -> str:
    """The method whose calls a typed filter answers."""
    method = getattr(cls, "method", "")
    if isinstance(method, str) and method:
        return method
    raise SettingError(
        f"{cls.__module__}.{cls.__qualname__} declares the data of a call, and not of which.",
        'Name its method in the class, as method = "add".',
    )


def data_hint(cls: "type[FilterClass]") -> Any:
    """The annotation of the parameter for data; None without one."""
    parameters = inspect.signature(cls.filter).parameters.values()
    plain = [parameter for parameter in parameters if parameter.kind in _ONE_VALUE]
    return _resolve(cls, plain[1].annotation, plain[1].name) if len(plain) > 1 else None


def returned_hint(cls: "type[FilterClass]") -> Any:
    """The annotation of what ``filter`` returns; None without one."""
    return _resolve(cls, inspect.signature(cls.filter).return_annotation, "return")


def _resolve(cls: "type[FilterClass]", annotation: Any, name: str) -> Any:
    """An annotation, which may be a text: that of ``from __future__ import annotations``, say."""
    if annotation is inspect.Signature.empty:
        return None
    owner = next(one for one in cls.__mro__ if "filter" in vars(one))
    names = getattr(inspect.unwrap(vars(owner)["filter"].__func__), "__globals__", {})
    # Of this one alone: others may be imported for type checkers only.
    alone = SimpleNamespace(__annotations__={name: annotation})
    try:
        found = typing.get_type_hints(alone, names, dict(vars(owner)), include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise SettingError(
            f"{cls.__module__}.{cls.__qualname__}.filter: the annotation of {name!r},"
            f" {annotation!r:.80}, cannot be evaluated: {describe(error)}.",
            "Import its types at run time, not only if TYPE_CHECKING.",
        ) from error
    return found[name]


def has_model(hint: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Whether it is a model or a dataclass, or is made of one, as ``Said | Left``."""
    if isinstance(hint, type):
        if issubclass(hint, Call):
            return False  # what call filters get that declare no type of their own
        # The last one: a model of pydantic 1, which is an error, not to be left unchecked.
        names = "__pydantic_core_schema__", "__dataclass_fields__", "__get_validators__"
        return any(hasattr(hint, name) for name in names)
    if any(hint is one for one in seen):
        return False
    seen = (*seen, hint)
    if hasattr(hint, "__value__"):  # "type Event = Said | Left"
        return has_model(hint.__value__, seen)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return False
    if origin is Annotated:
        return has_model(arguments[0], seen)
    return origin is not None and any(has_model(one, seen) for one in (origin, *arguments))


def name_of(hint: Any) -> str:
    """An annotation as one writes it, but for modules."""
    if isinstance(hint, type):
        return hint.__name__
    return _DOTTED.sub(lambda found: found[0].rpartition(".")[2] or found[0], str(hint))


class StopsEarly:
    """As pydantic's FailFast, which older versions of Python do not take inside of a union."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        return {**handler(source), "fail_fast": True}


def stops_early(hint: Any) -> Any:
    """
    ``hint``, with lists whose first element that is wrong ends the check. The JSON parser limits
    keys, not elements: a client could send very many, each of which would be described. Lists
    inside of models are what those say.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return Annotated[(stops_early(arguments[0]), *arguments[1:])]
    if origin is Union or origin is UnionType:
        return reduce(or_, map(stops_early, arguments))
    if origin not in LISTS:
        return hint
    return Annotated[origin[tuple(map(stops_early, arguments))], StopsEarly()]


def adapter_of(hint: Any, where: str, change: Callable[[Any], Any] = lambda hint: hint) -> Any:
    """
    pydantic's TypeAdapter, for what ``change`` makes of ``hint``. SettingError without pydantic 2,
    and for what it cannot check.
    """
    name = name_of(hint)
    try:
        pydantic: Any = import_module("pydantic")
        make = pydantic.TypeAdapter
    except (ImportError, AttributeError) as error:
        raise SettingError(
            f"{where}: {name:.80} is a type that pydantic 2 checks, which is not installed.",
            f"{INSTALL}.",
        ) from error
    try:
        return make(change(hint))
    except Exception as error:  # pydantic's, or of what the site has in its types
        said = describe(error).partition("\n")[0].rstrip(".")
        raise SettingError(
            f"{where}: pydantic cannot check {name:.80}: {said}.", "Change the type."
        ) from error
