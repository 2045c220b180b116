"""Apps that are made in the admin, where clients and backends use them."""

import asyncio
import hashlib
import hmac
import io
import json
import time

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from filtered_websocket import publish
from filtered_websocket.api import control
from filtered_websocket.groups import group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import PusherApp
from filtered_websocket.protocols.serving import served_protocols
from filtered_websocket.pusher import apps as module
from filtered_websocket.pusher import webhooks
from filtered_websocket.pusher.apps import app_of_id, app_of_key, known_apps

from ..waiting import until
from .clients import app, speak, with_app
from .receivers import Receiver

grouppatterns = [group("77:private-room-<room>", join=True)]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.pusher.admin_urls")]


@pytest.fixture(autouse=True)
def site(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = with_app(site={"PUSHER_APPS_IN_ADMIN": True, "GROUPS": __name__})
    monkeypatch.setattr(module, "_throttle", module.LogThrottle())


def make(**fields):
    """An app and its secret; the control event of its creation has been handled."""
    options = {"name": "shop", "app_id": "77", "key": "shop-key", "client_events": True, **fields}
    made = PusherApp.objects.create_app(**options)
    publish._close()
    return made


@pytest.fixture
def shop():
    return make()


def signed(secret, text, key="shop-key"):
    return f"{key}:{hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()}"


class Shopper:
    """A client of the app, which keeps the secret itself."""

    def __init__(self, secret, application=None):
        self.secret = str(secret)
        self.speaker = speak(application=application, key="shop-key")

    async def __aenter__(self):
        await self.speaker.__aenter__()
        return self

    async def __aexit__(self, *args):
        await self.speaker.__aexit__(*args)

    async def subscribe(self, channel):
        auth = signed(self.secret, f"{self.speaker.socket_id}:{channel}")
        await self.speaker.say("pusher:subscribe", {"channel": channel, "auth": auth})
        return await self.speaker.hear()


def call(method, path, secret, body=b"", key="shop-key"):
    """The answer to a call of the HTTP API, signed by hand."""
    query = {"auth_key": key, "auth_timestamp": str(int(time.time())), "auth_version": "1.0"}
    if body:
        query["body_md5"] = hashlib.md5(body).hexdigest()
    text = "&".join(f"{name}={query[name]}" for name in sorted(query))
    mark = signed(str(secret), f"{method}\n{path}\n{text}").partition(":")[2]
    url = f"{path}?{text}&auth_signature={mark}"
    browser = Client(headers={"host": "localhost"})
    if method == "GET":
        return browser.get(url)
    return browser.post(url, body, content_type="application/json")


def publish_by_api(secret, app_id="77"):
    body = json.dumps({"name": "sale", "channel": "news", "data": "1"}).encode()
    return call("POST", f"/apps/{app_id}/events", secret, body).status_code


# Clients


async def test_its_clients_subscribe_and_its_channels_are_its_own(shop):
    async with Shopper(shop[1]) as ann, speak() as other:
        said = await ann.subscribe("private-a")
        assert said["event"] == "pusher_internal:subscription_succeeded"
        await other.subscribe("private-a")
        await publish.apublish("hi", "77:private-a")
        assert (await ann.speaker.hear())["data"] == "hi"
        assert await other.quiet()


async def test_a_handshake_asks_the_database_once_for_all(shop):
    asked = []
    read = module._read_rows

    async with Shopper(shop[1]) as ann:
        known = known_apps(get_hub())
        known._read_rows = lambda rows: asked.append(1) or read(rows)
        for key in ("nobody", "another"):
            async with speak(key=key, connects=False) as stranger:
                assert await stranger.error() == 4001
        assert (await ann.subscribe("private-a"))["channel"] == "private-a"
        assert asked == []


async def test_nobody_is_looked_up_where_the_site_has_no_such_apps(shop, settings):
    settings.FILTERED_WEBSOCKET = with_app()
    async with speak(key="shop-key", connects=False) as ann:
        assert await ann.error() == 4001
    assert await sync_to_async(app_of_id)("77") is None


async def test_a_change_reaches_open_connections(shop):
    row, secret = shop
    async with Shopper(secret) as ann:
        await ann.subscribe("private-a")
        await ann.speaker.say("client-a", 1, channel="private-a")
        row.client_events = False
        await row.asave()
        [pushes] = known_apps(get_hub()).observers
        [session] = pushes.sessions.values()
        await until(lambda: not session.app.client_events)
        await ann.speaker.say("client-a", 1, channel="private-a")
        assert await ann.speaker.error() == 4301


async def test_a_secret_that_is_encrypted_again_disconnects_nobody(shop, settings):
    _, secret = shop
    async with Shopper(secret) as ann:
        known = known_apps(get_hub())
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another"
        await sync_to_async(call_command)("fws_encrypt", stdout=io.StringIO())
        settings.SECRET_KEY_FALLBACKS = []
        before = known.rows["shop-key"]
        known.changed()
        await until(lambda: known.rows["shop-key"] is not before)
        [pushes] = known.observers
        [session] = pushes.sessions.values()
        assert session.app is known.rows["shop-key"]
        assert (await ann.subscribe("private-a"))["channel"] == "private-a"


async def _disable(row):
    row.enabled = False
    await row.asave()


async def _delete(row):
    await row.adelete()


async def _replace(row):
    row.set_new_secret()
    await row.asave()


@pytest.mark.parametrize(("change", "code"), [(_disable, 4003), (_delete, 4001), (_replace, 4200)])
async def test_what_ends_an_app_closes_its_connections_and_no_others(shop, change, code):
    application = app()
    async with Shopper(shop[1], application) as ann, speak(application=application) as other:
        await change(shop[0])
        assert await ann.speaker.error() == code
        assert await ann.speaker.closed() == code
        assert await other.quiet()
    if code != 4200:
        async with speak(key="shop-key", connects=False) as again:
            assert await again.error() == code


async def test_after_a_new_secret_only_that_signs(shop):
    row, old = shop
    new = row.set_new_secret()
    await row.asave()
    async with Shopper(old) as ann:
        assert (await ann.subscribe("private-a"))["event"] == "pusher:subscription_error"
        ann.secret = str(new)
        said = await ann.subscribe("private-a")
        assert said["event"] == "pusher_internal:subscription_succeeded"


async def test_a_hub_that_may_have_missed_a_change_reads_them_again(shop):
    row, secret = shop
    async with Shopper(secret) as ann:
        await PusherApp.objects.filter(pk=row.pk).aupdate(enabled=False)  # without a signal
        get_hub().grants.recheck_all()
        assert await ann.speaker.error() == 4003


async def test_events_about_apps_are_nothing_to_a_hub_that_has_asked_for_none(shop):
    async with speak() as ann:
        await shop[0].asave()
        get_hub().grants.recheck_all()
        assert get_hub() not in module._known and await ann.quiet()


# Those that cannot be served


async def test_an_app_whose_secret_is_lost_is_refused_and_others_go_on(settings, caplog):
    await sync_to_async(make)()
    settings.SECRET_KEY = "another"
    await sync_to_async(make)(app_id="78", key="other-shop")
    async with speak(key="shop-key", connects=False) as ann:
        assert await ann.error() == 4003
    async with speak(key="other-shop"):
        pass
    told = [one.getMessage() for one in caplog.records if one.name.endswith("pusher.apps")]
    assert len(told) == 1
    assert told[0].startswith("the Pusher app '77' of the admin is refused: its secret cannot be")
    assert "make a new secret in the admin" in told[0]
    assert await sync_to_async(publish_by_api)("") == 401


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"app_id": "2"}, "an app of PUSHER_APPS has the same id or key"),
        ({"client_event_rate": "many"}, "it has CLIENT_EVENT_RATE 'many'"),
    ],
)
async def test_a_row_that_is_no_app_is_refused(shop, fields, words, caplog):
    await PusherApp.objects.aupdate(**fields)
    async with speak(key="shop-key", connects=False) as ann:
        assert await ann.error() == 4003
    assert words in caplog.text
    async with speak(key="other-key"):
        pass  # that of the settings


