"""Publishes of clients of the Centrifuge protocol: not one by one, and yet in their order."""

import asyncio
import contextlib
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from django.test import override_settings

from filtered_websocket import PublishError, WebSocketGroupFilter, WebSocketMessageFilter, consumers
from filtered_websocket.chains.current import About
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF
from filtered_websocket.codecs.data import Data
from filtered_websocket.filters.rate_limit import RateLimitFilter
from filtered_websocket.groups import History, group
from filtered_websocket.history.base import Position
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.view import HubView
from filtered_websocket.layer.envelope import EXCLUDE, INFO, Item
from filtered_websocket.observe import traffic
from filtered_websocket.pipelines.rules import Rules
from filtered_websocket.protocols import connection, session, timers
from filtered_websocket.protocols.connection import Unanswered
from filtered_websocket.protocols.pushes import Pushes
from filtered_websocket.protocols.requests import NULL
from filtered_websocket.threads.result import Result
from filtered_websocket.transports import AsgiTransport, scheduling
from filtered_websocket.transports.lane import Lane

from ..waiting import LIMIT, until
from .clients import speak

RULES = [
    group("kept", publish=True, history=History(size=100, ttl=60)),
    group("<str:name>", publish=True),
]


def publish(number, channel="room"):
    return {"id": number, "publish": {"channel": channel, "data": number}}


class Layer:
    """Takes what is published when a test says so."""

    def __init__(self, monkeypatch):
        self.taken = []
        monkeypatch.setattr(HubView, "asubmit", self.asubmit)
        monkeypatch.setattr(HubView, "submit_now", self.submit_now)

    def submit_now(self, *args, done, **options):
        self.asubmit().detach().add_done_callback(done.copy)
        return len(self.taken)

    def asubmit(self, *args, **options):
        future = asyncio.get_running_loop().create_future()
        self.taken.append(future)
        return Result(future)

    async def has(self, count):
        await until(lambda: len(self.taken) >= count)


async def says_nothing(speaker):
    """Whether nothing has come after some turns of the loop; a command may wait meanwhile."""
    for _ in range(50):
        await asyncio.sleep(0)
    return speaker.client._output.empty()


@pytest.fixture
def layer(monkeypatch):
    return Layer(monkeypatch)


async def test_a_publish_does_not_wait_for_the_one_before(layer):
    async with speak(rules=RULES) as ann:
        for number in (1, 2, 3):
            await ann.say(publish(number))
        await layer.has(3)
        # Another group may be sooner: the replies keep their order.
        layer.taken[2].set_result(None)
        layer.taken[1].set_exception(PublishError("the layer is away"))
        assert await says_nothing(ann)
        layer.taken[0].set_result(None)
        assert await ann.hear() == {"id": 1, "publish": {}}
        failed = await ann.hear()
        assert failed["id"] == 2 and failed["error"]["code"] == 100
        assert await ann.hear() == {"id": 3, "publish": {}}


async def test_a_publish_that_is_cancelled_is_answered_as_not_taken(layer):
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1))
        await layer.has(1)
        layer.taken[0].cancel()
        failed = await ann.hear()
        assert failed["id"] == 1 and failed["error"]["code"] == 100


async def test_a_reply_that_raises_holds_nothing_back(layer, monkeypatch):
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1))
        await layer.has(1)
        assert await says_nothing(ann)  # nor does the reader let go of anything from here on
        calls, told = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def fail(self, number):
            calls.append("reply")
            raise RuntimeError("this one cannot be written")

        monkeypatch.setattr(AsgiTransport, "release", lambda _: calls.append("release"))
        monkeypatch.setattr(type(JSON), "published", fail)
        layer.taken[0].set_result(None)
        await until(lambda: told)
        assert calls[0] == "reply" and set(calls[1:]) == {"release"}


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ({"id": 9, "ping": {}}, {"id": 9, "ping": {}}),
        ({"id": 9, "publish": {"channel": "#7"}}, {"id": 9, "error": 103}),
    ],
)
async def test_other_replies_come_after_those_to_earlier_publishes(layer, command, reply):
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1), command)
        await layer.has(1)
        assert await says_nothing(ann)
        layer.taken[0].set_result(None)
        assert await ann.hear() == {"id": 1, "publish": {}}
        heard = await ann.hear()
        assert heard.get("error", {}).get("code") == reply.pop("error", None)
        assert heard["id"] == 9


