"""Grants: what each connection depends on."""

import asyncio
import datetime
import json
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from filtered_websocket import PublishError, publish
from filtered_websocket.auth.authenticators import identity_of
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import disconnect_session, disconnect_token, disconnect_user
from filtered_websocket.groups import group
from filtered_websocket.hub import grants as module
from filtered_websocket.hub import rechecks
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import CONTROL, Batch, group_key
from filtered_websocket.models import Token
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect
from filtered_websocket.types import Identity

from ..handshaking import shake_hands
from ..waiting import limited, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user():
    return User.objects.create_user("ann", password="secret")


def make_token(**fields):
    """A token; the control event of its creation has been handled."""
    made = Token.objects.create_key(**fields)
    publish._close()
    return made


@pytest.fixture
def token(user):
    return make_token(name="ann's", user=user)


@pytest.fixture
def app():
    return FilteredWebSocketConsumer.as_asgi(filters=[])


async def by_token(app, key):
    client = await shake_hands(app, headers=[("authorization", f"Token {key}".encode())])
    assert client.accepted
    return client


def control_batch(*events, origin="elsewhere", first=0):
    items = [new_item(event) for event in events]
    return Batch(origin, group_key(CONTROL), first, items)


def changed(kind, pk):
    return {"is": "changed", "kind": kind, "id": str(pk)}


# Ends


async def _revoke(record, user):
    await sync_to_async(record.revoke)()


async def _rotate(record, user):
    await sync_to_async(record.rotate)()


async def _delete(record, user):
    await record.adelete()


async def _deactivate(record, user):
    user.is_active = False
    await user.asave()


async def _change_password(record, user):
    user.set_password("another")
    await user.asave()


async def _delete_user(record, user):
    await user.adelete()


async def _restrict(record, user):
    record.can_subscribe = False
    await record.asave()


async def _give_away(record, user):
    record.user = await sync_to_async(User.objects.create_user)("bob")
    await record.asave()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_revoke, "token revoked"),
        (_rotate, "token rotated"),
        (_delete, "token deleted"),
        (_deactivate, "user deactivated"),
        (_change_password, "password changed"),
        (_delete_user, "user deleted"),
        (_restrict, "token changed"),
        (_give_away, "token changed"),
    ],
)
async def test_a_connection_is_closed_when_what_it_depends_on_ends(app, token, user, end, reason):
    record, key = token
    client = await by_token(app, key)
    async with connect([]) as other:
        await end(record, user)
        assert await client.closed() == 4401
        assert client.close_reason == reason
        assert other.close_code is None
    await client.close()


async def test_harmless_changes_close_no_connection(app, token, user):
    record, key = token
    client = await by_token(app, key)
    record.name = "renamed"
    await record.asave()
    user.first_name = "Ann"
    await user.asave()
    await client.settle()
    assert await client.received_nothing() and client.close_code is None
    await client.close()


async def test_a_site_may_end_connections_by_user_and_by_token(app, token, user):
    for end in (lambda: disconnect_user(user), lambda: disconnect_token(token[0].pk, 4321, "bye")):
        client = await by_token(app, token[1])
        end()
        assert await client.closed() in (4401, 4321)
        assert client.close_reason in ("disconnected by the site", "bye")
        await client.close()


async def test_an_anonymous_connection_stays_open(app):
    client = await shake_hands(app)
    assert client.accepted
    hub = get_hub()
    hub.grants.receive(control_batch(changed("token", 1), changed("user", "x")))
    assert await client.received_nothing()
    await client.close()


async def test_nothing_is_kept_of_a_connection_that_ended(app, token):
    client = await by_token(app, token[1])
    grants = get_hub().grants
    assert grants._held and grants._dependent
    await client.close()
    assert not (grants._held or grants._dependent or grants._deadlines._timers)


# Expiry


async def test_a_connection_ends_when_its_token_expires(app, user, monkeypatch):
    end = timezone.now() + datetime.timedelta(hours=1)
    # When its timer is set, the token has but a moment left.
    clock = SimpleNamespace(time=lambda: end.timestamp() - 0.05)
    monkeypatch.setattr(rechecks, "time", clock)
    _, key = await sync_to_async(make_token)(name="short", expires_at=end)
    client = await by_token(app, key)
    assert await client.closed() == 4401
    assert client.close_reason == "expired"
    await client.close()


