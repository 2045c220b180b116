"""Tokens in Django's admin."""

import datetime
import re
from html import escape

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from filtered_websocket.api import control
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.models import Token
from filtered_websocket.models import tokens as our_models

from .secrecy import PLAIN_KEY, database_dump, every_log_line, failing_database, report_of

pytestmark = pytest.mark.django_db
DASH = "\N{EN DASH}"
HOSTILE = "<img src=x onerror=alert(1)>"
LIST = "/admin/filtered_websocket/token/"
ADD = LIST + "add/"


def page(token, step="change"):
    return f"{LIST}{token.pk}/{step}/"


def form(name="lamp", **fields):
    written = {"name": name, "can_publish": "on", "can_subscribe": "on"}
    return {**written, "expires_at_0": "", "expires_at_1": "", **fields}


def staff(*permissions):
    """A browser of a staff user with these permissions."""
    user = User.objects.create(username="-".join(permissions) or "nobody", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return browser_of(user)


def browser_of(user):
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client


@pytest.fixture(autouse=True)
def nobody_is_waited_for(monkeypatch):
    """There is no other process that could say how many connections it has."""
    monkeypatch.setattr(control, "WAIT", 0)


@pytest.fixture
def admin():
    """The browser of a superuser."""
    return browser_of(User.objects.create_superuser("boss"))


@pytest.fixture
def token():
    return Token.objects.create_key(name="lamp")[0]


def shown_key(response):
    assert response.status_code == 200
    keys = re.findall(r"fws_[A-Za-z0-9_-]{43}", response.content.decode())
    assert len(keys) == 1
    return keys[0]


def text_of(response):
    assert response.status_code == 200
    return response.content.decode()


def notices(response):
    return [str(message) for message in get_messages(response.wsgi_request)]


# Creating


def test_the_answer_to_creating_a_token_shows_its_key_once(admin):
    response = admin.post(ADD, form(group="kitchen", can_publish=""))
    token = Token.objects.find(shown_key(response))
    assert (token.name, token.group) == ("lamp", "kitchen")
    assert (token.can_publish, token.can_subscribe) == (False, True)


def test_the_page_with_a_key_is_kept_by_no_cache_and_has_no_inline_script(admin):
    response = admin.post(ADD, form())
    assert "no-store" in response["Cache-Control"]
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text_of(response), re.DOTALL)
    assert any("filtered_websocket/admin.js" in attributes for attributes, _ in scripts)
    assert all("src=" in attributes and not code.strip() for attributes, code in scripts)
    assert not re.search(r"<[^>]+\s(on\w+|style)=", text_of(response))


@pytest.mark.parametrize("way", ["_save", "_continue", "_addanother", "_popup"])
def test_every_way_of_saving_shows_the_key(admin, way):
    assert Token.objects.find(shown_key(admin.post(ADD, form(**{way: "1"}))))


def test_creating_offers_one_way_of_saving(admin):
    shown = text_of(admin.get(ADD))
    assert 'name="_save"' in shown
    assert "_continue" not in shown
    assert "_addanother" not in shown


def test_posting_again_makes_another_token_with_another_key(admin):
    first, second = (shown_key(admin.post(ADD, form())) for _ in range(2))
    assert first != second
    assert Token.objects.count() == 2


def test_a_form_with_a_mistake_makes_no_token_and_shows_no_key(admin):
    response = admin.post(ADD, form(group="token:1"))
    assert "token:" in text_of(response)
    assert "fws_" not in text_of(response)
    assert not Token.objects.exists()


def test_the_page_with_a_key_leads_back_where_one_may_go():
    may_see = staff("add_token", "view_token").post(ADD, form())
    may_not = staff("add_token").post(ADD, form())
    assert f'href="{page(Token.objects.last())}">Done' in text_of(may_see)
    assert 'href="/admin/">Done' in text_of(may_not)
    assert LIST + '"' not in text_of(may_not)


