"""The schema is that of the clients, as far as it goes."""

import importlib.util

import pytest

from filtered_websocket.codecs import schema

centrifuge = pytest.importorskip("centrifuge.protocol.client_pb2")


def test_every_message_and_field_is_that_of_the_clients():
    theirs = centrifuge.DESCRIPTOR.message_types_by_name
    for name in schema.messages():
        ours = schema.protobuf_class(name).DESCRIPTOR
        for field in ours.fields:
            known = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (
                known.number,
                known.type,
                known.is_repeated,
            ), f"{name}.{field.name}"
            if field.message_type and field.message_type.GetOptions().map_entry:
                halves = [(half.name, half.type) for half in field.message_type.fields]
                assert halves == [(half.name, half.type) for half in known.message_type.fields]


def test_a_client_reads_what_we_write():
    made = schema.protobuf_class("Reply")(id=3)
    made.connect.subs["#42"].offset = 7
    read = centrifuge.Reply.FromString(made.SerializeToString())
    assert (read.id, read.connect.subs["#42"].offset) == (3, 7)


@pytest.mark.parametrize(
    "value",
    [
        {"id": 1, "subscribe": {"channel": "news", "data": [1], "unknown": 5, "tf": {}}},
        {"id": 2**32 - 1, "connect": {"subs": {"a": {"recover": True}}, "headers": {"x": "y"}}},
        {"id": 0, "history": {"limit": -1, "since": {"offset": 2**64 - 1, "epoch": ""}}},
    ],
)
def test_a_message_is_recognised(value):
    read = schema.read("Command", value, lambda data: ("data", data))
    for fields in value.values():
        if isinstance(fields, dict) and fields.pop("unknown", None):
            fields["data"] = ("data", fields["data"])
    assert read == value


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"id": "1"},
        {"id": True},
        {"id": -1},
        {"id": 2**32},
        {"id": 1.0},
        {"subscribe": []},
        {"subscribe": {"channel": 5}},
        {"subscribe": {"recover": 1}},
        {"subscribe": {"tf": 1}},
        {"connect": {"subs": []}},
        {"connect": {"subs": {"a": 1}}},
        {"connect": {"headers": {"a": 1}}},
    ],
)
def test_what_is_no_message_is_refused(value):
    with pytest.raises(ValueError, match="is"):
        schema.read("Command", value, repr)


def test_protobuf_is_known_to_be_missing(monkeypatch):
    assert schema.has_protobuf()
    monkeypatch.setattr(schema, "find_spec", lambda name: None)
    assert not schema.has_protobuf()
    assert importlib.util.find_spec("google") is not None
