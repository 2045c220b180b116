"""One contract, every storage object; and how one is chosen."""

import asyncio
import contextlib
import re
import sys
import threading
import types
import uuid

import pytest
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket import Drop, WebSocketConnectFilter, storage_objects
from filtered_websocket.conf import describe
from filtered_websocket.hub import events
from filtered_websocket.hub import hub as hub_module
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.storage_objects import default_options, get_storage_object, storage_class
from filtered_websocket.storage_objects import redis as redis_module
from filtered_websocket.storage_objects.base import BaseStorageObject
from filtered_websocket.testing import Refused, connect
from filtered_websocket.threads import tasks

from ..connections.test_connection import message_filter
from ..e2e.processes import Valkey
from ..hub.test_hub import noted
from ..waiting import limited, until

BACKENDS = ["default", "redis", "derived"]


def make(name, valkey=None, **chosen):
    cls = storage_class(f"filtered_websocket.storage_objects.{name}")
    options = default_options(cls)
    if name == "redis":
        options.redis_url = valkey.url
        options.redis_key = uuid.uuid4().hex
    for key, value in chosen.items():
        setattr(options, key, value)
    return cls(options)


class Derived(BaseStorageObject):
    """A third party's: only the plain face, over a dict."""

    def __init__(self, options):
        super().__init__(options)
        self.sets = {}
        self.threads = set()

    def get(self, item):
        self.threads.add(threading.current_thread().name)
        return frozenset(self.sets.get(storage_objects.base.as_text(item), ()))

    def add(self, key, value):
        text = storage_objects.base.as_text
        self.sets.setdefault(text(key), set()).add(text(value))

    def remove(self, key, value):
        text = storage_objects.base.as_text
        self.sets.get(text(key), set()).discard(text(value))

    def publish(self, channel, data):
        self.published = (channel, data)


@pytest.fixture(params=BACKENDS)
async def storage(request, valkey):
    made = Derived(None) if request.param == "derived" else make(request.param, valkey)
    yield made
    await made.aclose()


async def test_members_come_back_as_text(storage):
    key = uuid.uuid4()
    assert storage[key] == storage.get(b"none") == frozenset()
    for member in ("a", b"b", bytearray(b"c"), 7, key, "世界"):
        storage.add(key, member)
    expected = {"a", "b", "c", "7", str(key), "世界"}
    assert storage[str(key)] == storage.get(str(key).encode()) == expected
    assert isinstance(storage[key], frozenset)
    storage.remove(key, 7)
    storage.remove(key, "not in it")
    storage.remove("no such key", "x")
    assert await storage.aget(key) == expected - {"7"}
    await storage.aadd(key, 8)
    await storage.aremove(key, "a")
    assert await storage.aget(key) == expected - {"7", "a"} | {"8"}


@pytest.mark.parametrize("bad", [None, 1.5, True, object(), ("a",)])
async def test_what_is_no_text_is_a_type_error(storage, bad):
    for call in (storage.get, lambda key: storage.add(key, "x"), lambda m: storage.add("k", m)):
        with pytest.raises(TypeError, match="a key or member is"):
            call(bad)


