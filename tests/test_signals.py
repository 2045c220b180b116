"""Signals on tokens, users and sessions become control events."""

from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.test import Client, RequestFactory
from django.test.utils import isolate_apps
from django.utils import timezone

from filtered_websocket import publish, signals
from filtered_websocket.api import control
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.close_codes import UNAUTHORIZED
from filtered_websocket.models import Token
from filtered_websocket.signals import connect_signals
from filtered_websocket.testing import connect

pytestmark = pytest.mark.django_db(transaction=True)
User = get_user_model()


@pytest.fixture
def ann():
    return User.objects.create_user("ann", password="secret")


@pytest.fixture
def token():
    return Token.objects.create_key(name="bot")[0]


@pytest.fixture
def told(monkeypatch, ann, token):
    """The control events since ann and the token were made: (what, kind, id)."""
    events = []

    class Listener:
        """Stands in for a hub."""

        def send_control(self, event, item):
            events.append((event["is"], event["kind"], event["id"]))

        def call(self, function, *args):
            function(*args)

    monkeypatch.setattr(control, "queueing_hub", Listener)
    return events


def test_a_token_that_is_made_saved_rotated_revoked_or_deleted_is_told(token, told):
    changed = ("changed", "token", str(token.pk))
    token.save()
    token.rotate()
    token.revoke()
    token.delete()
    assert told == [changed] * 4
    other, _ = Token.objects.create_key(name="other")
    Token.objects.all().delete()
    assert told[4:] == [("changed", "token", str(other.pk))] * 2


def test_noting_that_a_token_was_used_tells_nothing(token, told):
    Token.objects.note_used({token.pk})
    assert Token.objects.get().last_used is not None and told == []


def test_a_user_who_is_saved_or_deleted_is_told(ann, told):
    changed = ("changed", "user", str(ann.pk))
    ann.is_active = False
    ann.save()
    ann.set_password("other")
    ann.save(update_fields=["password"])
    ann.save(update_fields={"is_active", "email"})
    assert told == [changed] * 3
    User.objects.filter(pk=ann.pk).delete()
    assert told == [changed] * 4


def test_what_ends_no_right_is_not_told(ann, told):
    ann.save(update_fields=["last_login"])
    ann.save(update_fields=[])
    User.objects.create_user("bob")
    Client().force_login(ann)
    assert told == []


def test_a_login_writes_last_login_and_tells_nothing(ann, told, monkeypatch):
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    assert Client().login(username="ann", password="secret")
    ann.refresh_from_db()
    assert ann.last_login == now
    assert told == []


def test_a_user_who_is_deleted_takes_along_tokens_that_are_told_too(ann, token, told):
    Token.objects.update(user=ann)
    pk, owner = token.pk, ann.pk
    ann.delete()
    assert sorted(told) == [("changed", "token", str(pk)), ("changed", "user", str(owner))]


def test_nothing_is_told_before_the_commit(ann, token, told):
    with transaction.atomic():
        ann.save()
        token.revoke()
        with transaction.atomic():
            token.delete()
        assert told == []
    assert [kind for _, kind, _ in told] == ["user", "token", "token"]


def test_what_is_rolled_back_is_never_told(ann, token, told):
    with transaction.atomic():
        ann.save()
        try:
            with transaction.atomic():
                token.delete()
                raise KeyError
        except KeyError:
            pass
    assert told == [("changed", "user", str(ann.pk))]
    with pytest.raises(KeyError), transaction.atomic():
        ann.delete()
        raise KeyError
    assert len(told) == 1


def test_a_site_that_commits_by_hand_can_save(ann, told):
    transaction.set_autocommit(False)
    try:
        ann.save()
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert told == [("changed", "user", str(ann.pk))]


@pytest.fixture
def connected_to(monkeypatch):
    """Connect again, and disconnect what that adds."""
    receivers = [signal.receivers[:] for signal in (post_save, post_delete, user_logged_out)]
    yield connect_signals
    for signal, before in zip((post_save, post_delete, user_logged_out), receivers, strict=True):
        signal.receivers[:] = before
        signal.sender_receivers_cache.clear()