def test_a_token_whose_key_cannot_be_shown_is_undone(admin, monkeypatch):
    monkeypatch.setattr("filtered_websocket.admin.steps.render", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        admin.post(ADD, form())
    assert not Token.objects.exists()
    assert not LogEntry.objects.exists()


# Changing


def test_what_may_be_changed_is_all_but_the_key_and_the_user(admin, token):
    shown = text_of(admin.get(page(token)))
    inputs = set(re.findall(r'name="([a-z]\w+)"', shown[shown.index('id="token_form"') :]))
    assert inputs == {
        *("name", "group", "can_publish", "can_subscribe", "can_call_api"),
        *("expires_at_0", "expires_at_1", "csrfmiddlewaretoken"),
    }
    assert token.prefix in shown


def test_a_change_is_saved(admin, token):
    expiry = {"expires_at_0": "2100-01-02", "expires_at_1": "03:04"}
    response = admin.post(page(token), form("door", **expiry, user="7"))
    assert response.status_code == 302
    again = Token.objects.get()
    assert (again.name, again.user) == ("door", None)
    assert again.expires_at == datetime.datetime(2100, 1, 2, 3, 4, tzinfo=datetime.UTC)


def test_a_change_does_not_undo_what_happens_meanwhile(admin, token, monkeypatch):
    save = Token.save

    def late_save(self, **how):
        Token.objects.update(revoked_at=timezone.now())
        save(self, **how)

    monkeypatch.setattr(Token, "save", late_save)
    admin.post(page(token), form("door"))
    again = Token.objects.get()
    assert (again.name, again.state) == ("door", "revoked")


def test_a_copy_by_the_form_of_another_token_has_a_key_of_its_own(admin, token):
    key = shown_key(admin.post(page(token), form("copy", _saveasnew="1")))
    assert Token.objects.find(key).name == "copy"
    assert Token.objects.get(pk=token.pk).digest == token.digest


# Rotating and revoking


def test_rotating_asks_first_and_then_shows_the_new_key_once(admin, token):
    asked = admin.get(page(token, "rotate"))
    assert "old key stops working" in text_of(asked)
    assert Token.objects.get().digest == token.digest
    response = admin.post(page(token, "rotate"))
    key = shown_key(response)
    assert "no-store" in response["Cache-Control"]
    assert Token.objects.find(key) == token
    assert [entry.change_message for entry in LogEntry.objects.all()] == ["Rotated the key."]


def test_a_rotation_whose_page_fails_is_undone(admin, token, monkeypatch):
    monkeypatch.setattr("filtered_websocket.admin.steps.render", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        admin.post(page(token, "rotate"))
    assert Token.objects.get().digest == token.digest
    assert not LogEntry.objects.exists()


def test_revoking_asks_first(admin, token):
    assert "for ever" in text_of(admin.get(page(token, "revoke")))
    assert Token.objects.get().state == "active"
    response = admin.post(page(token, "revoke"))
    assert response["Location"] == page(token)
    assert Token.objects.get().state == "revoked"
    assert [entry.change_message for entry in LogEntry.objects.all()] == ["Revoked."]


@pytest.mark.parametrize("step", ["rotate", "revoke"])
def test_a_revoked_token_can_neither_be_rotated_nor_revoked(admin, token, step):
    assert step in text_of(admin.get(page(token))).lower()
    token.revoke()
    assert page(token, step) not in text_of(admin.get(page(token)))
    for ask in (admin.get, admin.post):
        response = ask(page(token, step))
        assert response["Location"] == page(token)
        assert notices(response)[-1] == f"The token “{token}” is revoked already."
    assert Token.objects.get().digest == token.digest
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("step", ["rotate", "revoke"])
@pytest.mark.parametrize("pk", ["7", "x"])
def test_steps_of_a_token_that_is_not_there_are_not_found(admin, step, pk):
    assert admin.get(f"{LIST}{pk}/{step}/").status_code == 404
    assert admin.post(f"{LIST}{pk}/{step}/").status_code == 404


@pytest.mark.parametrize("step", ["rotate", "revoke"])
def test_steps_are_not_taken_from_other_sites(token, step):
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    client.force_login(User.objects.create_superuser("boss"))
    assert client.post(page(token, step)).status_code == 403
    assert (Token.objects.get().digest, Token.objects.get().state) == (token.digest, "active")


def test_many_tokens_are_revoked_at_once(admin):
    tokens = [Token.objects.create_key(name=name)[0] for name in "abc"]
    tokens[0].revoke()
    first = Token.objects.get(name="a").revoked_at
    chosen = {"action": "revoke_selected", "_selected_action": [t.pk for t in tokens[:2]]}
    response = admin.post(LIST, chosen)
    assert notices(response) == ["1 token was revoked."]
    states = {token.name: token.state for token in Token.objects.all()}
    assert states == {"a": "revoked", "b": "revoked", "c": "active"}
    assert Token.objects.get(name="a").revoked_at == first
    assert [entry.object_id for entry in LogEntry.objects.all()] == [str(tokens[1].pk)]


# The list


def names(response):
    return set(re.findall(r"/change/[^>]*>([^<]+)</a></th>", text_of(response)))


@pytest.fixture
def some_tokens():
    ann = User.objects.create(username="ann-of-green")
    past = timezone.now() - datetime.timedelta(days=1)
    create = Token.objects.create_key
    create(name="active")
    create(name="expired", expires_at=past)
    create(name="revoked", expires_at=past)[0].revoke()
    create(name="hers", user=ann)
    return {token.name: token for token in Token.objects.all()}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"active", "expired", "revoked", "hers"}),
        ("?state=active", {"active", "hers"}),
        ("?state=expired", {"expired"}),
        ("?state=revoked", {"revoked"}),
        ("?state=odd", {"active", "expired", "revoked", "hers"}),
        ("?q=activ", {"active"}),
        ("?q=of-green", {"hers"}),
        ("?q=nothing", set()),
    ],
)
def test_the_list_is_filtered_by_state_and_searched(admin, some_tokens, query, found):
    assert names(admin.get(LIST + query)) == found