async def test_adds_that_race_lose_nothing(storage):
    def add(number):
        for n in range(20):
            storage.add("race", f"{number}.{n}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(storage["race"]) == 160


async def test_apublish_by_a_thread_is_publish():
    storage = Derived(None)
    await storage.apublish("c", "d")
    assert storage.published == ("c", "d")
    assert not storage.listens
    with pytest.raises(NotImplementedError):
        storage.listen()


def test_what_a_storage_object_must_do_is_named():
    base = BaseStorageObject(None)
    for call in (lambda: base["x"], lambda: base.add(1, 2), lambda: base.remove(1, 2)):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(NotImplementedError):
        base.publish("c", "d")


async def test_an_emptied_key_takes_no_memory():
    storage = make("default")
    storage.add("k", "m")
    storage.remove("k", "m")
    assert storage._sets == {}


async def test_publish_on_the_default_one_enters_the_consumer_chain_of_this_process():
    note, events = noted()

    async def say(web_socket_instance, data):
        storage = web_socket_instance.storage_object
        storage.publish("global", bytes(data))
        await storage.apublish("global", "text")

    async with connect([message_filter(say), note]) as ann:
        await ann.send(b"\xff")
        await ann.settle()
        views = get_hub().views.values()
        assert all(view.storage_object is get_storage_object() for view in views)
    message = {"type": "message", "channel": "global", "pattern": None}
    assert events == [{**message, "data": b"\xff"}, {**message, "data": "text"}]
    get_storage_object().publish("global", "nobody is here")
    with pytest.raises(TypeError, match="data is str or bytes"):
        get_storage_object().publish("global", {"a": 1})


# Redis pub/sub


async def first(events, count=1):
    async with limited():
        return [await anext(events) for _ in range(count)]


async def listening(storage, client):
    """The storage object's events, and a client, once it is subscribed."""
    events = storage.listen()
    waiting = asyncio.ensure_future(anext(events))
    await until(lambda: client.publish("global", "are you there?"))
    await waiting
    return events


async def test_redis_channels_and_patterns_become_events(valkey):
    storage = make("redis", valkey, redis_channels=["global", "news.*", "ch[ab]"])
    events = await listening(storage, valkey.client())
    storage.publish("global", b"\xff")
    await storage.apublish(b"news.x", "hello")
    storage.get_client().publish("cha", "x")
    storage.get_client().publish("chc", "not heard")
    storage.get_client().publish("global", "last")
    got = await first(events, 4)
    await events.aclose()
    await storage.aclose()
    assert got == [
        {"type": "message", "channel": "global", "data": b"\xff", "pattern": None},
        {"type": "pmessage", "channel": "news.x", "data": "hello", "pattern": "news.*"},
        {"type": "pmessage", "channel": "cha", "data": "x", "pattern": "ch[ab]"},
        {"type": "message", "channel": "global", "data": "last", "pattern": None},
    ]


async def test_patterns_alone_and_data_that_is_text(valkey):
    storage = make("redis", valkey, redis_channels=["only.*"])
    events = storage.listen()
    waiting = asyncio.ensure_future(anext(events))
    await until(lambda: valkey.client().publish("only.x", "a"))
    assert (await waiting)["pattern"] == "only.*"
    await events.aclose()
    await storage.aclose()


async def test_no_channels_is_nothing_to_listen_to(valkey):
    storage = make("redis", valkey, redis_channels=[])
    assert [event async for event in storage.listen()] == []


@pytest.mark.parametrize("how", ["kill", "reset", "stop"])
async def test_redis_pubsub_comes_back_by_itself_and_says_so_once(how, monkeypatch, caplog):
    monkeypatch.setattr(redis_module, "ASYNC_TIMEOUT", 1.0)
    tries, subscribe = [], redis_module._subscribe

    async def counted(*arguments):
        tries.append(arguments)
        await subscribe(*arguments)

    monkeypatch.setattr(redis_module, "_subscribe", counted)
    server = Valkey()
    storage = make("redis", server)
    try:
        events = await listening(storage, server.client())
        waiting = asyncio.ensure_future(anext(events))
        if how == "kill":
            server.signal(9)
            await until(lambda: "lost the connection" in caplog.text and len(tries) > 3)
            server = server.restart()
        elif how == "reset":
            server.client().client_kill_filter(_type="pubsub")
        else:
            server.signal(19)
            await until(lambda: "lost the connection" in caplog.text)
            server.signal(18)
        client = server.client()
        await until(lambda: client.publish("global", "back") and waiting.done())
        assert (await waiting)["data"] == "back"
        await events.aclose()
    finally:
        await storage.aclose()
        server.stop()
    words = [record.getMessage() for record in caplog.records]
    assert sum("Redis pub/sub: lost the connection" in line for line in words) == 1
    assert sum("Redis pub/sub: connected again" in line for line in words) == 1


@pytest.mark.parametrize(
    ("channels", "needed"),
    [
        (None, "&global +subscribe +unsubscribe +ping"),
        (["a", "b.*"], "&a &b.* +subscribe +unsubscribe +psubscribe +punsubscribe +ping"),
        (["b.*"], "&b.* +psubscribe +punsubscribe +ping"),
    ],
)
async def test_a_missing_right_is_named_and_used_once_it_is_granted(
    valkey, caplog, channels, needed
):
    user = uuid.uuid4().hex
    client = valkey.client()
    client.execute_command("ACL", "SETUSER", user, "on", "nopass", "resetchannels", "-@all")
    url = f"redis://{user}:any@127.0.0.1:{valkey.port}/0"
    storage = make("redis", valkey, redis_url=url, redis_channels=channels)
    events = storage.listen()
    waiting = asyncio.ensure_future(anext(events))
    await until(lambda: "lost the connection" in caplog.text)
    [record] = caplog.records
    assert re.search(f"its user needs {re.escape(needed)}['\"]", record.getMessage())
    client.execute_command("ACL", "SETUSER", user, *needed.split())
    channel = (channels or ["global"])[0].replace("*", "x")
    await until(lambda: client.publish(channel, "granted") and waiting.done())
    assert (await waiting)["data"] == "granted"
    await events.aclose()
    await storage.aclose()


async def test_an_idle_subscription_stays(valkey, monkeypatch, caplog):
    looks, note = [], redis_module._Watch.note

    async def counted(*arguments):
        looks.append(arguments)
        return await note(*arguments)

    monkeypatch.setattr(redis_module._Watch, "note", counted)
    storage = make("redis", valkey)
    events = await listening(storage, valkey.client())
    monkeypatch.setattr(redis_module, "ASYNC_TIMEOUT", 0.3)
    waiting = asyncio.ensure_future(anext(events))
    # Silence, a PING's answer, and so on.
    await until(lambda: len(looks) > 6)
    assert not waiting.done() and caplog.text == ""
    storage.publish("global", "still here")
    assert (await waiting)["data"] == "still here"
    await events.aclose()
    await storage.aclose()


async def test_redis_pubsub_enters_the_consumer_chain_while_the_hub_lives(valkey, settings):
    settings.FILTERED_WEBSOCKET = {
        "STORAGE": {
            "BACKEND": "filtered_websocket.storage_objects.redis",
            "OPTIONS": {"redis_url": valkey.url},
        }
    }
    async with connect(["filtered_websocket.filters.broadcast_pubsub"]) as ann:
        client = valkey.client()
        await until(lambda: client.publish("global", "hello from the server!"))
        assert await ann.receive() == "hello from the server!"


class LosesOne(Derived):
    """Listens, and loses a cancellation, as redis-py can before Python 3.12."""

    listens = True

    async def listen(self):
        self.listening = asyncio.Event()
        for event in (asyncio.Event(), asyncio.Event()):
            with contextlib.suppress(asyncio.CancelledError):
                self.listening.set()
                await event.wait()
                yield {}
            self.lost = True
        self.ended = True
        raise asyncio.CancelledError


async def test_a_listener_that_lost_a_cancellation_ends_with_the_hub(monkeypatch):
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0)
    storage = LosesOne(None)
    storage_objects.use_storage_object(storage)
    try:
        async with limited(), connect([]):
            await storage.listening.wait()
    finally:
        storage_objects.use_storage_object(None)
    assert storage.ended and get_hub().over