async def test_an_identity_of_a_sites_own_may_expire_too(app, user, monkeypatch):
    async with connect([]):
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        end = timezone.now() + datetime.timedelta(hours=1)
        with monkeypatch.context() as patch:
            patch.setattr(rechecks, "time", SimpleNamespace(time=lambda: end.timestamp() - 3600))
            patch.setattr(asyncio.get_running_loop(), "time", lambda: 100.0)
            grants.add(connection, Identity(user=user, expires_at=end), grants.events_seen)
        assert connection.deadline == pytest.approx(3700)
        assert not connection.is_expired(3699) and connection.is_expired(3701)


async def test_a_message_after_the_end_is_not_handled_though_the_timer_is_late(app, token):
    client = await by_token(app, token[1])
    hub = get_hub()
    [connection] = hub.connections.values()
    connection.deadline = hub.loop.time() - 1
    await client.send("too late")
    assert await client.closed() == 4401
    await client.close()


async def test_an_expiry_in_years_is_looked_at_again_and_again(app, user, monkeypatch):
    monkeypatch.setattr(rechecks, "MAX_TIMER", 0.01)
    end = timezone.now() + datetime.timedelta(days=3650)
    record, key = await sync_to_async(make_token)(name="long", expires_at=end)
    client = await by_token(app, key)
    grants = get_hub().grants
    await until(lambda: grants._unconfirmed is None, 0)
    [first] = grants._deadlines._timers.values()
    await until(lambda: first not in grants._deadlines._timers.values(), 0)
    # Whatever else sets it again, this does.
    [connection] = get_hub().connections.values()
    [second] = grants._deadlines._timers.values()
    grants._deadlines._due(connection, grants._held[connection])
    assert second not in grants._deadlines._timers.values()
    assert client.close_code is None
    # And an expiry that is brought forward counts at once.
    monkeypatch.undo()
    record.expires_at = timezone.now() - datetime.timedelta(seconds=1)
    await record.asave()
    assert await client.closed() == 4401
    await client.close()


async def test_an_expiry_that_is_put_off_counts_as_well(app, user):
    end = timezone.now() + datetime.timedelta(hours=1)
    record, key = await sync_to_async(make_token)(name="more", expires_at=end)
    client = await by_token(app, key)
    [connection] = get_hub().connections.values()
    before = connection.deadline
    record.expires_at = end + datetime.timedelta(hours=1)
    await record.asave()
    await until(lambda: connection.deadline != before, 0)
    await client.close()


# Asking again


async def test_what_sends_no_signal_is_found_within_recheck(app, token, settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.05}
    client = await by_token(app, token[1])
    await Token.objects.aupdate(revoked_at=timezone.now())
    assert await client.closed() == 4401
    await client.close()


async def test_after_missed_control_events_all_connections_are_rechecked(app, token):
    client = await by_token(app, token[1])
    await Token.objects.aupdate(revoked_at=timezone.now())
    grants = get_hub().grants
    grants.receive(control_batch({"is": "ask", "nonce": "1"}, origin="o", first=0))
    grants.receive(control_batch({"is": "ask", "nonce": "2"}, origin="o", first=7))
    assert await client.closed() == 4401
    await client.close()


async def test_when_the_layer_is_back_all_connections_are_rechecked(app, token):
    client = await by_token(app, token[1])
    await Token.objects.aupdate(revoked_at=timezone.now())
    get_hub()._layer_back(1.0)
    assert await client.closed() == 4401
    await client.close()


async def test_after_a_late_subscription_all_connections_are_rechecked(app, token):
    client = await by_token(app, token[1])
    await Token.objects.aupdate(revoked_at=timezone.now())
    get_hub()._joined_late(group_key(CONTROL))
    assert await client.closed() == 4401
    await client.close()


