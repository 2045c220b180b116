"""Filters that declare a model or a dataclass get instances, and clients are told of the rest."""

import asyncio
import dataclasses
import datetime
import json
import sys
import threading
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from filtered_websocket import (
    Drop,
    WebSocketCallFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    current,
)
from filtered_websocket.chains.stage import Later
from filtered_websocket.chains.typed import (
    MOST_FOUND,
    MOST_TOLD,
    data_hint,
    has_model,
    name_of,
    typed_of,
)
from filtered_websocket.codecs.copies import is_model
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.exceptions import (
    LONGEST_REASON,
    LONGEST_TEXT,
    FilterError,
    InvalidData,
    NoSuchMethod,
)
from filtered_websocket.pipelines.entries import PipelineError
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.testing import connect
from filtered_websocket.types import Call

from ..connections.test_connection import message_filter
from ..protocols.clients import speak

JSON = "filtered_websocket.json_codec.JSONCodec"


class Said(pydantic.BaseModel):
    kind: Literal["said"] = "said"
    text: str
    at: datetime.datetime | None = None


class Left(pydantic.BaseModel):
    kind: Literal["left"]


@dataclasses.dataclass
class Moved:
    x: int
    y: int = 0


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    at: datetime.date
    n: int = 0


@dataclasses.dataclass
class Chosen:
    at: Annotated[datetime.date, pydantic.Strict()]


class Secret(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(val_json_bytes="base64")
    key: bytes


Event = Annotated[Said | Left, pydantic.Field(discriminator="kind")]
Named = TypeAliasType("Named", Said | Left)
T = TypeVar("T")


def taking(hint, answer=None, base=WebSocketMessageFilter, kind="def", **namespace):
    """A filter whose data has this annotation, and what it gets."""
    seen = []

    def take(web_socket_instance, data):
        seen.append(data)
        return answer

    async def take_later(web_socket_instance, data):
        await asyncio.sleep(0)
        return take(web_socket_instance, data)

    function = take
    if kind == "async":
        function = take_later
    elif kind == "hidden":  # asyncio does not know that it is async

        def function(web_socket_instance, data):
            return take_later(web_socket_instance, data)

    if hint is not None:
        function.__annotations__ = {"data": hint}
    return message_filter(function, base, blocking=kind == "blocking", **namespace), seen


async def through(filters, data, codec=JSON, base="message"):
    """What comes out of the chain of a pipeline."""
    pipeline = Pipeline(filters, None if codec is None else FakeCodec())
    return await getattr(pipeline, base).arun(None, data)


class FakeCodec:
    def decode(self, frame, text):
        raise AssertionError

    encode = decode


KINDS = ["def", "async", "blocking"]
kinds = pytest.mark.parametrize("kind", KINDS)


# What a filter gets


@pytest.mark.parametrize("kind", [*KINDS, "hidden"])
@pytest.mark.parametrize("answer", [None, "own"])
async def test_a_filter_gets_an_instance_and_so_does_the_next_one_if_it_returns_none(kind, answer):
    typed, seen = taking(Said, answer, kind=kind)
    after, seen_after = taking(None)
    made = await through([typed, after], {"text": "hi", "at": "2026-11-28T01:00:00Z"})
    at = datetime.datetime(2026, 11, 28, 1, tzinfo=datetime.UTC)
    assert seen == [Said(text="hi", at=at)]
    assert made == seen_after[0] == (answer or seen[0])


@pytest.mark.parametrize(
    ("hint", "data", "expected"),
    [
        (Moved, {"x": "1"}, Moved(1)),
        (Said | Left, {"kind": "left"}, Left(kind="left")),
        (Said | None, None, None),
        (Event, {"kind": "said", "text": "a"}, Said(text="a")),
        (Named, {"kind": "left"}, Left(kind="left")),
        (list[Moved], [{"x": 1}], [Moved(1)]),
        (Said | str, "a", "a"),
        (Strict, {"at": "2026-11-28"}, Strict(at=datetime.date(2026, 11, 28))),
        (Strict, Strict(at=datetime.date(2026, 11, 28)), Strict(at=datetime.date(2026, 11, 28))),
        (Chosen, {"at": "2026-11-28"}, Chosen(at=datetime.date(2026, 11, 28))),
        (Secret, {"key": "aGk="}, Secret(key=b"hi")),
        (Said, Said(text="made before"), Said(text="made before")),
    ],
    ids=lambda one: str(one)[:30],
)
async def test_what_is_declared_and_what_comes(hint, data, expected):
    typed, seen = taking(hint)
    assert await through([typed], data) == expected
    assert seen == [expected] and type(seen[0]) is type(expected)


async def test_without_a_codec_the_bytes_are_json():
    typed, seen = taking(Moved)
    assert await through([typed], bytearray(b'{"x": 1}'), codec=None) == Moved(1) == seen[0]
    for frame, words in [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 200 + b"]" * 200, "a document has at most 32 levels"),
        (b'{"x": 1, "x": 2}', "a key comes twice in one object"),
        (b'{"x": NaN}', "NaN and Infinity are no JSON"),
    ]:
        with pytest.raises(InvalidData) as caught:
            await through([typed], bytearray(frame), codec=None)
        assert str(caught.value) == words
    assert len(seen) == 1


