"""``manage.py fws_token``."""

import datetime
from io import StringIO
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from filtered_websocket.auth.keys import is_key, new_key
from filtered_websocket.management.commands.fws_token import Command
from filtered_websocket.models import Token
from filtered_websocket.models import tokens as our_models

from ..secrecy import PLAIN_KEY, database_dump, every_log_line, failing_database, report_of

pytestmark = pytest.mark.django_db


UNHEARD = (
    "no channel layer reaches other processes: connections with the old key are closed within"
    " RECHECK (60 s)\n"
)


def run(*arguments):
    """What it says on standard output and on standard error."""
    out, err = StringIO(), StringIO()
    call_command("fws_token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refusal(*arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def typed(capsys, *arguments):
    """The same as from a shell: exit status, standard output, standard error."""
    status = 0
    try:
        # A command ends with its process; the test goes on with its connection.
        with mock.patch.object(connections, "close_all"):
            Command().run_from_argv(["manage.py", "fws_token", *arguments])
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


# create


def test_create_prints_the_key_alone():
    out, err = run("create", "--name", "lamp")
    assert out.endswith("\n") and is_key(out[:-1])
    token = Token.objects.find(out[:-1])
    created, use = err.splitlines()
    assert created == (
        f"created token {token.pk}, lamp ({token.prefix}…): its key is not shown again"
    )
    assert "Authorization: Token KEY" in use
    assert '["fws", "fws.token.KEY"]' in use


def test_a_token_is_what_its_options_say():
    ann = User.objects.create(username="ann")
    options = ["--user", "ann", "--group", "kitchen", "--no-publish", "--no-subscribe"]
    token = Token.objects.find(run("create", "--name", "lamp", *options)[0].strip())
    assert (token.name, token.user, token.group) == ("lamp", ann, "kitchen")
    assert (token.can_publish, token.can_subscribe, token.expires_at) == (False, False, None)
    assert not token.can_call_api
    token = Token.objects.find(run("create", "--name", "backend", "--api")[0].strip())
    assert token.can_call_api


def test_a_token_may_do_everything_unless_told():
    token = Token.objects.find(run("create", "--name", "lamp")[0].strip())
    assert (token.user, token.group) == (None, "")
    assert token.can_publish and token.can_subscribe


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("01s", 1)],
)
def test_a_token_expires_in_time(monkeypatch, text, seconds):
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(timezone, "now", lambda: now)
    run("create", "--name", "lamp", "--expires-in", text)
    assert Token.objects.get().expires_at - now == datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "d", "0d", "-1d", "1y", "1.5h", "1d ", "٣d", "30d\n", "1 d"]
)
def test_what_is_no_time_is_refused(text):
    assert refusal("create", "--name", "lamp", f"--expires-in={text}") == (
        f"--expires-in {text!r} is not a time from now: write 30s, 15m, 12h, 30d or 2w"
    )
    assert not Token.objects.exists()


@pytest.mark.parametrize("text", ["999999999w", "999999999d"])
def test_a_time_after_the_end_of_dates_is_refused(text):
    told = refusal("create", "--name", "lamp", f"--expires-in={text}")
    assert told.startswith(f"--expires-in '{text}' is later than any date: write 30s")


def test_a_user_who_is_not_there_is_refused():
    assert refusal("create", "--name", "lamp", "--user", "ann") == (
        "--user 'ann': there is no such user; give the username"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--name", ""], "--name: This field cannot be blank."),
        (["--name", "x" * 101], "--name: Ensure this value has at most 100 characters"),
        (["--name", "a", "--group", "token:1"], "--group: Names that begin with “token:”"),
        (["--name", "", "--group", "token:1"], "--name: This field cannot be blank.; --group: "),
    ],
)
def test_what_fields_may_not_hold_is_refused(options, told):
    assert refusal("create", *options).startswith(told)
    assert not Token.objects.exists()


class ClosedPipe(StringIO):
    """Fails at once, or, as a buffer does, when it is flushed."""

    def __init__(self, method):
        super().__init__()
        setattr(self, method, self._fail)

    def _fail(self, *args):
        raise BrokenPipeError


@pytest.mark.parametrize("action", ["create", "rotate"])
def test_a_key_that_cannot_be_printed_is_undone(action):
    token, key = Token.objects.create_key(name="lamp")
    arguments = ["--name", "door"] if action == "create" else [str(token.pk)]
    with pytest.raises(BrokenPipeError):
        call_command("fws_token", action, *arguments, stdout=ClosedPipe("flush"), stderr=StringIO())
    assert Token.objects.find(key) == Token.objects.get()


