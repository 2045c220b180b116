"""The broadcast groups of tokens, and what a token allows."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone

from filtered_websocket import WebSocketConnectFilter, WebSocketMessageFilter
from filtered_websocket.auth import authenticators
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.publish import apublish
from filtered_websocket.testing import connect

from ..handshaking import shake_hands

pytestmark = pytest.mark.django_db(transaction=True)

FILTERS = "filtered_websocket.filters."
BY_TOKEN = FILTERS + "broadcast_messages_by_token"
UNKNOWN = "Error: Unknown token"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, settings):
    monkeypatch.setattr(authenticators, "_throttle", authenticators.Throttle())
    settings.FILTERED_WEBSOCKET = {"GUESS_LIMIT": None}


def make(**fields):
    return Token.objects.create_key(**{"name": "of a test", **fields})


def registered(label):
    return f"Successfully registered with broadcast group: {label}"


def header(key):
    return {"headers": [("authorization", f"Token {key}".encode())]}


class Echo(WebSocketMessageFilter):
    """What later filters see."""

    seen = []

    @classmethod
    def filter(cls, web_socket_instance, message):
        cls.seen.append(bytes(message))


async def test_who_shows_a_key_joins_its_tokens_group():
    Echo.seen.clear()
    _, key = await sync_to_async(make)(group="sensors")
    other, other_key = await sync_to_async(make)(name="other")
    filters = [BY_TOKEN, Echo]
    async with connect(filters) as ann, connect(filters) as bob, connect(filters) as cy:
        for client in (ann, bob):
            await client.send(f"token:{key}")
            assert await client.receive() == registered("sensors")
        await cy.send(f"token:{other_key}")
        assert await cy.receive() == registered("other")
        await ann.send("hello")
        assert await bob.receive() == "hello"
        assert await cy.received_nothing()
        # A group with a name is a group like any other.
        await apublish("from a view", "sensors")
        assert await ann.receive() == "from a view"
        assert f"token:{other.pk}" in get_hub().groups.names
    # What holds a key went no further than to the filter that reads it.
    assert Echo.seen == [b"hello"]


async def test_an_unknown_key_is_told_and_goes_no_further(caplog, capsys):
    Echo.seen.clear()
    record, key = await sync_to_async(make)()
    async with connect([BY_TOKEN, Echo, FILTERS + "stdout_messages"]) as ann:
        for bad in (key[:-1] + ("A" if key[-1] != "A" else "B"), "abc", key.swapcase()):
            await ann.send(f"token:{bad}")
            assert await ann.receive() == UNKNOWN
        await sync_to_async(record.revoke)()
        await ann.send(f"token:{key}")
        assert await ann.receive() == UNKNOWN
        assert not [group for group in get_hub().groups.names if group.startswith("token:")]
    assert Echo.seen == []
    assert key[4:-1] not in caplog.text + capsys.readouterr().out


async def test_a_connection_ends_with_a_token_that_it_used():
    record, key = await sync_to_async(make)()
    async with connect([BY_TOKEN]) as ann:
        await ann.send(f"token:{key}")
        await ann.receive()
        await sync_to_async(record.revoke)()
        assert await ann.closed() == 4401


async def test_a_connection_does_not_rest_on_a_token_it_used_before():
    first, key = await sync_to_async(make)(name="first", group="one")
    _, other_key = await sync_to_async(make)(name="second", group="two")
    async with connect([BY_TOKEN]) as ann:
        for each, label in ((key, "one"), (other_key, "two")):
            await ann.send(f"token:{each}")
            assert await ann.receive() == registered(label)
        assert "one" not in get_hub().groups.names
        await sync_to_async(first.revoke)()
        await ann.settle()
        await ann.send(f"token:{other_key}")
        assert await ann.receive() == registered("two")


async def test_two_tokens_of_one_group_can_follow_each_other():
    _, key = await sync_to_async(make)(group="both")
    _, other_key = await sync_to_async(make)(group="both")
    async with connect([BY_TOKEN]) as ann:
        for each in (key, other_key):
            await ann.send(f"token:{each}")
            assert await ann.receive() == registered("both")
        await apublish("hello", "both")
        assert await ann.receive() == "hello"


async def test_who_connected_with_a_token_is_in_its_group_from_the_beginning():
    _, key = await sync_to_async(make)(group="sensors")
    app = FilteredWebSocketConsumer.as_asgi(filters=[BY_TOKEN])
    ann, bob = [await shake_hands(app, **header(key)) for _ in range(2)]
    await ann.send("hello")
    assert await bob.receive() == "hello"
    for client in (ann, bob):
        await client.close()


async def test_the_token_of_the_handshake_goes_on_to_count_beside_another(monkeypatch):
    own, key = await sync_to_async(make)(group="own")
    _, other_key = await sync_to_async(make)(group="other")
    app = FilteredWebSocketConsumer.as_asgi(filters=[BY_TOKEN])
    ann = await shake_hands(app, **header(key))
    await ann.send(f"token:{other_key}")
    assert await ann.receive() == registered("other")
    await sync_to_async(own.revoke)()
    assert await ann.closed() == 4401
    await ann.close()


async def test_a_token_that_may_not_publish_is_told(settings):
    _, key = await sync_to_async(make)(group="news", can_publish=False)
    async with connect([BY_TOKEN]) as ann:
        await ann.send(f"token:{key}")
        await ann.receive()
        await ann.send("fake news")
        assert await ann.receive() == "Error: This token may not publish"


async def test_a_token_that_may_not_subscribe_hears_nothing():
    _, key = await sync_to_async(make)(group="drop box", can_subscribe=False)
    _, reader_key = await sync_to_async(make)(group="drop box")
    async with connect([BY_TOKEN]) as writer, connect([BY_TOKEN]) as reader:
        for client, each in ((writer, key), (reader, reader_key)):
            await client.send(f"token:{each}")
            await client.receive()
        await writer.send("hello")
        assert await reader.receive() == "hello"
        await reader.send("answer")
        assert await writer.received_nothing()


async def test_connected_with_a_token_that_may_not_publish_a_publish_closes():
    _, key = await sync_to_async(make)(can_publish=False)
    app = FilteredWebSocketConsumer.as_asgi(filters=[FILTERS + "broadcast_messages"])
    reader = await shake_hands(app, **header(key))
    await apublish("hello", FILTERS + "broadcast_messages")
    assert await reader.receive() == "hello"
    await reader.send("me too")
    assert await reader.closed() == 4403
    await reader.close()


class Publish(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        await web_socket_instance.apublish(message)


async def test_nor_may_it_wait_for_a_publish():
    _, key = await sync_to_async(make)(can_publish=False)
    client = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=[Publish]), **header(key))
    await client.send("me too")
    assert await client.closed() == 4403
    await client.close()


async def test_connected_with_a_token_that_may_not_subscribe_nothing_is_heard():
    _, key = await sync_to_async(make)(can_subscribe=False)
    filters = [FILTERS + "broadcast_messages"]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters)
    writer = await shake_hands(app, **header(key))
    async with connect(filters) as reader:
        await writer.send("hello")
        assert await reader.receive() == "hello"
        await reader.send("answer")
        assert await writer.received_nothing()
    await writer.close()


class Join(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        await web_socket_instance.join(message.decode())


@pytest.mark.parametrize("name", ["token:1", "token:", "token:abc"])
async def test_a_group_of_a_token_is_not_joined_by_its_name(name):
    async with connect([Join]) as ann:
        await ann.send(name)
        assert await ann.received_nothing() and get_hub().counts["not_allowed"] == 1
        assert name not in get_hub().groups.names


async def test_a_token_that_may_not_subscribe_joins_nothing():
    _, key = await sync_to_async(make)(can_subscribe=False)
    client = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=[Join]), **header(key))
    await client.send("anything")
    assert await client.received_nothing() and get_hub().counts["not_allowed"] == 1
    assert get_hub().groups.names == ()
    await client.close()


class OfTheirs:
    async def authenticate(self, scope):
        from filtered_websocket.types import Identity

        return Identity(token={"scope": "all"})


async def test_the_token_of_a_sites_own_authenticator_has_no_group(settings):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.OfTheirs"]}
    async with connect([BY_TOKEN]) as ann:
        await ann.send("hello")
        assert await ann.receive() == "Error: No token has been set"


# Who is let in


class SetToken(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        web_socket_instance.token = "stolen"


@pytest.mark.parametrize("refuse_with", ["403", "close"])
@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ([FILTERS + "require_login"], "log in first"),
        ([FILTERS + "require_token"], "a token is required"),
        ([SetToken, FILTERS + "require_token"], "a token is required"),
    ],
)
async def test_who_is_nobody_is_refused(settings, filters, reason, refuse_with):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": refuse_with}
    app = FilteredWebSocketConsumer.as_asgi(filters=filters)
    client = await shake_hands(app)
    assert client.accepted is (refuse_with == "close")
    if client.accepted:
        await client.closed()
    assert (client.close_code, client.close_reason) == (4401, reason)
    await client.close()


async def test_a_token_without_a_user_is_a_token_and_no_login():
    _, key = await sync_to_async(make)()
    for name, welcome in (("require_token", True), ("require_login", False)):
        app = FilteredWebSocketConsumer.as_asgi(filters=[FILTERS + name])
        client = await shake_hands(app, **header(key))
        assert client.accepted is welcome
        await client.close()


async def test_a_token_with_a_user_is_both():
    user = await sync_to_async(User.objects.create_user)("ann")
    _, key = await sync_to_async(make)(user=user)
    both = [FILTERS + "require_token", FILTERS + "require_login"]
    client = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=both), **header(key))
    assert client.accepted
    await client.close()


async def test_a_session_is_a_login_and_no_token():
    user = await sync_to_async(User.objects.create_user)("ann")
    for name, welcome in (("require_login", True), ("require_token", False)):
        client = await connect([FILTERS + name], user=user)
        assert client.accepted is welcome
        await client.close()


# What a connection cannot talk itself out of


async def _revoke(record):
    await sync_to_async(record.revoke)()


async def _expire(record):
    record.expires_at = timezone.now()
    await record.asave()


async def _deactivate(record):
    record.user.is_active = False
    await record.user.asave()


@pytest.mark.parametrize("end", [_revoke, _expire, _deactivate])
async def test_who_uses_its_own_key_and_then_another_still_ends_with_its_own(end):
    user = await sync_to_async(User.objects.create_user)("ann")
    own, key = await sync_to_async(make)(group="own", user=user)
    _, other_key = await sync_to_async(make)(group="other")
    ann = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=[BY_TOKEN]), **header(key))
    for each, label in ((key, "own"), (other_key, "other"), (key, "own"), (other_key, "other")):
        await ann.send(f"token:{each}")
        assert await ann.receive() == registered(label)
    await end(own)
    assert await ann.closed() == 4401
    await ann.close()


async def test_a_membership_does_not_outlive_the_token_that_opened_it():
    _, key = await sync_to_async(make)(group="kitchen")
    _, deaf_key = await sync_to_async(make)(group="kitchen", can_subscribe=False)
    async with connect([BY_TOKEN]) as ann:
        for each in (key, deaf_key):
            await ann.send(f"token:{each}")
            assert await ann.receive() == registered("kitchen")
        await apublish("secret of the kitchen", "kitchen")
        assert await ann.received_nothing()


@pytest.mark.parametrize("words", ["token: {}", "Token:{}", "toke:{}", "{}", "my key is {}, ok?"])
async def test_a_registration_that_is_misspelt_is_not_published(words, capsys):
    _, key = await sync_to_async(make)(group="kitchen")
    filters = [BY_TOKEN, FILTERS + "stdout_messages"]
    async with connect(filters) as ann, connect(filters) as bob:
        for client in (ann, bob):
            await client.send(f"token:{key}")
            await client.receive()
        await ann.send(words.format(key))
        assert await ann.receive() == UNKNOWN
        assert await bob.received_nothing()
    assert key not in capsys.readouterr().out


async def test_a_database_that_is_away_closes_who_asks_it_to_look_a_key_up(monkeypatch, caplog):
    def away(key):
        raise OSError("the database is away")

    monkeypatch.setattr("filtered_websocket.models.TokenManager.find", lambda *args: away(args))
    async with connect([BY_TOKEN]) as ann:
        await ann.send("token:fws_" + "A" * 43)
        assert await ann.closed() == 4500
    assert "the database is away" in caplog.text and "AAAA" not in caplog.text