class Same(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data: dict):
        return data


@pytest.mark.parametrize(
    "hint",
    [
        None,
        Any,
        dict,
        str,
        bytearray,
        dict[str, Any],
        list[int],
        str | None,
        T,
        Literal["a"],
        typing.Callable[[int], str],
        "dict[str, str]",
        Call,
        "Call",
        Call | None,
    ],
    ids=str,
)
async def test_any_other_annotation_changes_nothing(hint):
    """Not even how it is called."""
    for base, chain in [(WebSocketMessageFilter, "message"), (WebSocketCallFilter, "call")]:
        untyped, _ = taking(hint, base=base)
        found = getattr(Pipeline([untyped]), chain)
        [stage] = found.stages if chain == "message" else found[0].stages
        assert stage.call is untyped.filter


def test_a_filter_without_data_and_one_of_another_chain_are_called_as_they_are():
    def alone(web_socket_instance):
        pass

    def many(*arguments: Said):
        pass

    in_group, _ = taking(Said, base=WebSocketGroupFilter)
    pipeline = Pipeline([message_filter(alone), message_filter(many), in_group])
    assert pipeline.message.stages[1].call is many
    assert pipeline.group.stages[0].call is in_group.filter
    assert data_hint(message_filter(alone)) is None


def test_an_alias_that_is_made_of_itself_has_an_end():
    assert not has_model(types.SimpleNamespace(__value__=None))
    loop = types.SimpleNamespace()
    loop.__value__ = loop
    assert not has_model(loop)


async def test_what_a_decorator_hides_may_be_left_without_a_warning():
    typed, _ = taking(Moved, kind="hidden")
    chain = Pipeline([typed], FakeCodec()).message
    with pytest.raises(FilterError) as caught:
        chain.run(None, {"x": 1})
    assert "take_later" in str(caught.value.__cause__)
    assert await Later(asyncio.sleep(0, 2), 1) == 2


def test_an_annotation_is_named_as_one_writes_it():
    hints = [Said, Said | None, list[Said], tuple[Moved, ...], typing.Optional[Moved]]  # noqa: UP045
    named = ["Said", "Said | None", "list[Said]", "tuple[Moved, ...]", "Optional[Moved]"]
    assert list(map(name_of, hints)) == named


# What is no instance


async def told(hint, data):
    typed, seen = taking(hint)
    with pytest.raises(InvalidData) as caught:
        await through([typed], data)
    assert seen == [] and isinstance(caught.value, Drop)
    # Nothing that a log would show refers to what has come.
    assert caught.value.__suppress_context__
    return caught.value


@pytest.mark.parametrize(
    ("hint", "data", "words"),
    [
        (Said, {"text": 1}, "text: Input should be a valid string"),
        (Said, {}, "text: Field required"),
        (Moved, {"x": "secret"}, "x: Input should be a valid integer, unable to parse string"),
        (Moved, "secret", "Input should be a dictionary or an instance"),
        (Event, {"kind": "secret"}, "'kind' should be one of 'said', 'left'"),
        (Strict, {"at": "2026-11-28", "n": "secret"}, "n: Input should be a valid integer"),
        (list[Moved], [{"x": 1}, {"x": None}], "1.x: Input should be a valid integer"),
    ],
    ids=str,
)
async def test_the_field_and_what_is_wrong_are_told_and_not_the_value(hint, data, words):
    said = str(await told(hint, data))
    assert said.startswith(words) and "secret" not in said