@pytest.mark.parametrize("bad", ["nonsense", "x" * 70_000, '{"id": 5}'])
async def test_what_is_bad_closes_after_the_replies_to_earlier_publishes(layer, bad):
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1))
        await ann.client.send(bad)
        await layer.has(1)
        layer.taken[0].set_result(None)
        assert await ann.hear() == {"id": 1, "publish": {}}
        assert await ann.closed() == 3501


async def test_so_many_wait_at_most(layer, monkeypatch):
    monkeypatch.setattr(connection, "MOST_UNANSWERED", 4)
    async with speak(rules=RULES) as ann:
        for number in range(1, 10):
            await ann.say(publish(number))
        await layer.has(4)
        assert await says_nothing(ann) and len(layer.taken) == 4
        for future in layer.taken[:4]:
            future.set_result(None)
        assert [(await ann.hear())["id"] for _ in range(4)] == [1, 2, 3, 4]
        await layer.has(8)
        for future in layer.taken[4:]:
            future.set_result(None)


async def test_who_does_not_read_is_not_read_either(layer, monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER", -1)
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1), publish(2))
        await layer.has(1)
        assert await says_nothing(ann) and len(layer.taken) == 1
        layer.taken[0].set_result(None)
        assert await ann.hear() == {"id": 1, "publish": {}}
        await layer.has(2)
        layer.taken[1].set_result(None)
        assert await ann.hear() == {"id": 2, "publish": {}}


