"""Models and dataclasses as messages: what is sent of them."""

import dataclasses
import datetime
import enum
import json
import sys

import pydantic
import pytest

from filtered_websocket import PublishError
from filtered_websocket.codecs.copies import copy_of, is_model, plain_copy
from filtered_websocket.codecs.data import data_of
from filtered_websocket.codecs.frames import dump_json, pack, to_frame
from filtered_websocket.codecs.json import JSONCodec
from filtered_websocket.publishing.items import new_item
from filtered_websocket.types import Identity


class Colour(enum.Enum):
    RED = "red"


class Said(pydantic.BaseModel):
    text: str = pydantic.Field(alias="theText")
    at: datetime.datetime = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    colours: set[Colour] = {Colour.RED}
    password: pydantic.SecretStr = pydantic.SecretStr("secret")


@dataclasses.dataclass
class Moved:
    said: Said
    colour: Colour = Colour.RED


@pydantic.dataclasses.dataclass
class Own:
    x: int


SAID = {
    "theText": "a",
    "at": "2026-11-28T00:00:00Z",
    "colours": ["red"],
    "password": "**********",
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Said(theText="a"), SAID),
        (Moved(Said(theText="a")), {"said": SAID, "colour": "red"}),
        (Own(1), {"x": 1}),
        (pydantic.RootModel[list[int]]([1, 2]), [1, 2]),
        ([Own(1), {"own": Own(2)}], [{"x": 1}, {"own": {"x": 2}}]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_they_are_json_as_pydantic_writes_it_by_aliases(message, expected):
    kind, payload = pack(message, None)
    assert kind == "j" and json.loads(payload) == expected
    assert json.loads(to_frame(message, JSONCodec()).payload) == expected
    assert json.loads(data_of(message).payload) == expected
    if is_model(message):
        assert plain_copy(message) == expected
    assert copy_of(message) == message and copy_of(message) is not message


def test_what_json_cannot_say_is_an_error_of_the_publish():
    @dataclasses.dataclass
    class Holding:
        thing: object

    for message in (Holding(object()), pydantic.RootModel[float](float("inf")), Own):
        with pytest.raises(PublishError):
            new_item(message)


def test_who_connects_is_no_message():
    """It has the key of a session."""
    identity = Identity(session_key="secret")
    for message in (identity, [identity]):
        with pytest.raises(PublishError) as caught:
            new_item(message)
        assert "secret" not in str(caught.value)


def test_without_pydantic_a_dataclass_is_an_error_with_the_cure(monkeypatch):
    @dataclasses.dataclass
    class Unknown:
        x: int

    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(PublishError, match=r"Unknown is a dataclass.* pip install") as caught:
        new_item(Unknown(1))
    assert "[typed]" in str(caught.value)
    # What needs none is as it was.
    assert dump_json({"a": datetime.date(2026, 11, 28)}) == '{"a":"2026-11-28"}'