def test_tokens_are_found_by_how_their_key_begins(admin, some_tokens):
    token = some_tokens["hers"]
    assert names(admin.get(LIST, {"q": token.prefix[:10]})) == {"hers"}


def test_a_whole_key_that_is_searched_for_is_cut(admin):
    token, key = Token.objects.create_key(name="lamp")
    response = admin.get(LIST, {"q": key, "state": "active"})
    assert response["Location"] == f"{LIST}?q={token.prefix}&state=active"
    assert names(admin.get(response["Location"])) == {"lamp"}


def test_the_list_says_what_a_user_who_is_deactivated_means(admin, some_tokens):
    User.objects.update(is_active=False, is_superuser=True)
    User.objects.filter(username="boss").update(is_active=True)
    shown = text_of(admin.get(LIST))
    assert shown.count("user deactivated") == 1


def test_the_list_says_how_far_away_a_moment_is(admin, some_tokens):
    later = timezone.now() + datetime.timedelta(days=30)
    Token.objects.filter(name="hers").update(expires_at=later)
    times = re.findall(
        r'field-expires[^>]*>(?:<time[^>]*title="([^"]+)">)?([^<]+)<', text_of(admin.get(LIST))
    )
    assert [words.replace("\xa0", " ") for _, words in times] == [
        "in 4 weeks",
        "1 day ago",
        "1 day ago",
        "-",
    ]
    assert str(later.year) in times[0][0]


@pytest.mark.parametrize(("secure", "scheme"), [(True, "wss"), (False, "ws")])
def test_the_page_with_a_key_has_it_once_and_the_address_of_this_site(admin, secure, scheme):
    response = admin.post(ADD, form(), secure=secure)
    shown_key(response)
    assert f'new WebSocket("{scheme}://localhost/"' in text_of(response)


@pytest.mark.parametrize("lookup", ["digest", "digest__startswith", "digest__gt"])
def test_nobody_can_ask_for_a_digest(admin, token, lookup):
    assert admin.get(LIST, {lookup: token.digest[:4]}).status_code == 400


def test_the_list_costs_the_same_however_many_tokens(admin, django_assert_max_num_queries):
    for number in range(30):
        user = User.objects.create(username=f"user{number}")
        Token.objects.create_key(name=f"token{number}", user=user)
    with django_assert_max_num_queries(6):
        assert len(names(admin.get(LIST))) == 30


