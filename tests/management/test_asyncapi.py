"""``manage.py filters --schema``: what filters declare, as AsyncAPI."""

import copy
import dataclasses
import json
import subprocess
import sys
import typing
from io import StringIO
from typing import Annotated, Any, Literal

import pydantic
import pytest
from django.core.management import CommandError, call_command
from typing_extensions import TypeAliasType

from filtered_websocket import (
    WebSocketCallFilter,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.conf import SettingError
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.management.asyncapi import document
from filtered_websocket.pipelines import route as routes
from filtered_websocket.types import Call

from ..connections.test_connection import message_filter
from ..javascript.clients import install
from ..javascript.test_client import HERE, node


class Said(pydantic.BaseModel):
    kind: Literal["said"] = "said"
    text: str = pydantic.Field(alias="theText")


class Left(pydantic.BaseModel):
    kind: Literal["left"]


@dataclasses.dataclass
class Numbers:
    first: int
    second: tuple[int, str] = (1, "a")


Event = Annotated[Said | Left, pydantic.Field(discriminator="kind")]


class Batch(pydantic.BaseModel):
    events: list[Event]


def say(web_socket_instance, data: Event | Batch | None) -> Left: ...


def add(web_socket_instance, data: Numbers) -> int | list[Said] | None: ...


def tell(hub, message: dict) -> list[Said]: ...


SAY = message_filter(say, sends=(Event, dict[str, int]))
ADD = message_filter(add, WebSocketCallFilter, method="add numbers")
TELL = message_filter(tell, WebSocketGroupFilter)


def made(*paths, filters=(SAY, ADD, TELL), **options):
    """A route at these paths."""
    app = FilteredWebSocketConsumer.as_asgi(filters=list(filters), groups=["home"], **options)
    app.route.paths += paths
    return app.route


def names(operation, kind="messages"):
    parts = operation["reply"]["messages"] if kind == "reply" else operation[kind]
    return [part["$ref"].rpartition("/")[2] for part in parts]


def follow(whole, reference):
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        whole = whole[part]
    return whole


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = [*value.values()]
    for one in value if isinstance(value, list) else ():
        yield from references(one)


# Channels


def test_a_channel_for_each_path_of_a_route():
    routes = [
        made("/", "/rooms/<str:name>/<when>/"),
        made("/rooms/<int:name>/<when>", protocol="centrifuge"),
        made(r"/^ws/(?P<name>\w+)/$", protocol="pusher"),
        made(),
    ]
    channels = document(routes, "x", "1")["channels"]
    assert {name: one["address"] for name, one in channels.items()} == {
        "root": "/",
        "rooms_name_when": "/rooms/{name}/{when}/",
        "rooms_name_when_2": "/rooms/{name}/{when}",
        "ws_Pname_w": None,
        "root_2": None,
    }
    assert channels["rooms_name_when_2"]["parameters"] == {
        "name": {"description": "As Django's 'int' matches."},
        "when": {"description": "As Django's 'str' matches."},
    }
    told = {name: one["description"] for name, one in channels.items()}
    assert told["root"] == "Each text frame is a message. Home group: 'home'."
    assert "rpc, of the Centrifuge protocol" in told["rooms_name_when_2"]
    assert told["ws_Pname_w"].endswith(r"Path: /^ws/(?P<name>\w+)/$.")
    assert told["root_2"].endswith("Path: not known.")


def test_a_route_whose_connections_have_their_own_home_groups():
    class Rooms(FilteredWebSocketConsumer):
        def get_groups(self):
            return ["room"]

    app = Rooms.as_asgi(filters=[])
    found = document([app.route], "x", "1")
    assert "each connection has its own" in found["channels"]["root"]["description"]
    assert found["operations"] == {} and found["components"] == {"messages": {}, "schemas": {}}


# Operations


def test_what_a_route_takes_answers_and_sends():
    found = document([made("/")], "The title", "1.2")
    assert found["info"] == {"title": "The title", "version": "1.2"}
    receive, call, send = (
        found["operations"][name] for name in ("receive_root", "call_add_numbers_root", "send_root")
    )
    assert [one["action"] for one in (receive, call, send)] == ["receive", "receive", "send"]
    assert names(receive) == ["Said", "Left", "Batch", "null"] and "reply" not in receive
    assert names(call) == ["add_numbers_Numbers"]
    assert names(call, "reply") == ["add_numbers_answer", "add_numbers_answer_2"]
    # On a plain route nobody gets what the message filter returns, which is a Left.
    assert names(send) == ["Said", "Left", "dict_str_int", "list_Said"]
    listed = found["components"]["messages"]
    assert [listed[name]["payload"] for name in ("null", "add_numbers_answer", "list_Said")] == [
        {"type": "null"},
        {"type": "integer"},
        {"type": "array", "items": {"$ref": "#/components/schemas/Said"}},
    ]
    schemas = found["components"]["schemas"]
    # As clients write it; and without a "discriminator", which is something else in AsyncAPI.
    assert schemas["Said"]["properties"].keys() == {"kind", "theText"}
    assert schemas["Batch"]["properties"]["events"]["items"].keys() == {"oneOf"}


def test_where_clients_speak_a_protocol_they_get_what_a_message_filter_returns():
    say_only = [message_filter(say)]
    assert "send_root" not in document([made("/", filters=say_only)], "x", "1")["operations"]
    speaking = made("/", filters=say_only, protocol="centrifuge")
    assert names(document([speaking], "x", "1")["operations"]["send_root"]) == ["Left"]


def test_types_of_one_name_and_one_type_that_is_written_otherwise_than_it_is_read():
    class Said(pydantic.BaseModel):
        n: int

        @pydantic.computed_field
        @property
        def twice(self) -> int:
            return 2 * self.n

    def other(web_socket_instance, data: Said): ...

    found = document([made("/"), made("/b", filters=[message_filter(other, sends=Said)])], "x", "1")
    operations, listed = found["operations"], found["components"]["messages"]
    assert names(operations["receive_root"])[0] == "Said"
    [read], [written] = names(operations["receive_b"]), names(operations["send_b"])
    assert len({"Said", read, written}) == 3
    payloads = [follow(found, listed[one]["payload"]["$ref"]) for one in (read, written)]
    assert [set(one["properties"]) for one in payloads] == [{"n"}, {"n", "twice"}]


def test_unions_by_other_names():
    def take(web_socket_instance, data): ...

    for hint, expected in [
        (TypeAliasType("Named", Said | Left), ["Said", "Left"]),
        (TypeAliasType("Alone", Said), ["Said"]),
        (typing.Union[Said, Left], ["Said", "Left"]),  # noqa: UP007
        (Annotated[Said, "of no meaning"], ["Annotated_Said_of_no_meaning"]),
    ]:
        take.__annotations__ = {"data": hint}
        found = document([made("/", filters=[message_filter(take)])], "x", "1")
        assert names(found["operations"]["receive_root"]) == expected


def test_filters_that_declare_nothing_are_not_in_it():
    def answer(web_socket_instance, call: Call) -> Said: ...
    def any_answer(web_socket_instance, data: Numbers) -> Any: ...
    def no_answer(web_socket_instance, data: Numbers): ...
    def look(web_socket_instance, data: dict[str, Any]) -> str: ...

    filters = [
        message_filter(answer, WebSocketCallFilter),
        message_filter(any_answer, WebSocketCallFilter, method="a"),
        message_filter(no_answer, WebSocketCallFilter, method="b"),
        message_filter(look),
        message_filter(look, WebSocketGroupFilter),
        message_filter(answer, WebSocketConnectFilter),
    ]
    operations = document([made("/", filters=filters)], "x", "1")["operations"]
    assert list(operations) == ["call_a_root", "call_b_root"]
    assert [one["reply"]["messages"] for one in operations.values()] == [[], []]


def test_a_type_without_a_json_schema_is_named():
    class Odd(pydantic.BaseModel):
        call: typing.Callable[[], None]

    def take(web_socket_instance, data: Odd): ...

    with pytest.raises(SettingError, match=r"a type has no JSON Schema: .*Callable"):
        document([made("/", filters=[message_filter(take)])], "x", "1")


# Of AsyncAPI itself


def test_it_is_valid_by_the_schema_of_asyncapi_and_each_reference_leads_somewhere(tmp_path):
    install()
    routes = [
        made("/", "/rooms/<str:name>/"),
        made(r"/^ws/(?P<name>\w+)/$", protocol="pusher"),
        made("/none/", filters=[]),
    ]
    good = document(routes, "The title", "1.2")
    for reference in references(good):
        assert follow(good, reference)
    # What would not be one, to know that anything is looked at.
    bad = [copy.deepcopy(good) for _ in range(3)]
    bad[0]["operations"]["receive_root"]["action"] = "take"
    bad[1]["channels"]["root"]["unknown"] = 1
    bad[2]["components"]["schemas"]["Batch"]["discriminator"] = {"propertyName": "kind"}
    paths = [tmp_path / f"{number}.json" for number in range(4)]
    for path, one in zip(paths, [good, *bad], strict=True):
        path.write_text(json.dumps(one))
    command = [node(), HERE / "check_asyncapi.mjs", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    of_good, *of_bad = json.loads(done.stdout)
    assert of_good == [] and all(of_bad) and len(of_bad) == 3


# The command


def output(*options):
    stream = StringIO()
    call_command("filters", *options, stdout=stream, skip_checks=True)
    return stream.getvalue()


@pytest.fixture
def no_routes(monkeypatch, settings):
    monkeypatch.setattr(routes, "_routes", set())
    settings.ASGI_APPLICATION = None


def test_the_command_prints_it(no_routes, settings):
    with pytest.raises(CommandError, match="no WebSocket routes"):
        output("--schema")
    served = made("/")
    found = json.loads(output("--schema", "--title", "Mine", "--api-version", "3"))
    assert found == document([served], "Mine", "3")
    assert json.loads(output("--schema"))["info"] == {"title": "WebSockets", "version": "1.0.0"}
    settings.ASGI_APPLICATION = "fws_project.asgi.application"
    assert json.loads(output("--schema"))["info"]["title"] == "fws_project"
    assert output().startswith("/  home group 'home'")


def test_where_nothing_is_declared_pydantic_is_not_needed(no_routes, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    served = made("/", filters=["tests.lone_filter"])
    assert json.loads(output("--schema"))["operations"] == {}
    del served


def test_a_declaration_that_cannot_be_listed_is_an_error_of_one_line(no_routes):
    def take(web_socket_instance, data: Numbers) -> "Unknown":  # noqa: F821
        ...

    served = made("/", filters=[message_filter(take, WebSocketCallFilter, method="a")])
    with pytest.raises(CommandError, match=r"'return', 'Unknown', cannot be evaluated: Name"):
        output("--schema")
    del served
    assert WebSocketMessageFilter.sends == ()