async def test_who_was_authenticated_while_an_event_came_is_asked_about_again(app, token):
    async with connect([]):
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        identity = await sync_to_async(identity_of)(token[0])
        since = grants.events_seen
        await Token.objects.aupdate(revoked_at=timezone.now())
        grants.receive(control_batch(changed("token", token[0].pk)))
        grants.add(connection, identity, since)
        await until(lambda: connection.closing, 0)
        assert connection.transport.closed == (4401, "token revoked")


async def test_while_the_layer_is_lost_no_confirmation_is_sent(app, token, monkeypatch):
    """Each would wait in the queue until the layer is back."""
    monkeypatch.setattr(module, "CONFIRM_AGAIN", 0.001)
    async with connect([]):
        hub, sent = get_hub(), []
        monkeypatch.setattr(hub, "send_control", sent.append)
        hub.layer_is_lost = True
        client = await by_token(app, token[1])
        timer = hub.grants._confirm_timer
        async with limited():
            while hub.grants._confirm_timer is timer:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert sent == [] and hub.grants._unconfirmed
        hub.layer_is_lost = False
        await until(lambda: sent, 0)
        confirmation = sent[0]
        assert confirmation["is"] == "count" and confirmation["tokens"] == {}
        hub.grants.receive(control_batch(confirmation))
        assert hub.grants._unconfirmed is None and hub.grants._confirm_timer is None
        before = hub.grants.events_seen
        # It was sent more than once.
        hub.grants.receive(control_batch(confirmation, first=1))
        assert hub.grants.events_seen == before
        await client.close()


async def test_a_user_that_a_test_made_up_is_not_rechecked():
    async with connect([], user=User(pk=77, username="nobody")) as client:
        get_hub().grants._confirm()
        assert await client.received_nothing() and client.close_code is None


async def test_a_user_of_a_middleware_of_the_site_is_rechecked(app, user):
    """It may have been read before this process received control events."""
    await User.objects.filter(pk=user.pk).aupdate(is_active=False)
    async with connect([]):
        get_hub().grants._confirm()
        client = await shake_hands(app, is_of_a_middleware=True, user=user)
        assert not client.accepted or await client.closed() == 4401
        await client.close()


async def test_a_duplicate_event_is_heard_once(app):
    async with connect([]):
        grants = get_hub().grants
        before = grants.events_seen
        batch = control_batch(changed("user", 1), origin="twice")
        grants.receive(batch)
        grants.receive(batch)
        assert grants.events_seen == before + 1


@pytest.mark.parametrize(
    "event",
    [
        {"is": "nonsense"},
        {"no": "kind"},
        {"is": "changed"},
        {"is": "close", "kind": "user", "id": "1"},
        {"is": "count", "nonce": "never asked", "tokens": 3},
        {"is": []},
        {"is": "count", "nonce": []},
        '{"is":"ask","nonce":"\\ud800"}',
        '{"is":"close","kind":"user","id":"1","code":Infinity,"reason":""}',
        "[" * 100_000,
        {"is": "close", "kind": "session", "id": "1", "code": 4401, "reason": "x" * 124},
        ["a", "list"],
        "text",
    ],
)
async def test_an_event_that_is_none_is_counted(app, token, event):
    client = await by_token(app, token[1])
    hub = get_hub()
    before = hub.counts["bad_envelope"]
    if event == {"is": "close", "kind": "user", "id": "1"}:
        event["id"] = str(token[0].user_id)
    hub.grants.receive(control_batch(event))
    known = event == {"is": "count", "nonce": "never asked", "tokens": 3}
    assert hub.counts["bad_envelope"] - before == (0 if known else 1)
    assert await client.received_nothing() and client.close_code is None
    await client.close()


async def test_while_the_database_is_away_connections_live_on_for_a_while(
    app, token, settings, monkeypatch, caplog
):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600}
    monkeypatch.setattr(rechecks, "ASK_AGAIN", 0.01)
    asked = []

    def away(identities):
        asked.append(len(identities))
        raise OSError("the database is away")

    client = await by_token(app, token[1])
    with monkeypatch.context() as patch:
        patch.setattr(rechecks, "find_invalid", away)
        get_hub().grants.receive(control_batch(changed("token", token[0].pk)))
        await until(lambda: len(asked) >= 3)
        assert client.close_code is None
        assert [r.levelname for r in caplog.records] == ["ERROR"]
        # A revocation meanwhile is found out when it is back.
        await Token.objects.aupdate(revoked_at=timezone.now())
    assert await client.closed() == 4401
    await client.close()