async def test_a_table_that_is_not_there_has_clients_come_back(shop, monkeypatch):
    monkeypatch.setattr(module, "app_rows", lambda: 1 / 0)
    async with speak(key="shop-key", connects=False) as ann:
        assert await ann.error() == 4200


# Backends, in processes without connections


def test_its_backends_publish(shop):
    row, secret = shop
    assert publish_by_api(secret) == 200
    assert publish_by_api("wrong") == 401
    assert publish_by_api(secret, "79") == 404
    row.enabled = False
    row.save()
    assert publish_by_api(secret) == 403


def test_a_process_that_is_told_nothing_asks_for_each_request(shop):
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert app_of_key("shop-key").id == app_of_id("77").id == "77"
        assert app_of_key("nobody") is None
    assert len(asked) == 3
    with CaptureQueriesContext(connection) as asked:
        assert app_of_id("1").key == "app-key" and app_of_id("7\x00") is None
    assert len(asked) == 0


async def test_a_process_that_is_told_asks_once(shop):
    async with Shopper(shop[1]):
        find = sync_to_async(app_of_id)
        found = await find("77")
        assert found is await sync_to_async(app_of_key)("shop-key") and found.id == "77"
        assert await find("78") is None
        get_hub().layer_is_lost = True
        try:
            assert await find("77") is not found
        finally:
            get_hub().layer_is_lost = False


