"""Tokens in the database."""

import datetime
import io

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, models, router
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from filtered_websocket.auth.keys import digest_of, new_key
from filtered_websocket.models import Console, State, Ticket, Token
from filtered_websocket.models import tokens as our_models

from .secrecy import PLAIN_KEY, database_dump, every_log_line, failing_database, report_of
from .snippets import named

pytestmark = pytest.mark.django_db
HOUR = datetime.timedelta(hours=1)


def create(name="lamp", **fields):
    return Token.objects.create_key(name=name, **fields)


@pytest.fixture
def plain_key(monkeypatch):
    """New keys are this one, whose ``repr`` hides nothing."""
    monkeypatch.setattr(our_models, "new_key", lambda: PLAIN_KEY)
    return PLAIN_KEY


# Creating


def test_a_new_token_is_found_by_its_key():
    token, key = create(user=User.objects.create(username="ann"))
    found = Token.objects.find(key)
    assert (found, found.user.username) == (token, "ann")
    assert found.flaw == ""


def test_of_a_key_only_its_digest_and_its_beginning_are_stored():
    token, key = create()
    token.refresh_from_db()
    assert (token.prefix, token.digest) == (key[:12], digest_of(key))


def test_what_a_token_is_allowed_unless_told():
    token, _ = create()
    assert (token.can_publish, token.can_subscribe, token.user, token.expires_at) == (
        *(True, True),
        *(None, None),
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"group": "token:1"}, "group"),
        ({"group": "x" * 1025}, "group"),
        ({"expires_at": "soon"}, "expires_at"),
    ],
)
def test_what_fields_may_not_hold_is_refused(fields, field):
    with pytest.raises(ValidationError) as caught:
        create(**fields)
    assert list(caught.value.message_dict) == [field]
    assert not Token.objects.exists()


def test_where_reading_is_routed_elsewhere_a_token_is_still_written_where_writing_is(monkeypatch):
    monkeypatch.setattr(router, "db_for_read", lambda *args, **hints: "replica")
    asked = []
    monkeypatch.setattr(models.Model, "save", lambda self, **how: asked.append(how["using"]))
    monkeypatch.setattr(Token, "full_clean", lambda self: None)
    create()
    assert asked == [None]


def test_a_token_without_a_group_has_one_of_its_own():
    own, _ = create()
    shared, _ = create(group="kitchen")
    assert own.group_name == f"token:{own.pk}"
    assert shared.group_name == "kitchen"


def test_a_token_is_shown_by_its_name_and_its_beginning():
    token, key = create()
    assert str(token) == f"lamp ({key[:12]}…)"


# Finding


def test_what_is_no_key_is_not_looked_up(django_assert_num_queries):
    token, _ = create()
    with django_assert_num_queries(0):
        for text in ("", "fws_", token.prefix, token.digest, "fws_" + "ä" * 43):
            assert Token.objects.find(text) is None


def test_whatever_is_wrong_with_a_key_it_costs_one_query(django_assert_num_queries):
    ann = User.objects.create(username="ann", is_active=False)
    expired = create(expires_at=timezone.now() - HOUR)[1]
    revoked_token, revoked = create()
    revoked_token.revoke()
    keys = {
        new_key(): None,
        expired: "token expired",
        revoked: "token revoked",
        create(user=ann)[1]: "user deactivated",
        create()[1]: "",
    }
    for key, flaw in keys.items():
        with django_assert_num_queries(1):
            found = Token.objects.find(key)
            assert (found and found.flaw) == flaw


def test_a_row_that_the_database_finds_but_whose_digest_differs_is_not_found(monkeypatch):
    token, key = create()
    monkeypatch.setattr(
        type(Token.objects.all()), "filter", lambda self, digest: Token.objects.exclude(pk=0)
    )
    assert Token.objects.find(key) == token
    assert Token.objects.find(new_key()) is None


# Naming


def test_a_token_is_named_by_its_id_or_by_a_beginning_of_its_key():
    token, key = create()
    create()
    for name in (str(token.pk), key[:8], key[:10], key[:12], key):
        assert Token.objects.named(name) == token


def test_an_id_may_be_as_long_as_a_beginning():
    token, _ = create()
    Token.objects.filter(pk=token.pk).update(id=1234567890)
    assert Token.objects.named("1234567890").pk == 1234567890


