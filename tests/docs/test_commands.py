"""Commands that pages show: Django and the servers know them, and they print what is shown."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command, get_commands, load_command_class

from filtered_websocket import pipe
from filtered_websocket.checks.api import check_api
from filtered_websocket.models import Token
from filtered_websocket.server import build_server, parse
from filtered_websocket.storage_objects import use_storage_object

from ..snippets import PAGES, ROOT, all_blocks, named

pytestmark = pytest.mark.repeats


def commands(page):
    """Each line of a page that begins with a prompt, or continues one."""
    for _, language, code in all_blocks(page):
        if language == "console":
            yield from re.findall(r"^\$ (.+)$", code, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_django_exist_and_take_these_arguments(page):
    for line in commands(page):
        found = re.search(r"(?:python |\./)manage\.py (.+)", line)
        if found:
            # Up to what reads it.
            name, *arguments = shlex.split(found[1].partition(" | ")[0], comments=True)
            app = get_commands()[name]
            command = load_command_class(app, name) if isinstance(app, str) else app
            command.create_parser("manage.py", name).parse_args(arguments)


def test_commands_of_make_exist():
    """In lines of text, too."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "docs/performance.md"):
        block = named(page)["commands of make"]
        shown = re.findall(r"^\$ make ([\w-]+)", block, re.MULTILINE)
        assert shown and set(shown) <= targets
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([\w-]+)", page.read_text(), re.MULTILINE):
            assert target in targets


# Tokens


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["README.md", "docs/tokens.md"])
def test_a_token_is_made(page, capsys, django_user_model):
    django_user_model.objects.create(username="ann")
    blocks = named() if page == "README.md" else named("docs/tokens.md")
    line, printed = blocks["make a token"].splitlines()[-2:]
    call_command(*shlex.split(line.partition("manage.py ")[2]))
    assert printed == "fws_..." and capsys.readouterr().out.startswith("fws_")
    assert Token.objects.get(name="lamp").expires_at


def test_a_key_of_the_api_is_made(capsys, settings):
    line = named("docs/http-api.md")["make a key"].strip()
    program, option, code = shlex.split(line.removeprefix("$ "))
    assert (program, option) == ("python", "-c")
    exec(code, {})
    settings.FILTERED_WEBSOCKET = {"API_KEY": capsys.readouterr().out.strip()}
    assert check_api() == []


# The stand-alone server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Filters of the pages, in a folder that is the current one."""
    shout = named()["mysite/filters.py"].replace('mark: str = "!"', 'mark: str = ""')
    add = "from filtered_websocket import WebSocketCallFilter\n" + named("docs/filters.md")["call"]
    for name in ("my/filters.py", "myfilters.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{shout}\n{add}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    # A server sets up its whole process.
    use_storage_object(None)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my", "myfilters")]:
        del sys.modules[name]


def arguments(line, program):
    return shlex.split(line.rpartition(program)[2])


def test_the_server_says_what_it_serves(folder, settings):
    shown = named("docs/server.md")["start"].splitlines()
    server = build_server(parse(arguments(shown[0], "filtered_websocket.server")))
    settings.CHANNEL_LAYERS = {}
    assert server.banner().splitlines()[:2] == shown[1:3]
    assert re.fullmatch(r"storage: default; channel layer: .+; daphne", shown[3])


def test_a_config_file_is_read(folder):
    code = named("docs/server.md")["config.json"]
    (folder / "config.json").write_text(code)
    options = parse(["-c", "config.json"])
    assert (
        options.port == 9100 and options.filters == json.loads(code.partition("\n")[2])["filters"]
    )


def test_services_start_it_with_arguments_that_it_knows(folder, monkeypatch):
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", "filtered_websocket.storage_objects.redis")
    unit, compose = (named("docs/server.md")[name] for name in ("unit", "compose.yaml"))
    [started] = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    assert parse(arguments(started.replace("%i", "9001"), "fws_server")).port == 9001
    web = yaml.safe_load(compose)["services"]["web"]
    assert parse(arguments(web["command"], "fws_server")).redis_url == "redis://redis:6379/0"


def test_a_server_is_built_from_python(folder, monkeypatch):
    from filtered_websocket.server.cli import Server

    ran = []
    monkeypatch.setattr(Server, "run", lambda self: ran.append(self.url))
    exec(named("docs/server.md")["from Python"], {})
    assert ran == ["ws://localhost:9100/"]


# Lines in, lines out


class Input:
    def __init__(self, text):
        self.buffer = io.BytesIO(text.encode())


def run_pipe(line, monkeypatch, capfdbinary):
    """What ``printf TEXT | PIPE`` or ``echo TEXT | PIPE`` prints."""
    fed, piped = line.removeprefix("$ ").split(" | ", 1)
    program, text = shlex.split(fed)
    text = text.encode().decode("unicode_escape") if program == "printf" else text + "\n"
    monkeypatch.setattr(sys, "stdin", Input(text))
    words = shlex.split(piped)
    at = next(n for n, word in enumerate(words) if Path(word).suffix == ".pipe" or word == "pipe")
    assert pipe.main(words[at + 1 :]) == 0
    return capfdbinary.readouterr().out.decode()


def test_a_filter_is_tried_on_lines(folder, monkeypatch, capfdbinary):
    line, printed = named("docs/server.md")["pipe"].split("\n", 1)
    assert run_pipe(line, monkeypatch, capfdbinary) == printed


def test_both_commands_without_a_project(folder, monkeypatch, capfdbinary):
    serve, line = named()["without a project"].splitlines()
    assert parse(arguments(serve, "filtered_websocket.server")).filters == ["my.filters"]
    assert run_pipe(line, monkeypatch, capfdbinary) == "A\nB\n"


def test_commands_of_the_protocol_are_tried_on_lines(folder, monkeypatch, capfdbinary):
    block = named("docs/centrifuge.md")["pipe"]
    line, printed = re.fullmatch(r"(.+?Add)\n(.+)", block, re.DOTALL).groups()
    out = run_pipe(line, monkeypatch, capfdbinary)
    assert re.sub(r'"client":"[^"]+"', '"client":"0a2b..."', out) == printed