def test_a_page_signs_for_it(shop, django_user_model):
    browser = Client(headers={"host": "localhost"})
    browser.force_login(django_user_model.objects.create_user("ann"))
    form = {"socket_id": "1.2", "channel_name": "private-room-1"}
    answer = browser.post("/auth", form)
    assert answer.json()["auth"] == signed(str(shop[1]), "1.2:private-room-1")
    PusherApp.objects.update(enabled=False)
    assert browser.post("/auth", form).status_code == 403


# Events, webhooks and routes


def test_processes_are_told_only_where_the_site_has_such_apps(shop, settings, monkeypatch):
    sent = []
    monkeypatch.setattr(control, "send", sent.append)
    shop[0].save()
    shop[0].delete()
    assert [{**one, "nonce": ""} for one in sent] == [
        {"is": "count", "nonce": "", "tokens": {}, "pusher_apps": "77"}
    ] * 2
    settings.FILTERED_WEBSOCKET = with_app()
    make()[0].delete()
    assert len(sent) == 2


async def test_its_webhooks_are_told(monkeypatch):
    monkeypatch.setattr(webhooks, "SETTLE", 0.05)
    with Receiver() as receiver:
        hook = {"URL": receiver.url, "EVENTS": ["member_added"]}
        _, secret = await sync_to_async(make)(webhooks=[hook])
        async with Shopper(secret) as ann:
            data = json.dumps({"user_id": "5"})
            auth = signed(ann.secret, f"{ann.speaker.socket_id}:presence-a:{data}")
            fields = {"channel": "presence-a", "auth": auth, "channel_data": data}
            await ann.speaker.say("pusher:subscribe", fields)
            await ann.speaker.hear()
            [told] = await asyncio.to_thread(receiver.told, 1)
        assert told == {"name": "member_added", "channel": "presence-a", "user_id": "5"}
    await asyncio.to_thread(webhooks.close)


def test_the_path_of_the_protocol_is_served_for_such_apps_alone(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS_IN_ADMIN": True}
    assert "pusher" in served_protocols()
    settings.FILTERED_WEBSOCKET = {}
    assert "pusher" not in served_protocols()