@pytest.mark.parametrize(
    ("counts", "shown"), [(None, [DASH, DASH]), ({}, ["0", "0"]), ({"b": 1234}, ["1234", "0"])]
)
def test_live_connections_are_asked_for_once_a_page(admin, monkeypatch, counts, shown):
    tokens = {name: Token.objects.create_key(name=name)[0] for name in "ab"}
    by_id = counts and {tokens[name].pk: count for name, count in counts.items()}
    asked = []

    def count(ids):
        asked.append(list(ids))
        return counts if by_id is None else by_id

    monkeypatch.setattr(control, "count_connections", count)
    listed = text_of(admin.get(LIST))
    assert re.findall(r'"field-connections">([^<]*)<', listed) == shown
    assert asked == [[tokens["b"].pk, tokens["a"].pk]]
    assert f">{shown[0]}</div>" in text_of(admin.get(page(tokens["b"])))
    assert asked[1:] == [[tokens["b"].pk]]


def test_actions_ask_for_no_connections(admin, token, monkeypatch):
    monkeypatch.setattr(control, "count_connections", None)
    chosen = {"action": "revoke_selected", "_selected_action": [token.pk]}
    assert admin.post(LIST, chosen).status_code == 302
    assert admin.post(LIST, {**chosen, "action": "delete_selected"}).status_code == 200


# Permissions


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        (("view_token",), {"list", "view"}),
        (("add_token",), {"add"}),
        (("change_token",), {"list", "view", "change", "rotate", "revoke", "revoke many"}),
        (("delete_token",), {"delete"}),
    ],
)
def test_permissions_are_those_of_django(permissions, allowed):
    client = staff(*permissions)

    def fresh():
        return Token.objects.create_key(name="lamp")[0]

    def ask(do):
        token = fresh()
        response = do(token)
        token.refresh_from_db()
        changed = (token.name, token.state) != ("lamp", "active")
        return response.status_code, changed

    requests = {
        "list": lambda token: client.get(LIST),
        "view": lambda token: client.get(page(token)),
        "add": lambda token: client.post(ADD, form()),
        "change": lambda token: client.post(page(token), form("changed")),
        "rotate": lambda token: client.post(page(token, "rotate")),
        "revoke": lambda token: client.post(page(token, "revoke")),
        "revoke many": lambda token: client.post(
            LIST, {"action": "revoke_selected", "_selected_action": [token.pk]}
        ),
        "delete": lambda token: client.get(page(token, "delete")),
    }
    answers = {name: ask(do) for name, do in requests.items()}
    # Django shows the list again where an action is not offered.
    if permissions == ("view_token",):
        assert answers.pop("revoke many") == (200, False)
    assert {name for name, (status, _) in answers.items() if status != 403} == allowed
    changed = {name for name, (_, changed) in answers.items() if changed}
    assert changed == allowed & {"change", "revoke", "revoke many"}
    assert client.get(page(fresh(), "rotate")).status_code == (200 if "rotate" in allowed else 403)


def test_who_may_only_look_is_offered_no_steps(token):
    shown = text_of(staff("view_token").get(page(token)))
    assert page(token, "rotate") not in shown
    assert page(token, "revoke") not in shown


def test_who_does_not_work_here_sees_nothing(token):
    client = browser_of(User.objects.create(username="ann"))
    for url in (LIST, ADD, page(token), page(token, "rotate"), page(token, "revoke")):
        for ask in (client.get, client.post):
            assert ask(url)["Location"].startswith("/admin/login/")
    assert Token.objects.get().digest == token.digest


# Secrecy


def pages_about(token):
    pages = [LIST, f"{LIST}?q={token.prefix}", f"{LIST}?state=active", "/admin/"]
    return pages + [page(token, s) for s in ("change", "delete", "history", "rotate", "revoke")]