# list


def test_the_list_is_in_columns(django_assert_num_queries):
    ann = User.objects.create(username="ann")
    long_ago = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    one = Token.objects.create_key(name="lamp", user=ann, group="kitchen", expires_at=long_ago)[0]
    two = Token.objects.create_key(name="a longer name")[0]
    Token.objects.filter(pk=two.pk).update(last_used=long_ago, prefix="fws_bbbbbbbb", id=12)
    Token.objects.filter(pk=one.pk).update(prefix="fws_aaaaaaaa", id=7)
    with django_assert_num_queries(1):
        out, err = run("list")
    assert out.splitlines() == [
        "ID  KEY           NAME           USER  GROUP    STATE    EXPIRES                 "
        "LAST USED",
        "12  fws_bbbbbbbb  a longer name  -     -        active   never                   "
        "2020-01-02 03:04+00:00",
        "7   fws_aaaaaaaa  lamp           ann   kitchen  expired  2020-01-02 03:04+00:00  never",
    ]
    assert err == ""


def test_times_are_those_of_the_sites_time_zone(settings):
    settings.TIME_ZONE = "Asia/Kolkata"
    Token.objects.create_key(
        name="lamp", expires_at=datetime.datetime(2099, 1, 2, 3, 4, tzinfo=datetime.UTC)
    )
    assert "  2099-01-02 08:34+05:30  never\n" in run("list")[0]


def test_names_cannot_add_lines_to_the_list():
    user = User.objects.create(username="a\x1b[2J")
    Token.objects.create_key(name="a\n7  fws_", group="\x1b]0;x\x07", user=user)
    out, _ = run("list")
    assert out.count("\n") == 2
    assert "\x1b" not in out
    assert r"a\n7  fws_  a\x1b[2J  \x1b]0;x\x07  active" in out


def test_a_list_of_none_is_its_headings():
    assert run("list") == ("ID  KEY  NAME  USER  GROUP  STATE  EXPIRES  LAST USED\n", "")


# rotate and revoke


@pytest.mark.parametrize("named", ["id", "8 characters", "12 characters", "whole key"])
def test_rotate_prints_the_new_key_alone(named):
    token, old = Token.objects.create_key(name="lamp")
    names = {"id": str(token.pk), "8 characters": old[:8], "12 characters": old[:12]}
    out, err = run("rotate", names.get(named, old))
    assert Token.objects.find(out[:-1]) == token
    assert Token.objects.find(old) is None
    said = f"rotated token {token.pk}, lamp ({out[:12]}…): its key is not shown again\n"
    assert err == said + UNHEARD


@pytest.mark.parametrize(
    ("backend", "shared"),
    [
        ("channels_redis.pubsub.RedisPubSubChannelLayer", True),
        ("channels.layers.InMemoryChannelLayer", False),
        ("nowhere.Layer", False),
    ],
)
def test_it_is_told_where_connections_of_other_processes_live_on(
    settings, monkeypatch, backend, shared
):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {}}}
    monkeypatch.setattr("filtered_websocket.api.control.send", lambda event: None)
    token, _ = Token.objects.create_key(name="lamp")
    _, err = run("revoke", str(token.pk))
    assert (UNHEARD in err) is not shared


def test_revoke_ends_a_token():
    token, key = Token.objects.create_key(name="lamp")
    other = Token.objects.create_key(name="door")[0]
    said = f"revoked token {token.pk}, lamp ({key[:12]}…)\n{UNHEARD}"
    assert run("revoke", key[:10]) == ("", said)
    states = {token.name: token.state for token in Token.objects.all()}
    assert states == {"lamp": "revoked", other.name: "active"}


def test_a_revoked_token_is_not_rotated():
    token, key = Token.objects.create_key(name="la\nmp")
    token.revoke()
    assert refusal("rotate", key[:8]) == (rf"la\nmp ({key[:12]}…) is revoked: create another token")
    assert Token.objects.find(key) == token


