"""Commands to the streams of other processes."""

import asyncio
import json
import sys
import threading
from collections import Counter

import pytest
from django.urls import path

from filtered_websocket.conf import conf
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import process_uid, told
from filtered_websocket.layer.envelope import CONTROL
from filtered_websocket.publishing.items import new_item
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import commands, elsewhere, sessions
from filtered_websocket.streams.elsewhere import BUSY, Waiting
from filtered_websocket.streams.sessions import UNKNOWN
from filtered_websocket.types import TokenUser

from ..layer.test_wire import Link
from ..protocols.clients import app
from ..waiting import LIMIT, until
from .clients import Streamed, lines

pytestmark = pytest.mark.django_db
PING = {"id": 2, "ping": {}}


@pytest.fixture
def site(monkeypatch, settings):
    """Its requests reach another process than its streams, as far as they know."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
    monkeypatch.setattr(elsewhere, "is_shared", lambda: True)
    monkeypatch.setattr(elsewhere, "waiting", Waiting())
    find = sessions.find

    class NotHere:
        find = staticmethod(lambda session: None)

        def __getattr__(self, name):
            return getattr(sessions, name)

    monkeypatch.setattr(commands, "sessions", NotHere())
    assert sessions.find is find
    return with_websockets(None, [path("connection/websocket", app())], protocols=True)


async def test_a_command_reaches_its_stream_and_the_answer_says_so(site):
    async with Streamed(site) as ann:
        assert await ann.say(PING) == 204
        assert await ann.hear() == PING
        assert get_hub().grants.counts_asked == {}


async def test_whoever_asks_on_another_event_loop_is_answered(site):
    async with Streamed(site) as ann:
        asked = ann.connected["session"], ann.connected["node"], b"\xff", "", None
        answer = await asyncio.to_thread(asyncio.run, elsewhere.hand_over(*asked))
        assert answer == sessions.TAKEN
        # Binary, to a stream of text.
        assert (await ann.hear())["push"]["disconnect"]["code"] == 3501


async def test_what_crosses_the_layer_has_these_bytes(site, monkeypatch):
    """Earlier versions take both for answers that nobody waits for."""
    nonce = "0011223344556677"
    monkeypatch.setattr(elsewhere.secrets, "token_hex", lambda size: nonce)
    async with Streamed(site) as ann:
        batches = []
        monkeypatch.setattr(get_hub(), "_link", Link(get_hub()._link, batches))
        session, node = ann.connected["session"], ann.connected["node"]
        assert await ann.say(PING) == 204
        monkeypatch.undo()
        await ann.hear()
    sent = [item.payload.decode() for batch in batches for item in batch.items]
    head = f'{{"is":"count","nonce":"{nonce}","tokens":{{}}'
    text = lines(PING).decode().replace('"', '\\"')
    assert sent == [
        f'{head},"stream":{{"node":"{node}","session":"{session}","cookie":"","text":"{text}"}}}}',
        f'{head},"streamed":"taken"}}',
    ]


async def test_who_logs_in_again_elsewhere_is_the_same_user(site, monkeypatch):
    async def user_of(scope):
        return "7"

    monkeypatch.setattr(commands, "_user_of", user_of)
    other = [(b"cookie", b"sessionid=other")]
    async with Streamed(site, headers=[(b"cookie", b"sessionid=own")]) as ann:
        connection = get_hub().connections[ann.id]
        for key, status in ((7, 204), (8, 403)):
            connection.scope["user"] = TokenUser(str(key))
            assert await ann.say(PING, headers=other) == status


async def test_a_version_without_streams_ignores_it(site, monkeypatch, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    monkeypatch.delitem(told, elsewhere.COMMAND)
    async with Streamed(site) as ann:
        assert await ann.say(PING) == 503
        assert "bad_envelope" not in get_hub().counts


async def test_what_other_processes_made_up_is_counted_and_skipped(site):
    async with Streamed(site) as ann:
        hub = get_hub()
        for command in ({}, {"node": process_uid()}, 1):
            event = {"is": "count", "nonce": "n", "tokens": {}, "stream": command}
            hub.publish_queue.put(CONTROL, new_item(event))
        await until(lambda: hub.counts["bad_envelope"] == 3)
        assert await ann.say(PING) == 204


async def test_what_is_for_another_process_is_left_to_it(site):
    async with Streamed(site) as ann:
        command = {"node": "other", "session": ann.connected["session"]}
        elsewhere.receive(None, {"nonce": "n", "stream": command})


async def test_a_session_that_nobody_has_is_asked_for_once(site, monkeypatch):
    async with Streamed(site) as ann:
        sent = []
        hub = get_hub()
        send = hub.send_control
        monkeypatch.setattr(hub, "send_control", lambda event: (sent.append(event), send(event)))
        stream = sessions._streams.pop(ann.connected["session"])
        for _ in range(3):
            assert await ann.say(PING) == 404
        assert sum(elsewhere.COMMAND in event for event in sent) == 1
        # What a stranger makes up is asked of nobody.
        assert await ann.say(PING, session="x" * 76) == 404
        assert await ann.say(PING, node="other") == 404
        assert sum(elsewhere.COMMAND in event for event in sent) == 1
        sessions._streams[stream.session] = stream


async def test_a_stream_of_another_event_loop_is_left_to_that(site, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    async with Streamed(site) as ann:
        stream = sessions.find(ann.connected["session"])
        stream.loop, own = None, stream.loop
        assert await ann.say(PING) == 503
        stream.loop = own


async def test_where_the_layer_is_away_another_try_may_help(site, settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    async with Streamed(site) as ann:
        with monkeypatch.context() as away:
            away.setattr(get_hub(), "send_control", lambda event: None)
            away.setattr(get_hub(), "layer_is_lost", True)
            assert await ann.say(PING) == 503
        settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
        assert await ann.say(PING) == 204


async def test_a_process_that_did_not_answer_once_is_asked_again(site, settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    async with Streamed(site) as ann:
        lost = []
        with monkeypatch.context() as away:
            away.setattr(get_hub(), "send_control", lost.append)
            for _ in range(3):
                assert await ann.say(PING) == 503
        assert len(lost) == 1  # the others were not held up
        settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
        monkeypatch.setattr(elsewhere, "PAUSE", 0.0)
        elsewhere.waiting.no_answer(process_uid(), 0.0)
        monkeypatch.setattr(elsewhere, "PAUSE", 2.0)
        for _ in range(2):
            assert await ann.say(PING) == 204


def test_a_process_that_stays_silent_has_ended(monkeypatch):
    monkeypatch.setattr(elsewhere, "MOST_SILENT", 2)
    waiting = Waiting()
    assert waiting.problem("a", 0.0) is None and waiting.no_answer("a", 2.0) == BUSY
    assert waiting.problem("a", 3.9) == BUSY
    # One command asks again, and the others do not wait with it.
    assert waiting.problem("a", 4.0) is None and waiting.problem("a", 4.0) == BUSY
    assert waiting.no_answer("a", 33.0) == UNKNOWN and waiting.problem("a", 34.0) == UNKNOWN
    assert waiting.problem("a", 35.0) is None
    waiting.answers("a")
    assert waiting.no_answer("a", 36.0) == BUSY
    for node in "bc":
        waiting.no_answer(node, 36.0)
    assert [waiting.problem(node, 37.0) for node in "abc"] == [None, BUSY, BUSY]


async def test_without_other_processes_nobody_is_asked(site, monkeypatch):
    monkeypatch.setattr(elsewhere, "is_shared", lambda: False)
    async with Streamed(site) as ann:
        assert await ann.say(PING) == 404


async def test_what_waits_for_other_processes_is_bounded(site, monkeypatch):
    monkeypatch.setattr(elsewhere, "MOST_OF_ONE", 2)
    async with Streamed(site) as ann:
        send, held = get_hub().send_control, []
        monkeypatch.setattr(get_hub(), "send_control", held.append)
        answers = [asyncio.ensure_future(ann.say(PING)) for _ in range(5)]
        await until(lambda: len(held) == 2)
        await until(lambda: sum(one.done() for one in answers) == 3)
        monkeypatch.setattr(get_hub(), "send_control", send)
        for event in held:
            send(event)
        assert Counter(await asyncio.gather(*answers)) == {204: 2, 503: 3}
        for _ in range(2):
            assert await ann.hear() == PING


def test_their_number_their_bytes_and_those_of_one_client_count(monkeypatch):
    for name, most in (("MOST", 4), ("MOST_BYTES", 100), ("MOST_OF_ONE", 2), ("MOST_ENDED", 2)):
        monkeypatch.setattr(elsewhere, name, most)
    waiting = Waiting()
    assert not waiting.take("a", "", 101)
    assert waiting.take("a", "", 40) and waiting.take("a", "", 40)
    assert not waiting.take("a", "", 1) and not waiting.take("b", "::1", 21)
    # Four sessions of one client do not have all.
    assert waiting.take("b", "::1", 20) and waiting.take("c", "::1", 0)
    assert not waiting.take("d", "::1", 0)
    waiting.give_back("b", "::1", 20)
    assert waiting.take("d", "::1", 0) and not waiting.take("e", "", 0)
    for session, address, size in (("a", "", 40), ("a", "", 40), ("c", "::1", 0)):
        waiting.give_back(session, address, size)
    assert waiting.take("e", "", 100) and waiting._counts == {"d": 1, "::1": 1, "e": 1}
    assert waiting._counts.keys() == {"d", "::1", "e"}
    for session in "abc":
        waiting.end(session)
    assert [waiting.has_ended(session) for session in "abc"] == [False, True, True]


def test_all_event_loops_of_a_process_share_them():
    waiting, failed = Waiting(), []
    for number in range(150):
        waiting.take(f"held-{number}", "", 1)

    def work(own):
        try:
            for number in range(2000):
                assert waiting.take(f"{own}-{number % 200}", "", 9)
                waiting.give_back(f"{own}-{number % 200}", "", 9)
        except Exception as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(own,)) for own in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed and waiting._size == waiting._counts.total() == 150


@pytest.mark.parametrize("letter", ["x", '"'])
async def test_the_longest_command_reaches_its_stream_too(site, letter):
    most = conf.MAX_MESSAGE_SIZE
    command = {"id": 2, "send": {"data": ""}}
    async with Streamed(site) as ann:
        room = (most - len(lines(command))) // len(json.dumps(letter)[1:-1])
        command["send"]["data"] = room * letter
        assert most - 2 < len(lines(command)) <= most
        assert await ann.say(command) == 204
        assert await ann.say(PING) == 204
        assert await ann.hear() == PING