async def test_a_hub_that_ends_leaves_the_storage_object_to_one_that_has_begun(monkeypatch):
    """A client comes while the hub of the last one ends what it does in the background."""
    storage, closed = Derived(None), []
    meanwhile = contextlib.AsyncExitStack()

    async def end_tasks(tasks):
        await end_of_tasks(tasks)
        monkeypatch.setattr(hub_module, "end_tasks", end_of_tasks)
        await meanwhile.enter_async_context(connect([]))

    async def aclose():
        closed.append(len(get_hub().connections))

    end_of_tasks, storage.aclose = hub_module.end_tasks, aclose
    monkeypatch.setattr(hub_module, "end_tasks", end_tasks)
    storage_objects.use_storage_object(storage)
    try:
        async with connect([]):
            first = get_hub()
        assert first.over and not get_hub().over and closed == []
        await meanwhile.aclose()
        assert closed == [0]
    finally:
        storage_objects.use_storage_object(None)


async def test_a_hub_ends_although_the_last_connection_is_cancelled_meanwhile():
    """As daphne cancels an application that takes too long to end."""
    storage = Derived(None)
    closing, may_close, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def aclose():
        closing.set()
        await may_close.wait()
        closed.set()

    storage.aclose = aclose
    storage_objects.use_storage_object(storage)
    try:
        hub = get_hub()
        hub.hold()
        releasing = asyncio.ensure_future(hub.release())
        async with limited():
            await closing.wait()
        releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
        assert not hub.over
        may_close.set()
        async with limited():
            await closed.wait()
        await until(lambda: hub.over)
    finally:
        storage_objects.use_storage_object(None)