async def test_when_the_database_stays_away_connections_end(app, token, monkeypatch):
    def away(identities):
        raise OSError("the database is away")

    monkeypatch.setattr(rechecks, "find_invalid", away)
    monkeypatch.setattr(rechecks, "ASK_AGAIN", 0.01)
    monkeypatch.setattr(rechecks, "GRACE", 0)
    client = await by_token(app, token[1])
    get_hub().grants.recheck_all()
    assert await client.closed() == 4500
    await client.close()


async def test_a_use_that_cannot_be_written_harms_nobody(app, token, monkeypatch, caplog):
    def away(self, ids):
        raise OSError("the database is away")

    monkeypatch.setattr("filtered_websocket.models.TokenManager.note_used", away)
    client = await by_token(app, token[1])
    await client.close()
    assert "cannot write when tokens were used" in caplog.text


async def test_a_database_that_hangs_does_not_hold_up_the_end_of_a_hub(app, token, monkeypatch):
    asked = asyncio.Event()

    async def hang(*args, **kwargs):
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(rechecks, "STOP_TIMEOUT", 0.01)
    client = await by_token(app, token[1])
    monkeypatch.setattr(rechecks, "run_query", hang)
    get_hub().grants.recheck_all()
    await asked.wait()
    await client.close()


async def test_who_comes_while_a_hub_is_about_to_end_is_rechecked_all_the_same(
    app, token, settings, monkeypatch
):
    """Its hub stays, and with it what asks about the session, the token and group rules."""
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.05}
    gate, rights = asyncio.Event(), [True]
    rules = [group("room", join=lambda connection: rights[-1], recheck=True)]
    ann = await connect([])
    hub = get_hub()

    async def held():
        await gate.wait()

    monkeypatch.setattr(hub, "settled", held)
    leaving = asyncio.ensure_future(ann.close())
    await until(lambda: not hub.connections, 0)
    client = await by_token(app, token[1])
    async with connect([], group_rules=rules) as bob:
        await bob.connection.join("room")
        gate.set()
        await leaving
        assert get_hub() is hub
        rights.append(False)
        await until(lambda: "room" not in bob.connection.groups)
        await Token.objects.aupdate(revoked_at=timezone.now())
        assert await client.closed() == 4401
        await client.close()


async def test_who_comes_while_a_hub_is_about_to_end_is_told_what_it_may_have_missed(
    app, token, monkeypatch
):
    gate, sent = asyncio.Event(), []
    ann = await connect([])
    hub = get_hub()
    monkeypatch.setattr(hub, "settled", gate.wait)
    monkeypatch.setattr(hub, "send_control", sent.append)
    leaving = asyncio.ensure_future(ann.close())
    await until(lambda: not hub.connections, 0)
    client = await by_token(app, token[1])
    gate.set()
    await leaving
    before = len(sent)
    # It is found out again and again whether control events arrive.
    await until(lambda: len(sent) > before)
    await client.close()


async def test_one_question_is_asked_about_many(app, user, monkeypatch):
    asked = []
    real = rechecks.find_invalid

    def find_invalid(identities):
        asked.append(len(identities))
        return real(identities)

    keys = [(await sync_to_async(make_token)(name=str(n), user=user))[1] for n in range(5)]
    clients = [await by_token(app, key) for key in keys]
    monkeypatch.setattr(rechecks, "find_invalid", find_invalid)
    get_hub().grants.receive(control_batch(changed("user", user.pk)))
    await until(lambda: asked, 0)
    assert asked == [5]
    for client in clients:
        await client.close()


