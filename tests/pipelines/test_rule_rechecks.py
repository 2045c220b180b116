"""Rules with ``recheck=True`` are asked again: a right that ends, ends the subscription."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test.utils import CaptureQueriesContext

from filtered_websocket import NotAllowed, WebSocketJoinFilter
from filtered_websocket.connections.subscription import Subscription
from filtered_websocket.disconnect import subscribe, unsubscribe
from filtered_websocket.groups import group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.pipelines import asking
from filtered_websocket.pipelines import rule_rechecks as module
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..waiting import until


async def join_all(web_socket_instance, data):
    for name in data.decode().split():
        assert await web_socket_instance.join(name)
    web_socket_instance.push("joined")


JOIN = [message_filter(join_all)]
allowed = {"here": True, "later": True, "blocking": True}


def here(connection):
    return allowed["here"]


async def later(connection):
    await asyncio.sleep(0)
    return allowed["later"]


def blocking(connection):
    return allowed["blocking"]


blocking.blocking = True
RULES = [
    group("here", join=here, recheck=True),
    group("later", join=later, recheck=True),
    group("blocking", join=blocking, recheck=True),
    group("once", join=here),
    group("open", recheck=True),
]


@pytest.fixture(autouse=True)
def short(settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.01}
    allowed.update(here=True, later=True, blocking=True)


async def joined(client, names):
    await client.send(names)
    assert await client.receive() == "joined"


@pytest.mark.parametrize("name", ["here", "later", "blocking"])
async def test_a_right_that_ends_ends_the_subscription_alone(name, caplog):
    caplog.set_level("INFO")
    names = {"here", "later", "blocking", "once", "open"}
    async with connect(JOIN, group_rules=RULES) as ann:
        await joined(ann, " ".join(sorted(names)))
        [connection] = get_hub().connections.values()
        allowed[name] = False
        await until(lambda: name not in connection.groups)
        assert connection.groups == {connection.home, *(names - {name})}
        assert set(connection.subscriptions) == connection.groups and ann.close_code is None
        assert f"connection {connection.id} may no longer be in group {name!r}" in caplog.text


async def test_a_rule_may_say_by_not_allowed_that_a_right_has_ended(caplog):
    def rule(connection):
        if not allowed["here"]:
            raise NotAllowed("no more")
        return True

    async with connect(JOIN, group_rules=[group("one", join=rule, recheck=True)]) as ann:
        await joined(ann, "one")
        allowed["here"] = False
        await until(lambda: "one" not in ann.connection.groups)
        assert "raised" not in caplog.text


@pytest.mark.parametrize("other", ["here", "later"])
async def test_a_rule_that_hangs_keeps_no_other_from_its_end(other):
    asked = asyncio.Event()

    async def hangs(connection):
        if not allowed[other]:
            asked.set()
            await asyncio.Event().wait()
        return True

    rules = [group("hangs", join=hangs, recheck=True), *RULES]
    async with connect(JOIN, group_rules=rules) as ann:
        await joined(ann, f"hangs {other}")
        allowed[other] = False
        await asked.wait()
        await until(lambda: other not in ann.connection.groups)
        assert "hangs" in ann.connection.groups


async def test_what_the_site_joined_is_not_asked_again():
    async with connect(JOIN, group_rules=[group("here", join=False, recheck=True)]):
        [connection] = get_hub().connections.values()
        await connection.join("here", trusted=True)
        rechecks = get_hub().grants.rule_rechecks
        rechecks.begin()
        assert rechecks._task is None and rechecks._timer is None


async def test_what_the_site_joins_anew_is_its_own(settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 600}
    async with connect(JOIN, group_rules=RULES, user=User(pk=7)) as ann:
        await joined(ann, "here later once")
        subscribe(7, "here")
        assert await ann.connection.join("later", trusted=True)
        allowed.update(here=False, later=False)
        rechecks = get_hub().grants.rule_rechecks
        rechecks.begin()
        assert rechecks._task is None and rechecks._timer is None
        trusted = {name for name, one in ann.connection.subscriptions.items() if one.trusted}
        assert trusted == {ann.connection.home, "here", "later"}
        # It can be taken back, and then the rule decides.
        unsubscribe(7, "here")
        with pytest.raises(NotAllowed):
            ann.connection.join("here")


@pytest.mark.parametrize("first", [True, False])
async def test_what_the_site_and_a_client_join_at_once_is_the_sites(first):
    class Slow(WebSocketJoinFilter):
        _registers = False

        @classmethod
        async def filter(cls, web_socket_instance, subscription):
            if subscription.group == "here":
                await decide.wait()

    decide = asyncio.Event()
    async with connect([Slow], group_rules=RULES) as ann:
        joins = [ann.connection.join("here", trusted=one) for one in (first, not first)]
        decide.set()
        assert all(await asyncio.gather(*joins))
        assert ann.connection.subscriptions["here"].trusted


async def test_a_question_that_is_under_way_does_not_end_what_the_site_joins():
    decide = asyncio.Event()

    async def slow(connection):
        if allowed["later"]:
            return True
        await decide.wait()
        return False

    rules = [group("x", join=slow, recheck=True)]
    async with connect(JOIN, group_rules=rules, user=User(pk=7)) as ann:
        await joined(ann, "x")
        rechecks = get_hub().grants.rule_rechecks
        allowed["later"] = False
        await until(lambda: rechecks._task is not None)
        subscribe(7, "x")
        decide.set()
        await until(lambda: rechecks._task is None)
        assert "x" in ann.connection.groups


async def test_rules_are_asked_while_somebody_is_subscribed_and_no_longer():
    asked = []

    def note(connection):
        asked.append(connection)
        return True

    async with connect(JOIN, group_rules=[group("here", join=note, recheck=True)]) as ann:
        await joined(ann, "here")
        await until(lambda: len(asked) > 3)
        [connection] = get_hub().connections.values()
        connection.leave("here")
        rechecks = get_hub().grants.rule_rechecks
        await until(lambda: rechecks._task is None and rechecks._timer is None)


async def test_what_was_missed_on_the_layer_is_asked_at_once(settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 600}
    async with connect(JOIN, group_rules=RULES) as ann:
        await joined(ann, "here")
        [connection] = get_hub().connections.values()
        allowed["here"] = False
        get_hub().grants.recheck_all()
        await until(lambda: "here" not in connection.groups)


async def test_the_hub_ends_while_rules_are_asked():
    begun = asyncio.Event()

    async def hangs(connection):
        if allowed["later"]:
            return True
        begun.set()
        await asyncio.Event().wait()

    async with connect(JOIN, group_rules=[group("x", join=hangs, recheck=True)]) as ann:
        await joined(ann, "x")
        allowed["later"] = False
        await begun.wait()


async def test_a_rule_that_hangs_is_given_up_and_asked_again(monkeypatch, caplog):
    monkeypatch.setattr(module, "TIME_LIMIT", 0.01)
    answers = []

    async def hangs(connection):
        answers.append(1)
        if len(answers) == 2:
            await asyncio.Event().wait()
        return len(answers) < 4

    async with connect(JOIN, group_rules=[group("x", join=hangs, recheck=True)]) as ann:
        await joined(ann, "x")
        [connection] = get_hub().connections.values()
        await until(lambda: "x" not in connection.groups)
        assert "group rules have not answered within" in caplog.text


@pytest.mark.parametrize("kind", ["here", "later", "blocking"])
async def test_a_rule_that_fails_is_asked_again_and_ends_the_subscription_in_the_end(
    kind, monkeypatch, caplog
):
    answers = []

    def fails(connection):
        answers.append(1)
        if len(answers) == 1:
            return True
        raise KeyError("on demand")

    async def fails_later(connection):
        return fails(connection)

    rule = fails_later if kind == "later" else fails
    rule.blocking = kind == "blocking"
    monkeypatch.setattr(module, "GRACE", 3)
    async with connect(JOIN, group_rules=[group("x", join=rule, recheck=True)]) as ann:
        await joined(ann, "x")
        [connection] = get_hub().connections.values()
        await until(lambda: "x" not in connection.groups)
        assert len(answers) == 4
        assert "a group rule raised KeyError" in caplog.text


async def test_a_rule_that_works_again_starts_to_count_anew(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 2)
    answers = []

    def fails_at_times(connection):
        answers.append(1)
        if len(answers) % 2:
            return True
        raise KeyError("on demand")

    async with connect(JOIN, group_rules=[group("x", join=fails_at_times, recheck=True)]) as ann:
        await joined(ann, "x")
        await until(lambda: len(answers) > 8)
        assert "x" in get_hub().groups.names


async def test_no_thread_can_be_started_is_a_failure(monkeypatch, caplog):
    async with connect(JOIN, group_rules=RULES) as ann:
        await joined(ann, "blocking")

        async def refuses(call):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(asking, "run_blocking", refuses)
        await until(lambda: "can't start new thread" in caplog.text)
        assert "blocking" in get_hub().groups.names


async def test_an_answer_about_a_subscription_that_has_ended_changes_nothing():
    decide = asyncio.Event()

    async def slow(connection):
        if allowed["later"]:
            return True
        await decide.wait()
        return False

    async with connect(JOIN, group_rules=[group("x", join=slow, recheck=True)]) as ann:
        await joined(ann, "x")
        [connection] = get_hub().connections.values()
        rechecks = get_hub().grants.rule_rechecks
        allowed["later"] = False
        await until(lambda: rechecks._task is not None)
        connection.leave("x")
        await connection.join("x", trusted=True)
        decide.set()
        await until(lambda: rechecks._task is None)
        assert "x" in connection.groups


def stand_in(user, names, join, failures=None):
    """A connection with subscriptions of rules that ask for ``join``."""
    rule = group("<str:x>", join=join, recheck=True)
    connection = SimpleNamespace(
        id=str(id(user)), user=user, tenant=None, context=module.contextvars.copy_context()
    )
    connection.subscriptions = {name: Subscription(name, {"x": name}, rule) for name in names}
    connection.leave = connection.subscriptions.pop
    connection.rule_failed = (lambda error: None) if failures is None else failures.append
    return connection


@pytest.mark.django_db(transaction=True)
async def test_permissions_of_many_cost_one_query_for_all_users_and_two_for_each():
    def make():
        view = Permission.objects.get(codename="view_user")
        for number in range(20):
            User.objects.create(username=str(number)).user_permissions.add(view)
        User.objects.get(username="3").user_permissions.clear()
        return list(User.objects.order_by("pk"))

    users = await sync_to_async(make)()
    names = ["a", "b", "c", "d"]
    connections = {str(id(user)): stand_in(user, names, "auth.view_user") for user in users}
    hub = SimpleNamespace(loop=asyncio.get_running_loop(), connections=connections)
    queries = await sync_to_async(_counted)(module.RuleRechecks(hub))
    assert queries == 1 + 2 * 20
    left = {one.user.username: len(one.subscriptions) for one in connections.values()}
    assert left == {user.username: 0 if user.username == "3" else 4 for user in users}


def _counted(rechecks):
    from django.db import connection as database

    held = list(rechecks._held())
    with CaptureQueriesContext(database) as queries:
        for one, answer in zip(held, asking.answers(held), strict=True):
            rechecks._note(one, answer)
    return len(queries)


async def test_blocking_rules_are_asked_in_few_threads(settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 600}
    threads = []

    def asks(connection, x):
        threads.append(threading.get_ident())
        return True

    asks.blocking = True
    names = [str(number) for number in range(25)]
    connections = {str(n): stand_in(object(), names, asks) for n in range(20)}
    hub = SimpleNamespace(loop=asyncio.get_running_loop(), connections=connections)
    calls = []
    original = asking.run_blocking

    async def counted(call):
        calls.append(call)
        return await original(call)

    asking.run_blocking = counted
    try:
        rechecks = module.RuleRechecks(hub)
        rechecks.begin()
        await until(lambda: rechecks._task is None)
    finally:
        asking.run_blocking = original
        await rechecks.stop()
    assert len(threads) == 500 and len(calls) == 5