def test_proxies_and_children_of_users_and_tokens_are_told(
    ann, token, told, connected_to, monkeypatch
):
    with isolate_apps("filtered_websocket"):

        class Member(User):
            class Meta:
                proxy = True
                app_label = "filtered_websocket"

        class Key(Token):
            class Meta:
                proxy = True
                app_label = "filtered_websocket"

    known = [Token, User, Member, Key]
    monkeypatch.setattr(signals.apps, "get_models", lambda: known)
    connected_to()
    Member.objects.get().save()
    Key.objects.get().save()
    assert told == [("changed", "user", str(ann.pk)), ("changed", "token", str(token.pk))]
    del told[:]
    Key.objects.get().delete()
    Member.objects.get().delete()
    assert {kind for _, kind, _ in told} == {"user", "token"}


def test_no_receiver_listens_to_every_model():
    # It would have every deletion of the site load what it deletes.
    ours = {signals._token_changed, signals._user_saved, signals._user_deleted}
    for signal in (post_save, post_delete):
        for (_, sender), *receiver in signal.receivers:
            if receiver[0]() in ours:
                assert sender != id(None)


def request_of(ann):
    request = RequestFactory().get("/")
    request.session = Client().session
    login(request, ann, "django.contrib.auth.backends.ModelBackend")
    request.session.save()
    return request


def test_logging_out_ends_the_session_and_no_other(ann, told):
    request = request_of(ann)
    key = request.session.session_key
    logout(request)
    assert told == [("close", "session", digest_of(key))]
    assert key not in repr(told)


def test_logging_out_is_told_when_the_session_has_ended_for_all(ann, told):
    request = request_of(ann)
    with transaction.atomic():
        logout(request)
        assert told == []
    assert len(told) == 1


@pytest.mark.parametrize("request_", [None, RequestFactory().get("/")])
def test_logging_out_without_a_session_tells_nothing(ann, told, request_):
    user_logged_out.send(User, request=request_, user=ann)
    assert told == []


def test_logging_out_of_a_session_that_was_never_saved_tells_nothing(ann, told):
    request = RequestFactory().get("/")
    request.session = type(Client().session)()
    user_logged_out.send(User, request=request, user=ann)
    assert told == []


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file", "signed_cookies"])
def test_when_a_logout_is_told_its_session_is_gone(ann, told, settings, monkeypatch, engine):
    """Who reads the session before it is gone connects before the event arrives, too."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    request = request_of(ann)
    key, store = request.session.session_key, type(request.session)
    exists = []
    monkeypatch.setattr(
        signals, "disconnect_session", lambda key: exists.append(store().exists(key))
    )
    logout(request)
    # A cookie exists where the browser has it.
    assert exists == [False]
    assert request.session.session_key in (None, "") and not store().exists(key)


def test_a_logout_costs_one_query_more_than_without_us(ann, told, django_assert_num_queries):
    request = request_of(ann)
    with django_assert_num_queries(3):
        logout(request)
    assert len(told) == 1


def test_a_session_that_is_none_of_djangos_is_told_of_as_well(ann, told):
    request = RequestFactory().get("/")
    request.session = SimpleNamespace(session_key="their own")
    user_logged_out.send(User, request=request, user=ann)
    assert len(told) == 1


@pytest.mark.parametrize("wrong", [RuntimeError("loop is closed"), ConnectionError("no Redis")])
def test_a_layer_that_fails_fails_neither_a_save_nor_a_logout(
    ann, token, monkeypatch, caplog, wrong
):
    def fail(*args):
        raise wrong

    monkeypatch.setattr(control, "queueing_hub", fail)
    request = request_of(ann)
    ann.is_active = False
    ann.save()
    with transaction.atomic():
        token.delete()
    logout(request)
    assert not User.objects.get().is_active and not Token.objects.exists()
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 3


def test_a_layer_that_cannot_be_made_fails_no_save(ann, settings, caplog):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nowhere.Layer"}}
    ann.save()
    assert "cannot send a control event" in caplog.text


def test_in_a_process_without_layer_and_connections_nothing_is_told(ann, settings, caplog):
    settings.CHANNEL_LAYERS = {}
    ann.save()
    assert publish._publisher is None and caplog.text == ""


async def test_a_user_who_is_deactivated_is_disconnected_and_others_are_not():
    ann, bob = [await User.objects.acreate(username=name) for name in ("ann", "bob")]
    async with connect([], user=ann) as one, connect([], user=bob) as other:
        ann.is_active = False
        await sync_to_async(ann.save)()
        assert await one.closed() == UNAUTHORIZED
        assert await other.received_nothing()
