"""Tickets, and the view that issues them."""

import datetime
import threading
from importlib import import_module

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.signing import TimestampSigner
from django.db import connections
from django.db.models import QuerySet
from django.test import Client
from django.urls import include, path, reverse
from django.utils import timezone

from filtered_websocket.auth import tickets
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.auth.tickets import LIFETIME, issue, redeem
from filtered_websocket.models import Ticket

pytestmark = pytest.mark.django_db
User = get_user_model()
URL = "/ticket/"


@pytest.fixture
def ann():
    return User.objects.create_user("ann", password="secret")


@pytest.fixture
def browser(ann):
    """A browser in which ann has logged in."""
    client = Client()
    client.force_login(ann)
    return client


@pytest.fixture
def ticket(ann, browser):
    return issue(ann, browser.session)


def test_a_ticket_lets_its_user_in_once(ann, browser, ticket):
    identity = redeem(ticket)
    assert identity.user == ann and identity.token is None
    assert identity.session_key == browser.session.session_key
    assert identity.session_hash == ann.get_session_auth_hash()
    assert redeem(ticket) is None
    assert not Ticket.objects.exists()


def test_the_row_does_not_tell_the_ticket(ticket):
    row = Ticket.objects.get()
    nonce = ticket.split(".")[0]
    assert row.digest == digest_of(nonce)
    assert nonce not in repr(vars(row)) + str(row) and redeem(row.digest) is None


def test_each_ticket_is_another_one_and_fits_into_a_url(ann, browser):
    made = {issue(ann, browser.session) for _ in range(5)}
    assert len(made) == 5
    for one in made:
        assert set(one) <= set("-_.0123456789") | {
            chr(n) for n in (*range(65, 91), *range(97, 123))
        }
    assert all(redeem(one) for one in made)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ticket: "",
        lambda ticket: "x",
        lambda ticket: "x" * 65_536,
        lambda ticket: "ä\0\ud800",
        lambda ticket: ticket[:-1],
        lambda ticket: ticket + "x",
        lambda ticket: "x" + ticket[1:] if ticket[0] != "x" else "y" + ticket[1:],
        lambda ticket: ticket.rpartition(".")[0],
        lambda ticket: TimestampSigner(sep=".", salt="other").sign(ticket.split(".")[0]),
        lambda ticket: TimestampSigner(key="other", sep=".", salt="filtered_websocket.ticket").sign(
            ticket.split(".")[0]
        ),
    ],
)
def test_what_was_not_signed_here_is_refused_without_a_query(
    ticket, spoil, django_assert_num_queries
):
    spoilt = spoil(ticket)
    with django_assert_num_queries(0):
        assert redeem(spoilt) is None
    assert redeem(ticket) is not None


def test_what_is_signed_and_no_ticket_is_refused():
    assert redeem(tickets._signer().sign("x")) is None


def test_a_secret_key_that_is_a_fallback_still_counts(ticket, settings):
    old, settings.SECRET_KEY = settings.SECRET_KEY, "new"
    assert redeem(ticket) is None
    settings.SECRET_KEY_FALLBACKS = [old]
    assert redeem(ticket) is not None


def test_a_ticket_has_expired_by_its_signature_without_a_query(
    ann, browser, monkeypatch, django_assert_num_queries
):
    monkeypatch.setattr("django.core.signing.time.time", lambda: 1_000_000_000.0)
    old = issue(ann, browser.session)
    monkeypatch.undo()
    with django_assert_num_queries(0):
        assert redeem(old) is None


def test_a_ticket_has_expired_by_its_row(ticket):
    Ticket.objects.update(expires_at=timezone.now())
    assert redeem(ticket) is None
    assert not Ticket.objects.exists()


def test_a_ticket_expires_when_it_says(ann, browser, monkeypatch):
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    issue(ann, browser.session)
    assert Ticket.objects.get().expires_at == now + datetime.timedelta(seconds=LIFETIME)
    assert LIFETIME <= 30


def test_issuing_takes_away_what_nobody_used_in_time_and_nothing_else(ann, browser):
    for _ in range(3):
        issue(ann, browser.session)
    Ticket.objects.update(expires_at=timezone.now())
    fresh = [issue(ann, browser.session), issue(ann, browser.session)]
    assert Ticket.objects.count() == 2
    assert all(redeem(one) for one in fresh)