async def test_a_handshake_refused_while_redis_is_subscribed_leaves_no_connection(
    valkey, settings, caplog, monkeypatch
):
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.05)
    settings.FILTERED_WEBSOCKET = {
        "STORAGE": {
            "BACKEND": "filtered_websocket.storage_objects.redis",
            "OPTIONS": {"redis_url": valkey.url},
        }
    }
    client = valkey.client()
    before = len(client.client_list())

    # The listener is cancelled at another step of its subscription each time.
    for steps in range(40):

        async def refuse(connection, handshake, steps=steps):
            for _ in range(steps):
                await asyncio.sleep(0)
            raise Drop

        with pytest.raises(Refused):
            async with limited(), connect([message_filter(refuse, WebSocketConnectFilter)]):
                pass
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "fws-pubsub"]
    await until(lambda: len(client.client_list()) <= before)
    assert "Redis pub/sub" not in caplog.text


# How one is chosen


def test_a_setting_chooses_and_the_environment_wins(settings, monkeypatch):
    assert type(get_storage_object()).__module__.endswith(".default")
    module = types.ModuleType("third_party")
    module.StorageObject = Derived
    monkeypatch.setitem(sys.modules, "third_party", module)
    settings.FILTERED_WEBSOCKET = {"STORAGE": {"BACKEND": "third_party"}}
    assert isinstance(get_storage_object(), Derived)
    assert get_storage_object() is get_storage_object()
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", "filtered_websocket.storage_objects.default")
    settings.FILTERED_WEBSOCKET = {"STORAGE": {"BACKEND": "third_party"}}
    assert not isinstance(get_storage_object(), Derived)
    mine = Derived(None)
    storage_objects.use_storage_object(mine)
    try:
        assert get_storage_object() is mine
    finally:
        storage_objects.use_storage_object(None)


async def test_a_url_may_ask_redis_py_to_decode(valkey):
    storage = make("redis", valkey, redis_url=valkey.url + "?decode_responses=True")
    events = await listening(storage, valkey.client())
    storage.publish("global", "text")
    assert (await first(events))[0]["data"] == "text"
    storage.add("k", "v")
    assert await storage.aget("k") == {"v"}
    await events.aclose()
    await storage.aclose()


async def test_a_storage_object_that_fails_to_listen_is_asked_again(monkeypatch, caplog):
    monkeypatch.setattr(events, "LISTEN_AGAIN", 0)
    connected = asyncio.Event()

    class Failing(Derived):
        listens = True
        tries = 0

        async def listen(self):
            Failing.tries += 1
            if Failing.tries < 4:
                raise KeyError("oh")
            await connected.wait()
            yield {"type": "message", "data": "at last"}

    storage_objects.use_storage_object(Failing(None))
    try:
        async with connect(["filtered_websocket.filters.broadcast_pubsub"]) as ann:
            connected.set()
            assert await ann.receive() == "at last"
    finally:
        storage_objects.use_storage_object(None)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "failed to listen" in caplog.text


@pytest.mark.parametrize("value", [3, object, None])
def test_what_is_no_storage_object_is_a_mistake(monkeypatch, value):
    module = types.ModuleType("third_party")
    module.StorageObject = value
    monkeypatch.setitem(sys.modules, "third_party", module)
    with pytest.raises(ImproperlyConfigured, match="Make it a subclass"):
        storage_class("third_party")


@pytest.mark.parametrize(
    "path", ["nowhere", "tests.no_filters", "", ".", "..x", "tests.exiting_module"]
)
def test_a_module_without_a_storage_object_is_a_mistake(path):
    with pytest.raises(ImproperlyConfigured, match=re.escape(f"storage object '{path}'")):
        storage_class(path)


@pytest.mark.parametrize("error", [SystemExit(2), TypeError("no"), KeyError()])
def test_a_parser_that_raises_is_a_mistake(error):
    class Odd(BaseStorageObject):
        @classmethod
        def parser(cls, parser):
            raise error

    words = f"its parser() raises {describe(error)}. It adds options"
    with pytest.raises(ImproperlyConfigured, match=re.escape(words)):
        storage_objects.default_options(Odd)


def test_ctrl_c_in_a_parser_is_not_swallowed():
    class Odd(BaseStorageObject):
        @classmethod
        def parser(cls, parser):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage_objects.default_options(Odd)


def test_an_option_a_storage_object_does_not_have_is_a_mistake(settings):
    settings.FILTERED_WEBSOCKET = {
        "STORAGE": {
            "BACKEND": "filtered_websocket.storage_objects.redis",
            "OPTIONS": {"redis_prot": 1},
        }
    }
    with pytest.raises(ImproperlyConfigured, match=r"no option 'redis_prot'.*redis_port"):
        get_storage_object()