async def test_the_others_are_served_between_questions_about_more(app, user, monkeypatch):
    """And where the database goes away meanwhile, those that are left are asked about later."""
    asked, real = [], rechecks.find_invalid

    def find_invalid(identities):
        asked.append(len(identities))
        if len(asked) == 2:
            raise OSError("the database is away")
        return real(identities)

    keys = [(await sync_to_async(make_token)(name=str(n), user=user))[1] for n in range(5)]
    clients = [await by_token(app, key) for key in keys]
    monkeypatch.setattr(rechecks, "CHUNK", 2)
    monkeypatch.setattr(rechecks, "ASK_AGAIN", 0)
    monkeypatch.setattr(rechecks, "find_invalid", find_invalid)
    get_hub().grants.receive(control_batch(changed("user", user.pk)))
    await until(lambda: len(asked) == 4)
    assert asked == [2, 2, 2, 1]
    for client in clients:
        await client.close()


async def test_who_leaves_while_the_question_is_asked_is_not_minded(app, token, monkeypatch):
    asked, answer = asyncio.Event(), asyncio.Event()
    real = rechecks.run_query

    async def slowly(call, *args, **options):
        asked.set()
        await answer.wait()
        return await real(call, *args, **options)

    client = await by_token(app, token[1])
    async with connect([]):
        grants = get_hub().grants
        await client.settle()
        monkeypatch.setattr(rechecks, "run_query", slowly)
        grants.receive(control_batch(changed("token", token[0].pk)))
        await asked.wait()
        await client.close()
        answer.set()
    assert client.close_code == 1000


async def test_two_rights_of_one_connection_end_it_by_either(app, token):
    async with connect([]) as client:
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        other, _ = await sync_to_async(make_token)(name="other")
        for record, slot in ((token[0], "handshake"), (other, "used")):
            identity = await sync_to_async(identity_of)(record)
            grants.add(connection, identity, grants.events_seen, slot)
        assert grants.count() == {str(token[0].pk): 1, str(other.pk): 1}
        grants.remove(connection, "used")
        assert grants.count() == {str(token[0].pk): 1}
        await sync_to_async(other.revoke)()
        await client.settle()
        assert client.close_code is None
        await sync_to_async(token[0].revoke)()
        assert await client.closed() == 4401


async def test_an_anonymous_identity_depends_on_nothing(app):
    async with connect([]):
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        grants.add(
            connection, Identity(user=AnonymousUser(), token={"a": "jwt"}), grants.events_seen
        )
        assert grants._dependent == {} and grants.count() == {}
        grants.recheck_all()


async def test_answers_from_several_processes_are_added_up():
    async with connect([]):
        grants = get_hub().grants
        grants.counts_asked["mine"] = told = []
        for tokens in ({"1": 2}, {"1": 1, "7": 1}):
            grants.receive(
                control_batch(
                    {"is": "count", "nonce": "mine", "tokens": tokens}, origin=str(tokens)
                )
            )
        assert [answer.tokens for answer in told] == [{"1": 2}, {"1": 1, "7": 1}]


async def test_a_connection_ends_with_its_session(user):
    async with connect([]) as client, connect([]) as other:
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        grants.add(connection, Identity(user=user, session_key="abc"), grants.events_seen)
        disconnect_session("another")
        disconnect_session("abc")
        assert await client.closed() == 4401 and client.close_reason == "logged out"
        assert await other.received_nothing() and other.close_code is None