def log_out(browser, ann):
    browser.logout()


def end_the_session(browser, ann):
    Session.objects.all().delete()


def change_the_password(browser, ann):
    ann.set_password("other")
    ann.save()


def deactivate(browser, ann):
    User.objects.update(is_active=False)


def delete(browser, ann):
    ann.delete()


@pytest.mark.parametrize(
    "happens", [log_out, end_the_session, change_the_password, deactivate, delete]
)
def test_a_ticket_ends_with_what_it_depends_on(ann, browser, ticket, happens):
    happens(browser, ann)
    assert redeem(ticket) is None
    assert not Ticket.objects.exists()


def test_a_user_without_a_session_gets_a_ticket_that_depends_on_the_user_alone(ann):
    session = import_module("django.contrib.sessions.backends.db").SessionStore()
    identity = redeem(issue(ann, session))
    assert identity.user == ann
    assert identity.session_key is None and identity.session_hash is None


class Replicated:
    """Reads go to a database that does not exist."""

    def db_for_read(self, model, **hints):
        return "replica"


def test_a_ticket_is_looked_for_where_it_was_written(ticket, settings):
    settings.DATABASE_ROUTERS = [Replicated()]
    assert redeem(ticket) is not None


@pytest.fixture
def file_database(tmp_path, transactional_db):
    """The default database is a file for now: locked and shared as a site's is."""
    if connections["default"].vendor != "sqlite":
        yield  # it is a site's
        return
    former, kept = connections.settings["default"]["NAME"], connections["default"]
    connections.settings["default"]["NAME"] = str(tmp_path / "site.sqlite3")
    del connections["default"]
    try:
        call_command("migrate", verbosity=0)
        yield
        connections["default"].close()
    finally:
        connections["default"] = kept
        connections.settings["default"]["NAME"] = former


@pytest.mark.repeats
def test_of_many_threads_at_the_same_moment_one_gets_in(file_database, monkeypatch):
    count = 4
    ann = User.objects.create_user("ann")
    session = import_module("django.contrib.sessions.backends.db").SessionStore()
    ticket = issue(ann, session)
    # All have found the row before the first takes it away.
    meet = threading.Barrier(count)
    delete = QuerySet.delete

    def late(rows):
        meet.wait(timeout=30)
        return delete(rows)

    monkeypatch.setattr(QuerySet, "delete", late)
    got = []

    def come():
        try:
            got.append(redeem(ticket))
        finally:
            connections["default"].close()

    threads = [threading.Thread(target=come) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == count and meet.n_waiting == 0
    assert [identity.user for identity in got if identity] == [ann]


def test_who_is_logged_in_gets_a_ticket_that_works(ann, browser):
    answer = browser.post(URL)
    assert answer.status_code == 200 and answer["content-type"] == "application/json"
    assert answer.json() == {"ticket": answer.json()["ticket"], "expires_in": LIFETIME}
    assert redeem(answer.json()["ticket"]).user == ann


def test_who_is_not_logged_in_gets_none(ann):
    answer = Client().post(URL)
    assert (answer.status_code, answer.json()) == (403, {"error": "log in first"})
    assert not Ticket.objects.exists()


def test_who_was_deactivated_gets_none(ann, browser):
    deactivate(browser, ann)
    assert browser.post(URL).status_code == 403


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options"])
def test_a_ticket_must_be_posted_for(browser, method):
    answer = getattr(browser, method)(URL)
    assert answer.status_code == 405 and answer["allow"] == "POST"
    assert not Ticket.objects.exists()


def test_another_sites_page_cannot_post_for_one(ann):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(ann)
    assert strict.post(URL).status_code == 403
    assert not Ticket.objects.exists()


def test_no_answer_is_kept_by_any_cache(browser):
    for answer in (browser.post(URL), browser.get(URL), Client().post(URL)):
        assert "no-store" in answer["cache-control"] and "private" in answer["cache-control"]


def test_the_apps_own_urls_have_the_view():
    assert reverse("filtered_websocket:ticket", urlconf=own_urls()) == "/ws/ticket/"


def own_urls():
    return type("urls", (), {"urlpatterns": [path("ws/", include("filtered_websocket.urls"))]})