@pytest.mark.repeats
def test_after_its_creation_a_key_is_nowhere(admin, caplog):
    with every_log_line(caplog) as lines:
        keys = [shown_key(admin.post(ADD, form()))]
        token = Token.objects.get()
        pages = [text_of(admin.get(url)) for url in pages_about(token)]
        keys.append(shown_key(admin.post(page(token, "rotate"))))
        admin.post(page(token), form("door"))
        pages += [text_of(admin.get(url)) for url in pages_about(token)]
        admin.post(page(token, "revoke"))
        chosen = {"action": "delete_selected", "_selected_action": [token.pk]}
        pages.append(text_of(admin.post(LIST, chosen)))
    sessions = [session.get_decoded() for session in Session.objects.all()]
    log = "\n".join(lines)
    assert LogEntry.objects.count() == 4
    assert "django.template" in log and "INSERT" in log
    for place in (*pages, database_dump(), log, repr(sessions)):
        assert not any(key in place for key in keys)
    for shown in pages:
        assert not any(digest_of(key) in shown for key in keys)


@pytest.mark.repeats
def test_names_are_shown_as_text_never_as_html(admin):
    user = User.objects.create(username=HOSTILE)
    response = admin.post(ADD, form(HOSTILE, group=HOSTILE, user=user.pk))
    token = Token.objects.get()
    pages = [text_of(response)] + [text_of(admin.get(url)) for url in pages_about(token)]
    pages.append(text_of(admin.post(page(token), form(HOSTILE), follow=True)))
    chosen = {"action": "delete_selected", "_selected_action": [token.pk]}
    pages.append(text_of(admin.post(LIST, chosen)))
    pages.append(text_of(admin.post(page(token, "revoke"), follow=True)))
    for shown in pages:
        assert "<img src=x" not in shown
        assert escape(HOSTILE) in shown


@pytest.fixture
def plain_key(monkeypatch):
    """New keys are this one, whose ``repr`` hides nothing."""
    monkeypatch.setattr(our_models, "new_key", lambda: PLAIN_KEY)
    return PLAIN_KEY


@pytest.mark.repeats
@pytest.mark.parametrize("verb", ['INSERT INTO "fil', 'INSERT INTO "django_admin_log'])
def test_no_report_of_a_creation_that_fails_has_the_key(admin, plain_key, verb):
    with failing_database(verb):
        report = report_of(admin.post, ADD, form())
    assert "fails" in report and "changeform_view" in report
    assert plain_key not in report


@pytest.mark.parametrize("verb", ['UPDATE "fil', 'INSERT INTO "django_admin_log'])
def test_no_report_of_a_rotation_that_fails_has_the_key(admin, plain_key, token, verb):
    with failing_database(verb):
        report = report_of(admin.post, page(token, "rotate"))
    assert "fails" in report and "rotate_view" in report
    assert plain_key not in report


@pytest.mark.parametrize("step", ["add", "rotate"])
def test_no_report_of_a_page_that_fails_has_the_key(admin, token, plain_key, monkeypatch, step):
    monkeypatch.setattr("filtered_websocket.admin.steps.render", lambda *args: 1 / 0)
    report = report_of(admin.post, ADD if step == "add" else page(token, step), form())
    assert "ZeroDivisionError" in report and "_show_key" in report
    assert plain_key not in report


@pytest.mark.repeats
@pytest.mark.parametrize("step", ["add", "rotate"])
def test_no_report_of_a_template_that_fails_has_the_key(admin, token, settings, monkeypatch, step):
    """As where collectstatic has not run: the frames of templates show all they were given."""
    backend = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": backend}}
    settings.STATIC_ROOT = "nowhere"
    made, make = [], our_models.new_key
    monkeypatch.setattr(our_models, "new_key", lambda: made.append(make()) or made[-1])
    report = report_of(admin.post, ADD if step == "add" else page(token, step), form())
    assert "Missing staticfiles manifest entry" in report and repr(made[0])[1:-1] in report
    assert made[0] not in report


def test_urls_have_names():
    assert reverse("admin:filtered_websocket_token_rotate", args=(3,)) == f"{LIST}3/rotate/"
    assert reverse("admin:filtered_websocket_token_revoke", args=(3,)) == f"{LIST}3/revoke/"