def test_upper_and_lower_case_are_two_beginnings():
    Token.objects.bulk_create(
        Token(name=prefix, prefix=prefix, digest=prefix)
        for prefix in ("fws_abcdefgh", "fws_ABCDefgh")
    )
    assert Token.objects.named("fws_ABCD").name == "fws_ABCDefgh"


def test_a_beginning_that_several_keys_share_is_refused():
    Token.objects.bulk_create(
        Token(name=digest, prefix=f"fws_abcdefg{digest}", digest=digest) for digest in "12"
    )
    with pytest.raises(
        ValueError, match=r"^'fws_abcd' begins the keys of 2 tokens: give more of it, or an id$"
    ):
        Token.objects.named("fws_abcd")


@pytest.mark.parametrize("name", ["", "fws_abc", "lamp", "²"])
def test_less_than_8_characters_name_no_token(name):
    with pytest.raises(ValueError, match="too short: give an id, or at least 8 characters"):
        Token.objects.named(name)


@pytest.mark.parametrize("name", ["3", "9" * 30, "fws_abcdefgh", "٣٣٣٣٣٣٣٣", "fws_%%%%%%%%"])
def test_what_names_no_token_is_said(name):
    create()
    Token.objects.update(id=1)
    with pytest.raises(
        ValueError, match=f"^'{name[:12]}' is neither the id of a token nor the beginning of a key"
    ):
        Token.objects.named(name)


def test_a_whole_key_is_not_said_again():
    key = new_key()
    with pytest.raises(ValueError, match=key[:12]) as caught:
        Token.objects.named(key)
    assert key[:13] not in str(caught.value)


# Rotating, revoking, expiring


def test_after_rotating_the_old_key_finds_nothing():
    token, old = create()
    new = token.rotate()
    assert Token.objects.find(old) is None
    assert Token.objects.find(new) == token
    assert Token.objects.get().prefix == new[:12]


def test_rotating_writes_nothing_but_the_key():
    token, _ = create()
    Token.objects.update(name="renamed meanwhile", revoked_at=timezone.now())
    token.rotate()
    again = Token.objects.get()
    assert (again.name, again.state) == ("renamed meanwhile", State.REVOKED)


def test_a_revoked_token_stays_revoked():
    token, key = create()
    token.revoke()
    first = Token.objects.find(key).revoked_at
    token.revoke()
    assert Token.objects.find(key).revoked_at == first is not None
    with pytest.raises(ValueError, match=r"^lamp \(.*…\) is revoked: create another token$"):
        token.rotate()
    assert Token.objects.find(key) == token


def test_a_token_expires_at_its_moment(monkeypatch):
    now = timezone.now()
    token, _ = create(expires_at=now)
    for moment, state in (
        (now - HOUR, State.ACTIVE),
        (now, State.EXPIRED),
        (now + HOUR, "expired"),
    ):
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment)
        assert token.state == state
        assert list(Token.objects.filter(State(state).where())) == [token]


def test_every_token_is_in_one_state():
    past, future = timezone.now() - HOUR, timezone.now() + HOUR
    for revoked_at in (None, past):
        for expires_at in (None, past, future):
            Token.objects.filter(pk=create(expires_at=expires_at)[0].pk).update(
                revoked_at=revoked_at
            )
    found = {state: list(Token.objects.filter(state.where())) for state in State}
    assert {state: len(tokens) for state, tokens in found.items()} == {
        State.ACTIVE: 2,
        State.EXPIRED: 1,
        State.REVOKED: 3,
    }
    assert all(token.state is state for state, tokens in found.items() for token in tokens)


def test_a_token_goes_with_its_user():
    ann = User.objects.create(username="ann")
    create(user=ann)
    ann.delete()
    assert not Token.objects.exists()


def test_the_documented_lines_work():
    exec(named("docs/tokens.md")["tokens from Python"], lines := {})
    assert Token.objects.find(lines["new"]) == lines["token"] == Token.objects.get()
    assert Token.objects.find(lines["key"]) is None
    assert Token.objects.get().state == "revoked"


# Last used