#: What a JSON codec may make of a client's message.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["kind", "text", "at", "x"]) | st.text(), inner)
    ),
    max_leaves=8,
)
ALL = [typed_of(taking(hint)[0]) for hint in (Said, Moved, Event, Said | Left, Strict, list[Moved])]


@pytest.mark.repeats
@settings(max_examples=60, deadline=None)
@given(ANYTHING, st.sampled_from(ALL))
def test_whatever_comes_is_an_instance_or_told_within_bounds(data, typed):
    try:
        made = typed.read(None, data)
    except InvalidData as error:
        assert 0 < len(str(error)) <= LONGEST_TEXT and str(error).isprintable()
        assert len(error.reason.encode()) <= LONGEST_REASON
        assert 0 < len(error.problems) <= MOST_TOLD
    else:
        assert all(map(is_model, made if isinstance(made, list) else [made]))


async def test_what_a_validator_of_the_site_says_is_told():
    class Polite(pydantic.BaseModel):
        text: str

        @pydantic.field_validator("text")
        @classmethod
        def check(cls, text):
            assert text.islower(), "do not shout"
            if "please" not in text:
                raise ValueError("say please\n")
            return text

    assert str(await told(Polite, {"text": "go"})) == "text: say please\\n"
    assert str(await told(Polite, {"text": "GO"})).startswith("text: do not shout")


async def test_it_is_told_of_a_few_problems_in_a_bounded_text():
    many = {str(number): {"x": None} for number in range(MOST_FOUND + 1)}
    error = await told(dict[str, Moved], dict(list(many.items())[:-2]))
    assert [problem.field for problem in error.problems] == ["0.x", "1.x", "2.x"]
    # To describe so many takes longer than to read the message.
    error = await told(dict[str, Moved], many)
    assert str(error) == f"{MOST_FOUND + 1} values are not as declared"
    name = "\u00e9\n" * 10_000
    error = await told(dict[str, Moved], {name: {"x": None}})
    assert len(error.problems[0].field) == 60 and "\n" not in str(error)
    assert len(str(await told(dict[str, Moved], {f"{n}{name}": {} for n in range(3)}))) == 200
    assert len(error.reason.encode()) <= 123


@pytest.mark.parametrize(
    ("around", "field"),
    [
        (lambda one: list[one], "0"),
        (lambda one: tuple[one, ...], "0"),
        (lambda one: list[list[one]] | None, "0.0"),
        (lambda one: Annotated[list[one], pydantic.Field(max_length=200_000)], "0"),
    ],
    ids=["list", "tuple", "union", "annotated"],
)
async def test_of_a_list_the_first_element_that_is_wrong_ends_the_check(around, field):
    checked = []

    class Never(pydantic.BaseModel):
        @pydantic.model_validator(mode="before")
        @classmethod
        def note(cls, data):
            checked.append(data)
            raise ValueError("never")

    data = [1] * 100_000
    error = await told(around(Never), [data] if "." in field else data)
    assert str(error).endswith(f"{field}: never") and len(error.problems) == 1 == len(checked)


async def test_objects_of_a_codec_that_json_does_not_have():
    error = await told(Moved, {"x": {1, 2}})
    assert str(error) == "x: Input should be a valid integer"
    # Which cannot be made JSON again, where that would be read otherwise.
    assert str(await told(Strict, {"at": {1, 2}})) == "at: Input should be a valid date"
    assert str(await told(Moved, b"\x00")) == "not JSON"
    assert str(await told(Moved, 5)).startswith("Input should be")


async def test_what_a_filter_before_has_returned_is_no_mistake_of_the_client():
    before, _ = taking(Said, Left(kind="left"))
    typed, seen = taking(Said)
    with pytest.raises(FilterError) as caught:
        await through([before, typed], {"text": "a"})
    words = "it takes Said, and gets Left from what is before it"
    assert str(caught.value.__cause__) == words and seen == []