@pytest.mark.parametrize("action", ["rotate", "revoke"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("99", "'99' is neither the id of a token nor the beginning of a key"),
        ("fws_zzzzzzz", "'fws_zzzzzzz' is neither the id of a token nor the beginning of a key"),
        ("fws_abc", "'fws_abc' is too short: give an id, or at least 8 characters of a key"),
        ("fws_abcd", "'fws_abcd' begins the keys of 2 tokens: give more of it, or an id"),
    ],
)
def test_what_names_no_one_token_is_refused(action, name, told):
    Token.objects.bulk_create(
        Token(name=digest, prefix=f"fws_abcdefg{digest}", digest=digest) for digest in "12"
    )
    assert refusal(action, name) == f"{told}: 'fws_token list' shows them"
    assert set(Token.objects.values_list("digest", "revoked_at")) == {("1", None), ("2", None)}


# Secrecy


def test_after_it_was_printed_a_key_is_nowhere(caplog):
    with every_log_line(caplog) as lines:
        out, told = run("create", "--name", "lamp")
        keys = [out.strip()]
        again, more = run("rotate", keys[0])
        keys.append(again.strip())
        said = told + more + "".join(run("list") + run("revoke", keys[1]) + run("list"))
    log = "\n".join(lines)
    assert "INSERT" in log
    for place in (said, log, database_dump()):
        assert not any(key in place for key in keys)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda key: ["revoke", key],
        lambda key: ["rotate", key + "x"],
        lambda key: [key],
        lambda key: ["list", key],
        lambda key: ["create", "--user", key, "--name", "a"],
        lambda key: ["create", "--name", "a", f"--expires-in={key}"],
        lambda key: ["create", "--nmae", key],
    ],
)
def test_a_whole_key_is_not_said_again(capsys, arguments):
    key = new_key()
    status, out, err = typed(capsys, *arguments(str(key)))
    assert status in (1, 2)
    assert key[:13] not in out + err


def test_a_whole_key_is_not_stored_as_a_name(capsys):
    key = new_key()
    assert typed(capsys, "create", "--name", str(key))[0] == 0
    assert Token.objects.get().name == key[:12]


def test_from_a_shell_a_mistake_is_one_line_and_a_status(capsys):
    status, out, err = typed(capsys, "revoke", "99")
    assert (status, out) == (1, "")
    assert err == (
        "CommandError: '99' is neither the id of a token nor the beginning of a key:"
        " 'fws_token list' shows them\n"
    )


@pytest.mark.parametrize("command", [["list"], ["create", "--name", "lamp"], ["revoke", "1"]])
def test_from_a_shell_missing_tables_are_one_line_too(capsys, monkeypatch, command):
    monkeypatch.setattr(Token._meta, "db_table", "not_migrated")
    status, out, err = typed(capsys, *command)
    assert (status, out) == (1, "")
    assert err.startswith("CommandError: the database says: ") and "not_migrated" in err
    assert err.endswith(". If it has no tables yet, run 'manage.py migrate'\n")


def test_from_a_shell_standard_output_has_the_key_alone(capsys):
    status, out, err = typed(capsys, "create", "--name", "lamp")
    assert (status, Token.objects.find(out.strip())) == (0, Token.objects.get())
    assert err.startswith("created token ") and err.count("\n") == 2


@pytest.fixture
def plain_key(monkeypatch):
    """New keys are this one, whose ``repr`` hides nothing."""
    monkeypatch.setattr(our_models, "new_key", lambda: PLAIN_KEY)
    return PLAIN_KEY


@pytest.mark.parametrize(
    ("action", "failing"),
    [
        *(("create", "INSERT"), ("create", "write"), ("create", "flush")),
        *(("rotate", "UPDATE"), ("rotate", "write"), ("rotate", "flush")),
    ],
)
def test_no_report_of_a_failure_has_the_key(plain_key, action, failing):
    token = Token.objects.create(name="lamp")
    arguments = {"create": ["--name", "door"], "rotate": [str(token.pk)]}[action]
    out = StringIO() if failing.isupper() else ClosedPipe(failing)
    with failing_database(failing):
        report = report_of(call_command, "fws_token", action, *arguments, stdout=out)
    assert f"_{action}" in report
    assert (f"{failing} fails" if failing.isupper() else "BrokenPipeError") in report
    assert plain_key not in report


@pytest.mark.parametrize("action", ["create", "rotate"])
def test_no_report_of_a_failure_after_the_key_was_printed_has_it(plain_key, monkeypatch, action):
    token = Token.objects.create(name="lamp")
    arguments = {"create": ["--name", "door"], "rotate": [str(token.pk)]}[action]
    monkeypatch.setattr(Command, "_tell", None)
    report = report_of(call_command, "fws_token", action, *arguments, stdout=StringIO())
    assert "TypeError" in report
    assert plain_key not in report