def test_last_used_is_written_once_a_minute_at_most(monkeypatch):
    (busy, _), (fresh, _), (unused, _) = create(), create(), create()
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    long_ago, just_now = now - HOUR, now - datetime.timedelta(seconds=30)
    Token.objects.filter(pk=busy.pk).update(last_used=long_ago)
    Token.objects.filter(pk=fresh.pk).update(last_used=just_now)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        Token.objects.note_used({busy.pk, fresh.pk})
    assert len(queries) == 1
    for token in (busy, fresh, unused):
        token.refresh_from_db()
    assert busy.last_used == now
    assert (fresh.last_used, unused.last_used) == (just_now, None)


def test_a_first_use_is_written(monkeypatch):
    token, _ = create()
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    Token.objects.note_used({token.pk})
    token.refresh_from_db()
    assert token.last_used == now


# Secrecy


def test_no_key_is_in_the_database_or_in_a_log_line_after_a_tokens_life(caplog):
    with every_log_line(caplog) as lines:
        token, key = create(user=User.objects.create(username="ann"))
        keys = [key, token.rotate()]
        for one in keys:
            Token.objects.find(one)
        Token.objects.note_used({token.pk})
        Token.objects.named(keys[1])
        token.revoke()
    dump, log = database_dump(), "\n".join(lines)
    assert token.prefix in dump and token.digest in dump
    assert token.prefix in log and "UPDATE" in log
    for one in keys:
        assert one not in dump
        assert one not in log


def test_an_exception_report_shows_what_is_not_sensitive():
    """Otherwise the tests below would prove nothing."""

    def careless(key):
        raise RuntimeError("no")

    assert PLAIN_KEY in report_of(careless, PLAIN_KEY)


@pytest.mark.parametrize("verb", ["SELECT", "INSERT"])
def test_no_report_of_a_creation_that_fails_has_the_key(plain_key, verb):
    with failing_database(verb):
        report = report_of(create)
    assert f"{verb} fails" in report
    assert plain_key not in report


def test_no_report_of_a_creation_that_is_refused_has_the_key(plain_key):
    report = report_of(create, name="x" * 101)
    assert "ValidationError" in report
    assert plain_key not in report


def test_no_report_of_a_digest_that_fails_has_the_key(plain_key, monkeypatch):
    monkeypatch.setattr(our_models, "digest_of", None)
    report = report_of(Token().set_new_key)
    assert "TypeError" in report
    assert plain_key not in report


def test_no_report_of_a_rotation_that_fails_has_the_key(plain_key):
    token, _ = create()
    with failing_database("UPDATE"):
        report = report_of(token.rotate)
    assert "UPDATE fails" in report
    assert plain_key not in report


def test_no_report_of_a_search_that_fails_has_the_key(plain_key):
    with failing_database("SELECT"):
        report = report_of(Token.objects.find, plain_key)
    assert "SELECT fails" in report
    assert plain_key not in report


def test_no_report_of_a_key_of_another_type_has_it(plain_key):
    report = report_of(Token.objects.find, plain_key.encode())
    assert "TypeError" in report
    assert plain_key not in report


def test_a_ticket_is_shown_by_its_user():
    ann = User.objects.create(username="ann")
    assert str(Ticket(digest="d", user=ann)) == f"ticket of {ann.pk}"


# The console's permissions


def test_the_console_has_permissions_and_no_table():
    found = Permission.objects.filter(content_type__model="console")
    assert {one.codename for one in found} == {
        *("view_console", "tee_console", "close_console", "unsubscribe_console"),
        "publish_console",
    }
    assert Console._meta.db_table not in connection.introspection.table_names()
    assert list(Console.objects.all()) == []


@pytest.mark.parametrize("every", [True, False])
def test_a_dump_of_the_database_passes_by_the_console(every):
    out = io.StringIO()
    call_command("dumpdata", "filtered_websocket", use_base_manager=every, stdout=out)
    # Since Django 6 with a line end.
    assert out.getvalue().strip() == "[]"


def test_staff_may_be_given_the_permission_to_see_the_console():
    ann = User.objects.create(username="ann", is_staff=True)
    name = "filtered_websocket.view_console"
    assert not ann.has_perm(name)
    ann.user_permissions.add(Permission.objects.get(codename="view_console"))
    assert User.objects.get(pk=ann.pk).has_perm(name)