async def test_an_error_of_a_validator_is_one_of_the_filter():
    class Broken(pydantic.BaseModel):
        text: str

        @pydantic.field_validator("text")
        @classmethod
        def check(cls, text):
            raise KeyError(text)

    typed, _ = taking(Broken)
    with pytest.raises(FilterError) as caught:
        await through([typed], {"text": "a"})
    assert isinstance(caught.value.__cause__, KeyError)


# What a client is told


def app(*filters, **options):
    return FilteredWebSocketConsumer.as_asgi(filters=list(filters), **options)


@kinds
async def test_a_plain_connection_is_closed_with_the_reason(kind):
    typed, seen = taking(Said, kind=kind)
    async with connect(app(typed, codec=JSON)) as client:
        await client.send('{"text": "a"}')
        await client.send('{"text": 1}')
        await client.send('{"text": "b"}')
        assert await client.closed() == 4400
        assert client.close_reason == "text: Input should be a valid string"
    assert seen == [Said(text="a")]


async def test_a_filter_may_answer_instead_in_the_words_of_the_site():
    def invalid(connection, error):
        [problem] = error.problems
        connection.push({"field": problem.field, "problem": problem.words})
        raise Drop

    typed, seen = taking(Said, invalid=staticmethod(invalid))
    async with connect(app(typed, codec=JSON)) as client:
        await client.send("{}")
        answer = json.loads(await client.receive())
        assert answer == {"field": "text", "problem": "Field required"}
        await client.send('{"text": "a"}')
        await client.settle()
        assert seen == [Said(text="a")]


async def test_one_that_only_looks_leaves_the_answer_to_the_package():
    errors = []
    typed, _ = taking(Said, invalid=staticmethod(lambda connection, error: errors.append(error)))
    async with connect(app(typed, codec=JSON)) as client:
        await client.send("{}")
        assert await client.closed() == 4400
    assert [str(error) for error in errors] == ["text: Field required"]


class Shouted(pydantic.BaseModel):
    text: str = pydantic.Field(alias="theText")


async def test_on_a_route_of_centrifuge_it_is_error_107_and_the_connection_stays():
    def shout(web_socket_instance, data: Said):
        return Shouted(theText=data.text.upper())

    async with speak([message_filter(shout)]) as ann, speak([message_filter(shout)]) as bob:
        await bob.ask(subscribe={"channel": "news"})
        reply = await ann.ask(publish={"channel": "news", "data": {"text": 1}})
        words = "bad request: text: Input should be a valid string"
        assert reply == {"error": {"code": 107, "message": words}}
        await ann.say({"send": {"data": {}}})  # which has no answer
        assert await ann.ask(publish={"channel": "news", "data": {"text": "hi"}}) == {"publish": {}}
        assert (await bob.push())["pub"]["data"] == {"theText": "HI"}


# Calls


@kinds
async def test_the_data_of_a_call_of_its_method(kind):
    typed, seen = taking(Moved, Moved(3, 4), WebSocketCallFilter, kind, method="move")
    other, seen_by_other = taking(None, {"ok": True}, WebSocketCallFilter)
    async with connect([typed, other]) as client:
        assert await client.call("move", {"x": 1, "y": 2}) == Moved(3, 4)
        assert await client.call("look", {"x": "?"}) == {"ok": True}
        with pytest.raises(InvalidData, match=r"^y: Input should be a valid integer"):
            await client.call("move", {"x": 1, "y": "?"})
    assert seen == [Moved(1, 2)] and seen_by_other == [Call("look", {"x": "?"})]


async def test_one_that_returns_none_leaves_the_call_as_it_came_to_the_next_one():
    typed, _ = taking(Moved, None, WebSocketCallFilter, method="move")
    other, seen = taking(None, None, WebSocketCallFilter)
    async with connect([typed, other]) as client:
        with pytest.raises(NoSuchMethod):
            await client.call("move", {"x": "1"})
    assert seen == [Call("move", {"x": "1"})]