async def test_who_comes_with_a_session_that_has_just_ended_comes_too_late(user, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED", 1)
    async with connect([]) as late, connect([]) as later:
        hub = get_hub()
        connections = list(hub.connections.values())
        for session_key in ("abc", "def"):
            disconnect_session(session_key)
        await later.settle()
        for connection, session_key in zip(connections, ("def", "abc"), strict=True):
            identity = Identity(user=user, session_key=session_key)
            hub.grants.add(connection, identity, hub.grants.events_seen)
        assert await late.closed() == 4401
        # The oldest are forgotten, for memory's sake.
        assert list(hub.grants._ended.values()) == ["logged out"]


async def test_a_write_that_waits_for_a_lock_holds_up_no_end(app, token, user, monkeypatch):
    written = asyncio.Event()
    real = rechecks.run_query

    async def ask(call, *args, **options):
        if args[0] is rechecks.find_invalid:
            return await real(call, *args, **options)
        await written.wait()

    monkeypatch.setattr(rechecks, "run_query", ask)
    client = await by_token(app, token[1])
    other = await by_token(app, token[1])
    user.is_active = False
    await user.asave()
    assert await client.closed() == 4401 and await other.closed() == 4401
    written.set()
    await client.close()
    await other.close()


async def test_a_use_that_comes_while_another_is_written_is_written_too(app, token, monkeypatch):
    written, gate = [], asyncio.Event()

    async def slowly(call, *args, **options):
        if call is rechecks._try_to and args[0] is not rechecks.find_invalid:
            written.append(args[1])
            await gate.wait()
            return None
        return [("", identity) for identity in args[1]]

    monkeypatch.setattr(rechecks, "run_query", slowly)
    first = await by_token(app, token[1])
    await until(lambda: written, 0)
    second = await by_token(app, token[1])
    assert len(written) == 1
    gate.set()
    await until(lambda: len(written) >= 2, 0)
    await first.close()
    await second.close()


async def test_who_was_inactive_to_begin_with_is_not_deactivated(user):
    async with connect([]) as client:
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        user.is_active = False
        await user.asave()
        grants.add(connection, Identity(user=user), grants.events_seen)
        grants.recheck_all()
        await client.settle()
        assert client.close_code is None


async def test_what_a_replica_said_is_asked_about_again(user, monkeypatch):
    async with connect([]) as client:
        grants = get_hub().grants
        connection = next(iter(get_hub().connections.values()))
        monkeypatch.setattr(module, "is_read_from_a_replica", lambda user: True)
        await User.objects.aupdate(is_active=False)
        grants.add(connection, Identity(user=user), grants.events_seen)
        assert await client.closed() == 4401


async def test_what_could_not_be_said_is_made_up_for_when_the_layer_is_back(app, token):
    async with connect([]):
        hub = get_hub()
        told = []
        hub.send_control = told.append
        hub._layer_back(1.0)
        assert told == []
        hub.publish_failed(CONTROL, control_batch(changed("user", 1)).items, PublishError("away"))
        hub._layer_back(1.0)
        assert told == [{"is": "sweep"}]
        hub._layer_back(1.0)
        assert told == [{"is": "sweep"}]


async def test_a_sweep_that_another_process_asks_for_is_made(app, token):
    client = await by_token(app, token[1])
    await Token.objects.aupdate(revoked_at=timezone.now())
    get_hub().grants.receive(control_batch({"is": "sweep"}))
    assert await client.closed() == 4401
    await client.close()


async def test_what_this_process_says_is_done_here_at_once_wherever_the_layer_is(app, token):
    client = await by_token(app, token[1])
    hub = get_hub()
    hub.publish_queue.put = lambda *args: None  # nothing leaves
    await sync_to_async(token[0].revoke)()
    assert await client.closed() == 4401
    await client.close()


async def test_lost_control_events_do_not_reach_filters(caplog):
    async with connect([]):
        hub = get_hub()
        error = PublishError("the layer is away")
        hub.publish_failed(CONTROL, control_batch(changed("user", 1)).items, error)
        assert "the layer is away" in caplog.text


def test_control_events_are_small_and_contain_no_session_key():
    [item] = control_batch(changed("user", 1)).items
    assert json.loads(item.payload) == {"is": "changed", "kind": "user", "id": "1"}


async def test_a_recheck_that_no_thread_can_do_is_done_later(app, token, user, monkeypatch):
    monkeypatch.setattr(rechecks, "ASK_AGAIN", 0.01)
    real, failed = rechecks.run_query, []

    async def no_thread(call, *args, **kwargs):
        if args[0] is rechecks.find_invalid and len(failed) < 2:
            failed.append(call)
            raise RuntimeError("can't start new thread")
        return await real(call, *args, **kwargs)

    monkeypatch.setattr(rechecks, "run_query", no_thread)
    client = await by_token(app, token[1])
    user.is_active = False
    await user.asave()
    assert await client.closed() == 4401
    assert len(failed) == 2 and get_hub().counts["task_failed"] == 0
    await client.close()