async def test_a_filter_that_publishes_itself_is_answered_in_order(layer):
    class Other(WebSocketMessageFilter):
        @classmethod
        def filter(cls, web_socket_instance, message):
            if message == 2:
                web_socket_instance.publish([message])

    async with speak([Other], rules=RULES) as ann:
        await ann.say(publish(1), publish(2))
        await layer.has(1)
        assert await says_nothing(ann)
        layer.taken[0].set_result(None)
        assert [(await ann.hear())["id"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("channel", ["room", "kept"])
async def test_what_is_published_together_is_heard_in_order(channel):
    async with speak(rules=RULES) as ann, speak(rules=RULES) as bob:
        await bob.ask(subscribe={"channel": channel})
        await ann.say(*[publish(number, channel) for number in range(1, 51)])
        heard = [(await bob.push())["pub"]["data"] for _ in range(50)]
        assert heard == list(range(1, 51))
        assert [(await ann.hear())["id"] for _ in range(50)] == heard


async def test_who_published_is_described_once_for_all_groups(monkeypatch):
    described = []
    async with speak(rules=RULES) as ann:
        connection = get_hub().connections[ann.id]
        describe = connection._describe
        monkeypatch.setattr(
            connection, "_describe", lambda shown: described.append(shown) or describe(shown)
        )
        for number in (1, 2, 3):
            await ann.ask(publish={"channel": f"room{number}", "data": 1})
        assert described == [None]
        assert json.loads(connection.publisher("room")) == {"client": ann.id}


async def test_a_user_who_is_not_logged_in_is_not_told_of(monkeypatch):
    async with speak(rules=RULES) as ann:
        connection = get_hub().connections[ann.id]
        # A model of a site's own, whose anonymous users have keys, too.
        user = connection.scope["user"] = SimpleNamespace(pk=7, is_authenticated=False)
        assert json.loads(connection.publisher("room")) == {"client": ann.id}
        user.is_authenticated = True
        assert json.loads(connection.publisher("room")) == {"client": ann.id, "user": "7"}


# Of groups that are open to all


@override_settings(FILTERED_WEBSOCKET={"MAX_MESSAGE_SIZE": 200})
async def test_what_grows_too_long_is_an_error():
    async with speak(rules=RULES) as ann:
        data = f'["\\u0061",{",".join(["1e15"] * 20)}]'
        await ann.client.send(f'{{"id":5,"publish":{{"channel":"room","data":{data}}}}}')
        failed = await ann.hear()
        assert failed["id"] == 5 and failed["error"]["code"] == 100


def session_of(client):
    [view] = get_hub().views.values()
    return view.pushes.sessions[client.id]


async def test_publishes_of_one_read_share_the_rule_and_the_reply(monkeypatch):
    monkeypatch.setattr(scheduling, "TURN", LIMIT)  # however slow this machine is
    looked, found = [], []
    look, find = Unanswered._look, Rules.find
    monkeypatch.setattr(
        Unanswered, "_look", lambda own: looked.append(len(own._waiting)) or look(own)
    )
    monkeypatch.setattr(Rules, "find", lambda own, name: found.append(name) or find(own, name))
    async with speak(rules=RULES) as ann:
        frames = [JSON.reply(publish(number)).payload for number in range(1, 51)]
        # Frames of one read, and a frame of many commands: nothing is to be awaited.
        assert [session_of(ann).receive(frame, True) for frame in frames[:10]] == [None] * 10
        assert session_of(ann).receive(b"\n".join(frames[10:]), True) is None
        assert [(await ann.hear())["id"] for _ in range(50)] == [*range(1, 51)]
    assert looked == [50]
    # Whether everybody may, and whether it is kept.
    assert 1 <= found.count("room") <= 2


async def test_a_converter_that_fails_is_an_error_and_the_connection_goes_on(monkeypatch):
    async with speak(rules=RULES) as ann:

        def fail(rules, name):
            raise OverflowError("a converter of this site cannot say it")

        with monkeypatch.context() as patch:
            patch.setattr(Rules, "find", fail)
            await ann.say(publish(1))
            failed = await ann.hear()
            assert failed["id"] == 1 and failed["error"]["code"] == 100
        await ann.say(publish(2))
        assert await ann.hear() == {"id": 2, "publish": {}}


class Burst(RateLimitFilter):
    rate, burst, action, _registers = "1/h", 4, "answer", False


class Ending(RateLimitFilter):
    rate, burst, action, _registers = "1/h", 4, "close", False


class Counting(Burst):
    @classmethod
    def filter(cls, web_socket_instance, frame):
        """Looks at what is said."""


class Late(Counting):
    """So does this one."""


class Upper(WebSocketMessageFilter):
    _registers = False

    @classmethod
    def filter(cls, web_socket_instance, message):
        """Looks at it, too."""


async def asked(connection, name):
    return True


@pytest.mark.parametrize(
    ("filters", "request_", "is_open"),
    [
        ([], {"channel": "room"}, True),
        ([Burst], {"channel": "room"}, True),
        ([Counting], {"channel": "room"}, False),
        ([Late], {"channel": "room"}, False),
        ([Upper], {"channel": "room"}, False),
        ([], {}, False),
        ([], {"channel": "#7"}, False),
        ([], {"channel": "a/b"}, False),
        ([], {"channel": "r" * 300}, False),
        ([], {"channel": "closed"}, False),
        ([], {"channel": "asked:5"}, False),
        ([], {"channel": "room", "data": Data(b"\xff", "b")}, False),
        ([], {"channel": "binary", "data": Data(b"\xff", "b")}, True),
    ],
)
async def test_who_is_not_asked_whether_one_may_publish(filters, request_, is_open):
    rules = [
        group("closed"),
        group("binary", publish=True, binary=True),
        group("asked:<str:name>", publish=asked),
        group("<str:name>", publish=True),
    ]
    async with speak(filters, rules=rules) as ann:
        requests = session_of(ann).requests
        publish = request_.get("channel", ""), request_.get("data", NULL)
        for _ in range(2):
            found = requests.open_group(*publish)
            assert (found.name if found else None) == (request_["channel"] if is_open else None)
        session_of(ann).connection.may_publish = False
        assert requests.open_group(*publish) is None


async def test_each_publish_of_an_open_group_is_counted():
    async with speak([Burst], rules=RULES) as ann:
        await ann.say(*[publish(number) for number in range(1, 6)])
        heard = [await ann.hear() for _ in range(5)]
        assert [reply.get("error", {}).get("code") for reply in heard] == [None] * 4 + [111]
        assert [reply["id"] for reply in heard] == [1, 2, 3, 4, 5]


async def test_what_closes_comes_after_the_replies_and_nothing_after_it():
    async with speak(rules=RULES) as bob, speak([Ending], rules=RULES) as ann:
        await bob.ask(subscribe={"channel": "room"})
        await ann.say(*[publish(number) for number in range(1, 9)])
        assert [(await ann.hear())["id"] for _ in range(4)] == [1, 2, 3, 4]
        await ann.closed()
        assert [(await bob.push())["pub"]["data"] for _ in range(4)] == [1, 2, 3, 4]
        assert await bob.ask(ping={}) == {"ping": {}}


async def test_a_reply_that_raises_costs_no_other_its_reply(layer, monkeypatch):
    published = JSON.published

    def fail(own, number):
        if number == 1:
            raise RuntimeError("this one cannot be written")
        return published(number)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
    monkeypatch.setattr(type(JSON), "published", fail)
    async with speak(rules=RULES) as ann:
        await ann.say(publish(1), publish(2), {"id": 3, "ping": {}})
        await layer.has(2)
        for future in layer.taken:
            future.set_result(None)
        assert [(await ann.hear())["id"] for _ in range(2)] == [2, 3]


# Publications that the publisher gets, too


class Wire(Lane):
    """Notes what leaves in each write, and sends it."""

    writes, sending = [], set()

    @staticmethod
    def write_directly(transports, frame, skipped=()):
        for one in transports:
            if one in skipped:
                continue
            if not one._idle:
                one.write(frame)
                continue
            Wire.writes.append((one, [part.payload for part in frame.parts]))
            for part in frame.parts:
                sending = asyncio.ensure_future(one._send(part.event()))
                Wire.sending.add(sending)
                sending.add_done_callback(Wire.sending.discard)

    def open(self):
        self._direct = True
        super().open()


class Own:
    """What one client publishes is taken, and comes back, when a test says so."""

    def __init__(self, monkeypatch):
        self.receipts = []
        monkeypatch.setattr(timers, "MOST_LATE", 10 * LIMIT)
        monkeypatch.setattr(consumers, "open_transport", Wire)
        monkeypatch.setattr(HubView, "submit_now", self.submit_now)

    def submit_now(self, *args, done, **options):
        self.receipts.append(done)
        return 100 + len(self.receipts)

    async def publish(self, ann, count=1, channel="room"):
        """So many publishes, not taken yet; what was written until then is forgotten."""
        await ann.say(*[publish(number, channel) for number in range(1, count + 1)])
        await until(lambda: len(self.receipts) >= count)
        assert await says_nothing(ann)
        Wire.writes.clear()

    def take(self):
        for receipt in self.receipts:
            receipt.set_result(None)

    def come(self, ann, *numbers, group="room"):
        """Publications are delivered to all members."""
        some = [Item(100 + number, "j", ann.id, b"%d" % number, {}) for number in numbers]
        [view] = get_hub().views.values()
        view.pushes.write_items(group, some, None)

    def written(self, ann):
        """What was written to her: numbers of publications, ids of replies, per write."""
        told = [list(map(json.loads, sent)) for one, sent in Wire.writes if one is ann.transport]
        return [
            [one["id"] if "id" in one else f"pub {one['push']['pub']['data']}" for one in sent]
            for sent in told
        ]


async def turns():
    for _ in range(50):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def subscribed(*channels, filters=()):
    async with speak(filters, rules=RULES) as ann:
        for channel in channels:
            await ann.ask(subscribe={"channel": channel})
        ann.transport = session_of(ann).transport
        yield ann


@pytest.fixture
def own(monkeypatch):
    return Own(monkeypatch)


async def test_a_reply_leaves_with_the_publication_that_comes_after_it(own):
    async with subscribed("room") as ann:
        await own.publish(ann, 3)
        own.take()
        await turns()
        assert own.written(ann) == []
        own.come(ann, 1, 2)
        assert own.written(ann) == []  # the layer may have more to say in this turn
        await turns()
        assert own.written(ann) == [["pub 1", "pub 2", 1, 2]]
        own.come(ann, 3)
        assert own.written(ann)[1:] == [["pub 3", 3]]


async def test_a_publication_leaves_with_the_reply_that_comes_in_the_same_turn(own):
    async with subscribed("room") as ann, subscribed("room") as bob:
        await own.publish(ann, 2)
        own.come(ann, 1, 2)
        assert own.written(ann) == [] and own.written(bob) == [["pub 1", "pub 2"]]
        own.take()
        await turns()
        assert own.written(ann) == [["pub 1", "pub 2", 1, 2]]


async def test_a_publication_waits_for_its_reply_for_one_turn_only(own):
    async with subscribed("room") as ann:
        await own.publish(ann)
        own.come(ann, 1)
        await turns()
        assert own.written(ann) == [["pub 1"]]
        own.take()
        await turns()
        assert own.written(ann) == [["pub 1"], [1]]


async def test_the_replies_to_publishes_of_one_client_keep_their_order(own):
    async with subscribed("room", "other") as ann:
        await own.publish(ann)
        await own.publish(ann, 2, "other")
        own.take()
        own.come(ann, 2, 3, group="other")
        await turns()
        assert own.written(ann) == [["pub 2", "pub 3"]]
        own.come(ann, 1)
        assert own.written(ann)[1:] == [["pub 1", 1, 1, 2]]


async def test_a_publication_of_a_group_that_somebody_joins_takes_its_reply_along(own):
    async with subscribed("room") as ann:
        await own.publish(ann, 2)
        own.take()
        pushes = session_of(ann).pushes
        for number in (1, 2):
            about = About("room", ann.id, {}, None)
            pushes.send(about, pushes.publication(about, [number], True))
            await turns()
        assert own.written(ann) == [["pub [1]", 1], ["pub [2]", 2]]


async def test_what_a_publication_answers_leaves_with_it_and_is_not_held_back(own, monkeypatch):
    held = []
    async with subscribed("room") as ann, subscribed("room") as bob:
        await own.publish(ann)
        own.take()
        monkeypatch.setattr(Wire, "hold", lambda one, *args: held.append(one))
        before = traffic.delivered, traffic.pushed, traffic.bytes_out
        own.come(ann, 1)
        assert own.written(ann) == [["pub 1", 1]] and own.written(bob) == [["pub 1"]]
        assert held == [] and not session_of(ann)._unanswered
        size = sum(len(one) for _, sent in Wire.writes for one in sent)
        after = traffic.delivered, traffic.pushed, traffic.bytes_out
        assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, size]


async def test_a_reply_does_not_leave_with_a_publication_of_another_group(own):
    async with subscribed("room", "other") as ann:
        await own.publish(ann)
        own.take()
        own.come(ann, 1, group="other")
        assert own.written(ann) == [["pub 1"]]
        own.come(ann, 1)
        assert own.written(ann) == [["pub 1"], ["pub 1", 1]]


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_reply_leaves_alone_where_its_publication_does_not_come_back(own, leaves):
    async with subscribed("room") as ann, subscribed("room"):
        await own.publish(ann)
        own.take()
        if leaves:
            session_of(ann).connection.leave("room")
            Wire.writes.clear()
        item = Item(101, "j" if leaves else "b", ann.id, b"1" if leaves else b"\xff", {})
        [view] = get_hub().views.values()
        view.pushes.write_items("room", [item], None)
        assert own.written(ann) == [[1]]


async def test_an_error_comes_after_the_publication_that_was_sent_all_the_same(own):
    async with subscribed("room") as ann:
        await own.publish(ann)
        own.receipts[0].set_exception(PublishError("the layer did not confirm it"))
        own.come(ann, 1)
        assert (await ann.push())["pub"]["data"] == 1
        assert (await ann.hear())["error"]["code"] == 100


async def test_a_reply_that_waits_for_its_publication_takes_no_turn_of_its_own(own, monkeypatch):
    looked, look = [], Unanswered._look
    monkeypatch.setattr(Unanswered, "_look", lambda one: looked.append(one) or look(one))
    async with subscribed("room") as ann:
        await own.publish(ann, 2)
        own.take()
        await turns()
        own.come(ann, 1, 2)
        assert own.written(ann) == [["pub 1", "pub 2", 1, 2]] and looked == []


async def test_another_group_does_not_make_a_late_reply_wait_for_ever(own, monkeypatch):
    monkeypatch.setattr(timers, "MOST_LATE", 0)
    async with subscribed("room", "other") as ann:
        await own.publish(ann)
        await own.publish(ann, 2, "other")
        own.receipts[1].set_result(None)
        own.receipts[2].set_result(None)
        own.come(ann, 2, group="other")
        await turns()
        own.receipts[0].set_result(None)
        heard = [await ann.hear() for _ in range(4)]
        assert [one["id"] for one in heard if "id" in one] == [1, 1, 2]


async def test_a_reply_waits_for_so_long_where_its_publication_never_comes(own, monkeypatch):
    monkeypatch.setattr(timers, "MOST_LATE", 0)
    async with subscribed("room") as ann:
        for _ in range(2):
            own.receipts.clear()
            await own.publish(ann)
            own.take()
            assert await ann.hear() == {"id": 1, "publish": {}}


async def test_nobody_is_told_of_a_client_that_has_left_meanwhile(own):
    told = []
    async with subscribed("room") as ann:
        await own.publish(ann)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        late = session_of(ann).pushes.late
        own.take()
        await turns()
    late._end()
    await turns()
    assert told == [] and own.written(ann) == []


async def test_a_reply_does_not_wait_where_another_command_does(own):
    async with subscribed("room") as ann:
        await own.publish(ann)
        own.take()
        await turns()
        await ann.say({"id": 9, "ping": {}})
        assert [(await ann.hear())["id"] for _ in range(2)] == [1, 9]


async def test_an_error_does_not_wait_for_a_publication(own):
    async with subscribed("room") as ann:
        await own.publish(ann)
        own.receipts[0].set_exception(PublishError("the layer is away"))
        assert (await ann.hear())["error"]["code"] == 100


class Same(WebSocketGroupFilter):
    _registers = False

    @classmethod
    def filter(cls, web_socket_server_instance, message):
        """May drop it, or take its time."""


@pytest.mark.parametrize(("filters", "channels"), [([], []), ([], ["other"]), ([Same], ["room"])])
async def test_only_a_subscriber_waits_for_what_no_chain_can_drop(own, filters, channels):
    async with subscribed(*channels, filters=filters) as ann:
        await own.publish(ann)
        own.take()
        assert await ann.hear() == {"id": 1, "publish": {}}


async def test_what_others_publish_is_not_waited_for_or_held_back(own):
    async with subscribed("room") as ann, subscribed("room") as bob:
        await own.publish(ann)
        own.come(bob, 1)
        assert own.written(ann) == own.written(bob) == [["pub 1"]]


async def test_a_reply_that_raises_does_not_keep_its_publication_back(own, monkeypatch):
    def fail(form, number):
        raise RuntimeError("this one cannot be written")

    async with subscribed("room") as ann:
        await own.publish(ann)
        own.take()
        await turns()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
        monkeypatch.setattr(type(JSON), "published", fail)
        with pytest.raises(RuntimeError):
            own.come(ann, 1)
        await turns()
        assert own.written(ann) == [["pub 1"]]


# Many at once, to their subscribers


class Transport(Lane):
    """Notes what is written, each call by itself."""

    unsent = 0

    def __init__(self):
        self.closed, self.written = None, []

    def write(self, frame, done=None):
        self.written.append([part.payload for part in frame.parts])


def subscriber(pushes, name, form=JSON, stands=True):
    one = SimpleNamespace(id=name, format=form, transport=Transport(), lose=None)
    pushes.begin(one, "room")
    if stands:
        pushes.stand(one, "room", False)
    return one


def items(*payloads, kind="j", **meta):
    return [Item(number, kind, "", one, meta) for number, one in enumerate(payloads, 1)]


def data_of(written):
    return [[json.loads(one)["push"]["pub"]["data"] for one in call] for call in written]


@pytest.fixture
def pushes():
    return Pushes(Counter())


@pytest.mark.parametrize("first", [None, Position("e", 5)])
def test_what_comes_together_is_written_together(pushes, first):
    ann, bob = subscriber(pushes, "ann"), subscriber(pushes, "bob", PROTOBUF)
    cid = subscriber(pushes, "cid", stands=False)
    pushes.write_items("room", items(b"1", b"2", b"3"), first)
    assert data_of(ann.transport.written) == [[1, 2, 3]]
    assert [len(call) for call in bob.transport.written] == [3]
    assert cid.transport.written == []
    pushes.stand(cid, "room", False)
    assert data_of(cid.transport.written) == [[1], [2], [3]]
    offsets = [json.loads(one)["push"]["pub"].get("offset") for one in ann.transport.written[0]]
    assert offsets == ([5, 6, 7] if first else [None] * 3)


def test_much_that_comes_together_is_written_in_parts(pushes):
    ann = subscriber(pushes, "ann")
    pushes.write_items("room", items(*[b'"%s"' % (b"x" * 30_000)] * 5), None)
    assert [len(call) for call in ann.transport.written] == [2, 2, 1]


def test_what_json_cannot_say_is_left_out_and_counted_for_each(pushes):
    ann, bob = subscriber(pushes, "ann"), subscriber(pushes, "bob")
    cid = subscriber(pushes, "cid", PROTOBUF)
    some = [*items(b"1", b"2"), *items(b"\xff", kind="b")]
    pushes.write_items("room", some, None)
    assert data_of(ann.transport.written) == data_of(bob.transport.written) == [[1, 2]]
    assert [len(call) for call in cid.transport.written] == [3]
    assert pushes._counts["not_json"] == 2
    pushes.write_items("room", items(b"\xff", b"\xff", kind="b"), None)
    assert len(ann.transport.written) == 1 and pushes._counts["not_json"] == 6


def test_who_is_left_out_of_one_gets_the_others(pushes):
    ann, bob = subscriber(pushes, "ann"), subscriber(pushes, "bob")
    some = [*items(b"1"), *items(b"2", **{EXCLUDE: ["ann"]}), *items(b"3")]
    pushes.write_items("room", some, None)
    assert data_of(ann.transport.written) == [[1], [3]]
    assert data_of(bob.transport.written) == [[1], [2], [3]]


@pytest.mark.parametrize("slow_reader", ["close", "drop_newest"])
@pytest.mark.parametrize("count", [1, 2])
def test_who_has_no_room_for_publications_loses_them_all(pushes, settings, slow_reader, count):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": slow_reader, "MAX_OUTBOX": 1_000}
    ann, bob = subscriber(pushes, "ann"), subscriber(pushes, "bob")
    ann.lose = lambda group: pushes.end(ann, group)
    ann.transport.unsent = 950
    some = items(*[b"%d" % number for number in range(count)])
    pushes.write_items("room", some, Position("e", 1))
    assert ann.transport.written == [] and len(bob.transport.written) == 1
    bob.lose = lambda group: pushes.end(bob, group)
    bob.transport.unsent = 950
    pushes.write_items("room", some, None)
    assert len(bob.transport.written) == 2
    # The last one of all.
    pushes.write_items("room", some, Position("e", 9))
    assert not pushes._channels


def test_of_a_group_without_subscribers_nothing_is_encoded(pushes):
    pushes.write_items("room", items(b"1", b"2"), None)


async def test_one_message_that_cannot_be_encoded_does_not_cost_the_others(caplog):
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    protobuf = {"subprotocols": ["centrifuge-protobuf"], "connects": False}
    async with speak(rules=RULES, **protobuf) as ann:
        for command in ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "room"}}):
            await ann.client.send(codecs.encode_commands([command]))
            await ann.client.receive()
        [view] = get_hub().views.values()
        forged = items(b"2", **{INFO: '{"client":{"a":7}}'})
        view.deliver("room", [*items(b"1"), *forged, *items(b"3")])
        heard = [
            reply["push"]["pub"]["data"]
            for _ in range(2)
            for reply in codecs.decode_replies(await ann.client.receive())
        ]
        assert heard == ["MQ==", "Mw=="]  # 1 and 3
    assert "group 'room'" in caplog.text