async def test_clients_of_centrifuge_get_a_model_as_json_or_the_error():
    typed, _ = taking(Moved, [Shouted(theText="a"), Moved(1)], WebSocketCallFilter, method="move")
    async with speak([typed]) as ann:
        reply = await ann.ask(rpc={"method": "move", "data": {"x": 1}})
        assert reply == {"rpc": {"data": [{"theText": "a"}, {"x": 1, "y": 0}]}}
        reply = await ann.ask(rpc={"method": "move"})
        assert reply["error"]["code"] == 107
        assert reply["error"]["message"].startswith("bad request: Input should be")


# Mistakes of a site


def mistake(*filters):
    with pytest.raises(PipelineError) as caught:
        Pipeline(filters)
    assert caught.value.id == "filtered_websocket.E034"
    return caught.value


@pytest.mark.parametrize("missing", ["all of it", "all but version 1"])
async def test_without_pydantic_the_error_has_the_cure(monkeypatch, missing):
    found = None if missing == "all of it" else types.ModuleType("pydantic")
    monkeypatch.setitem(sys.modules, "pydantic", found)
    typed, _ = taking(Moved)
    error = mistake(typed)
    assert "Moved is a type that pydantic 2 checks, which is not installed" in error.message
    assert error.hint == "pip install 'filtered-websocket[typed]'."
    # Whoever declares none needs none.
    assert Pipeline([Same]).message.run(None, {"a": 1}) == {"a": 1}


def test_a_call_filter_says_of_which_method_it_takes_the_data():
    for namespace in ({}, {"method": 7}):
        typed, _ = taking(Moved, None, WebSocketCallFilter, **namespace)
        error = mistake(typed)
        assert error.message.endswith("take declares the data of a call, and not of which.")
        assert error.hint == 'Name its method in the class, as method = "add".'


def test_a_type_that_pydantic_cannot_check():
    @dataclasses.dataclass
    class Locked:
        lock: threading.Event

    typed, _ = taking(Locked)
    error = mistake(typed)
    assert "pydantic cannot check Locked: PydanticSchemaGenerationError: Unable" in error.message
    assert "\n" not in error.message and error.hint == "Change the type."

    class OfVersion1:
        @classmethod
        def __get_validators__(cls):
            return iter(())

    typed, _ = taking(OfVersion1)
    assert "pydantic cannot check OfVersion1" in mistake(typed).message


LATER = """
from __future__ import annotations
import dataclasses
from typing import TYPE_CHECKING
from filtered_websocket import WebSocketMessageFilter
if TYPE_CHECKING:
    from filtered_websocket.connections.connection import Connection
    from somewhere import Unknown

class Good(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance: Connection, data: Said | None) -> Unknown:
        return [data]

class Inner(WebSocketMessageFilter):
    @dataclasses.dataclass
    class Own:
        x: int

    @classmethod
    def filter(cls, web_socket_instance: Connection, data: Own):
        return data

class Bad(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data: Unknown):
        return data

class Worse(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data: "Said |"):
        return data

@dataclasses.dataclass
class Said:
    text: str
"""


async def test_annotations_that_are_texts(monkeypatch):
    module = types.ModuleType("annotated_later")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(LATER, vars(module))
    # Those of others need not be known.
    assert await through([module.Good], {"text": "a"}) == [module.Said("a")]
    assert await through([module.Inner], {"x": "1"}) == module.Inner.Own(1)
    error = mistake(module.Bad)
    assert error.message == (
        "INSTALLED_FILTERS: annotated_later.Bad.filter: the annotation of 'data', 'Unknown',"
        " cannot be evaluated: NameError: name 'Unknown' is not defined."
    )
    assert error.hint == "Import its types at run time, not only if TYPE_CHECKING."
    assert "SyntaxError" in mistake(module.Worse).message


# Beside it


async def test_what_is_published_may_be_an_instance_and_the_group_chain_gets_json():
    def publish(web_socket_instance, data: Said):
        web_socket_instance.publish(data, to_self=True)

    def mark(hub, message):
        return {**message, "group": current.group}

    both = app(
        message_filter(publish),
        message_filter(mark, WebSocketGroupFilter),
        codec=JSON,
        groups=["g"],
    )
    async with connect(both) as client:
        await client.send('{"text": "a"}')
        expected = {"kind": "said", "text": "a", "at": None, "group": "g"}
        assert json.loads(await client.receive()) == expected
