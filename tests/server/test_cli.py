"""The command line of the stand-alone server, without a port."""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading

import pytest

from filtered_websocket import storage_objects
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.routing import standalone_application
from filtered_websocket.server import cli as server_module
from filtered_websocket.server.cli import build_reactor, build_server, default_parser, main, parse
from filtered_websocket.testing import connect

from ..snippets import ROOT


@pytest.fixture(autouse=True)
def nothing_of_this_process_is_kept(settings):
    """A server sets up its whole process; a test gives it back."""
    settings.CHANNEL_LAYERS = settings.CHANNEL_LAYERS
    yield
    storage_objects.use_storage_object(None)


@pytest.fixture
def config(tmp_path):
    def write(content):
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_the_defaults_are_those_of_2014():
    options = parse([])
    assert (options.port, options.filters, options.config) == (9000, None, None)
    assert (options.key, options.cert, options.host) == (None, None, "0.0.0.0")
    assert options.storage == "filtered_websocket.storage_objects.default"


def test_a_config_file_stands_for_arguments_and_the_command_line_wins(config):
    path = config('# a comment\n{\n  "port": 9100,\n# another\n  "filters": ["a", "b"]\n}')
    options = parse(["-c", path])
    assert (options.port, options.filters) == (9100, ["a", "b"])
    assert parse(["-c", path, "-p", "9200"]).port == 9200
    assert parse(["--filters", "c", "--config", path]).filters == ["c"]
    assert parse(["-c", config({"key": "k", "cert": "c"})]).cert == "c"


def test_the_flag_redis_of_the_manual_chooses_the_storage_object(config):
    options = parse(["-c", config({"port": 1, "flags": ["redis"], "redis_port": 7})])
    assert options.storage == server_module.REDIS and options.redis_port == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{\n "port": 1,,\n}', "line 2, column 12"),
        ('# x\n{\n "port" 1\n}', "line 3, column 9"),
        ("", "line 1, column 1"),
        ("[1]", "is not a JSON object"),
        ({"prot": 1}, "has no option 'prot'; it may have flags, cert, filters"),
        ({"config": "x"}, "has no option 'config'"),
        ({"version": ""}, "has no option 'version'"),
        ({"port": "x"}, "argument -p/--port: invalid port value: 'x'"),
        ({"port": 70000}, "invalid port value: '70000'"),
        ({"port": True}, "'port' must be text or a number"),
        ({"port": {}}, "'port' must be text"),
        ({"port": [1, 2]}, "'port' must be text or a number"),
        ({"host": "-x", "port": "-y"}, "argument -p/--port: invalid port value: '-y'"),
        ("[" * 100_000, "config.json': maximum recursion depth"),
        ('{"port": ' + "1" * 5000 + "}", "config.json': Exceeds the limit"),
        ({"origins": ["*", "x"]}, "invalid origin value: 'x'"),
        ({"filters": [None]}, "'filters' must be text"),
        ({"flags": "redis"}, "'flags' must be a list"),
        ({"flags": ["bogus"]}, "flag 'bogus' is no option without a value"),
        ({"flags": ["port"]}, "flag 'port' is no option without a value"),
        ({"flags": 3}, "'flags' must be a list"),
    ],
)
def test_a_mistake_in_the_config_file_is_one_line(config, capsys, content, words):
    with pytest.raises(SystemExit) as caught:
        parse(["-c", config(content)])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in error and error.count("\n") == 1 and error.startswith("fws_server: error: ")


def test_a_flag_may_be_any_option_without_a_value(config, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["-c", config({"flags": ["version"]})])
    assert caught.value.code == 0 and "1.0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "x"], "argument -p/--port: invalid port value: 'x'"),
        (["-p", "65536"], "invalid port value"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["-key", "k"], "-key and -cert go together"),
        (["-cert", "c"], "-key and -cert go together"),
        (["-c", "no-such-file"], "config file 'no-such-file': No such file or directory"),
        (["-f", "nowhere"], "filter 'nowhere': there is no such module or class."),
        (["-f", "tests.no_filters"], "filter 'tests.no_filters': the module defines no filter."),
        (["-f", "tests.broken_module"], "No module named 'nowhere_to_be_found'"),
        (["-key", "no-such-key", "-cert", "c"], "-key 'no-such-key': No such file or directory"),
        (["--server", "gunicorn"], "argument --server: invalid choice: 'gunicorn'"),
        (["--origins", "a.example"], "argument --origins: invalid origin value: 'a.example'"),
        (["--origins", "https://a.example/path"], "invalid origin value"),
        (["--origins", "http://[::1"], "invalid origin value"),
        (["--redis_url", ":pw@h:1"], "argument --redis_url: it begins with none of redis://, red"),
        (["--path", "/?x=1"], "argument --path: invalid path value: '/?x=1'"),
        (["--path", "/a\n"], "invalid path value"),
        (["-f", "tests.exiting_module"], "importing 'tests.exiting_module' fails: SystemExit"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, arguments, words):
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert words in error and error.count("\n") == 1 and error.startswith("fws_server: error: ")


def test_a_storage_object_that_is_none_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", "nowhere")
    with pytest.raises(SystemExit) as caught:
        parse([])
    assert caught.value.code == 2
    assert "storage object 'nowhere': there is no such module" in capsys.readouterr().err


def test_a_key_and_certificate_that_are_no_pair_are_one_line(tmp_path, capsys):
    for name in ("key", "cert"):
        (tmp_path / name).write_text("not PEM")
    files = ["-key", str(tmp_path / "key"), "-cert", str(tmp_path / "cert")]
    assert main(files) == 2
    assert "are no pair of PEM files" in capsys.readouterr().err


def test_a_key_with_a_passphrase_is_one_line_and_asks_nothing(tmp_path, capsys):
    from ..e2e.certificates import write_pair

    key, certificate = write_pair(tmp_path, passphrase=b"secret")
    assert main(["-key", key, "-cert", certificate]) == 2
    shown = capsys.readouterr()
    assert "without a passphrase" in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_help_shows_what_the_storage_object_adds(monkeypatch, capsys):
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", server_module.REDIS)
    with pytest.raises(SystemExit) as caught:
        parse(["-h"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for name in ("--port", "--redis_host", "--redis_channels", "--redis_key", "--redis_url"):
        assert name in shown


def test_an_extra_that_is_not_installed_is_named(monkeypatch, capsys):
    def fail(name, package):
        raise ModuleNotFoundError("no uvicorn", name="uvicorn")

    monkeypatch.setattr(server_module, "import_module", fail)
    assert main(["--server", "uvicorn"]) == 2
    assert "pip install 'filtered-websocket[uvicorn]'" in capsys.readouterr().err

    def fail_otherwise(name, package):
        raise ModuleNotFoundError("No module named 'sites_own'", name="sites_own")

    monkeypatch.setattr(server_module, "import_module", fail_otherwise)
    assert main(["--server", "uvicorn"]) == 2
    error = capsys.readouterr().err
    assert "No module named 'sites_own'" in error and "pip install" not in error


def test_a_port_that_cannot_be_opened_is_one_line(monkeypatch, capsys):
    def fail(self):
        raise OSError("Address already in use")

    monkeypatch.setattr(server_module.Server, "run", fail)
    assert main(["-p", "1", "--verbosity", "2"]) == 2
    assert "cannot listen on 0.0.0.0:1: Address already in use" in capsys.readouterr().err


def test_the_settings_storage_is_used_and_arguments_win(settings):
    settings.FILTERED_WEBSOCKET = {
        "STORAGE": {"BACKEND": server_module.REDIS, "OPTIONS": {"redis_port": 7}}
    }
    assert options().storage == server_module.REDIS
    assert options().redis_port == 7 and options("--redis_port", "8").redis_port == 8
    assert type(build_server(options("-f"))).__name__ == "Server"
    assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"][0]["address"].endswith(":7")


def test_a_redis_alone_carries_group_messages(settings):
    server = build_server(options("-f", "--redis_url", "redis://[::1]:7"))
    assert "storage: default; channel layer: Redis" in server.banner()
    assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"][0]["address"] == "redis://[::1]:7"


@pytest.mark.parametrize(("host", "url"), [("::1", "redis://[::1]:1"), ("a b", "redis://a%20b:1")])
def test_a_redis_host_is_quoted(host, url):
    from filtered_websocket.storage_objects.redis import redis_url

    chosen = argparse.Namespace(redis_url=None, redis_host=host, redis_port=1)
    assert redis_url(chosen) == url


def test_a_2014_pubsub_storage_object_brings_its_subscriber(monkeypatch):
    import types

    from filtered_websocket.storage_objects.base import BasePubSubStorageObject

    made = []

    class Subscriber:
        def __init__(self, client, options):
            made.append((client, options.colour))

    class StorageObject(BasePubSubStorageObject):
        @classmethod
        def parser(cls, parser):
            parser.add_argument("--colour", default="green")
            return parser

        def get_client(self):
            return "client"

        @classmethod
        def get_subscriber(cls):
            return Subscriber

    module = types.ModuleType("third_party")
    module.StorageObject = StorageObject
    monkeypatch.setitem(sys.modules, "third_party", module)
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", "third_party")
    server = build_server(options("--colour", "blue"))
    assert isinstance(server.subscriber, Subscriber) and made == [("client", "blue")]
    plain = BasePubSubStorageObject(None)
    for call in (plain.get_client, plain.get_subscriber):
        with pytest.raises(NotImplementedError):
            call()


def test_options_of_a_program_may_be_fewer():
    server = build_server(argparse.Namespace(port=9005, filters=["tests.lone_filter"]))
    assert server.options.host == "0.0.0.0" and server.url == "ws://localhost:9005/"
    server.options.host = "::1"
    assert server.url == "ws://[::1]:9005/"


def test_threads_that_are_busy_do_not_keep_the_process(monkeypatch):
    left = []
    monkeypatch.setattr(server_module.Server, "run", lambda self: None)
    monkeypatch.setattr(server_module, "shut_down", lambda timeout: False)
    monkeypatch.setattr(server_module, "exit_now", left.append)
    assert main([]) == 0
    assert left == ["a blocking filter is still busy"]


def test_what_fails_while_serving_is_one_line(monkeypatch, capsys):
    def fail(self):
        raise KeyError("a\nb")

    monkeypatch.setattr(server_module.Server, "run", fail)
    assert main([]) == 2
    assert capsys.readouterr().err == "fws_server: error: KeyError: 'a\\nb'\n"


def test_an_end_that_was_asked_for_is_status_0(monkeypatch):
    monkeypatch.setattr(server_module.Server, "run", lambda self: None)
    assert main([]) == 0


def options(*arguments):
    return parse(arguments)


def test_the_banner_says_what_is_served_where_and_with_what(tmp_path):
    plain = build_server(options("-p", "9001", "-f", "tests.lone_filter"))
    assert plain.banner().splitlines()[0].endswith(" on ws://localhost:9001/")
    assert plain.banner().splitlines()[1] == "  message    | lone_filter.Pop"
    assert plain.banner().splitlines()[2].startswith("storage: default; channel layer: the site's")
    plain.options.key = "k"
    plain.options.host = "example.com"
    plain.options.path = "chat/"
    assert plain.url == "wss://example.com:9001/chat/"
    nothing = build_server(options("-f"))
    assert "(no filters)" in nothing.banner()


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:7/3"])
def test_redis_storage_carries_group_messages_too(monkeypatch, settings, url):
    monkeypatch.setenv("STORAGE_OBJECT_MODULE", server_module.REDIS)
    arguments = ["--redis_port", "7"] if url is None else ["--redis_url", url]
    server = build_server(options(*arguments))
    [host] = settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]
    assert host["address"] == (url or "redis://localhost:7")
    assert "storage: redis; channel layer: Redis" in server.banner()


async def test_a_2014_subscriber_runs_in_a_thread_and_puts_events_in_the_queue(capsys):
    class Subscriber:
        killed = threading.Event()

        def listener(self, web_socket_instance):
            web_socket_instance.queue.put({"data": "from the subscriber"})

        def kill(self):
            self.killed.set()

    storage = object()
    for build in (build_server, build_reactor):
        seen = queue.Queue()
        chosen = argparse.Namespace(**vars(default_parser().parse_args(["-p", "0"])))
        chosen.filters = ["filtered_websocket.filters.broadcast_pubsub"]
        server = build(chosen, storage_object=storage, subscriber=Subscriber())
        assert storage_objects.get_storage_object() is storage
        storage_objects.use_storage_object(None)
        async with connect(server.application) as ann:
            server.started(get_hub(), 9003)
            assert await ann.receive() == "from the subscriber"
        server.stopping()
        assert Subscriber.killed.is_set() and seen.empty()
        assert ":9003/" in capsys.readouterr().err
    quiet = build_reactor(options("-f", "--verbosity", "0"), pubsub_listener=Subscriber())
    assert quiet.subscriber is not None
    quiet.subscriber = None
    quiet.started(get_hub(), 9004)
    quiet.stopping()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("origins", "origin", "welcome"),
    [
        (None, None, True),
        (None, "http://localhost:9000", True),
        (None, "http://localhost", False),
        (None, "http://evil.example:9000", False),
        (["*"], "http://evil.example", True),
        (["https://a.example/"], "https://A.example", True),
        (["https://a.example"], "http://a.example", False),
        (["https://a.example:8443"], "https://a.example", False),
        (["https://a.example:443"], "https://a.example", True),
        (["*"], "null", True),
        (["*"], "nothing", False),
        (["capacitor://localhost"], "capacitor://localhost", True),
        (None, "capacitor://localhost:9000", False),
    ],
)
async def test_origins(origins, origin, welcome):
    application = standalone_application(
        server_module.FilteredWebSocketConsumer.as_asgi(filters=[]), None, origins
    )
    headers = {"host": "localhost:9000"} | ({"origin": origin} if origin else {})
    client = await connect(application, "/any/path", headers=headers)
    assert client.accepted is welcome
    await client.close()


@pytest.mark.parametrize(
    ("only", "path", "welcome"),
    [
        ("/chat/", "/chat/", True),
        ("/chat/", "/other/", False),
        ("/chat/", "/chat/more", False),
        ("<int:x>", "/<int:x>", True),
        ("<int:x>", "/3", False),
    ],
)
async def test_a_path_is_the_only_one(only, path, welcome):
    server = build_server(options("-f", "--path", only))
    client = await connect(server.application, path)
    assert client.accepted is welcome
    await client.close()


async def test_plain_http_is_told_to_upgrade():
    sent = []

    async def send(event):
        sent.append(event)

    await build_server(options("-f")).application({"type": "http"}, None, send)
    assert sent[0]["status"] == 426 and b"WebSocket server" in sent[1]["body"]


async def test_a_held_hub_lives_with_nobody_connected():
    hub = get_hub()
    hub.hold()
    async with connect([]):
        pass
    assert hub._running
    async with connect([]):
        await hub.release()
        assert hub._running
    assert not hub._running


def run(*command, cwd=None, **kwargs):
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        **kwargs,
    )


def test_filters_of_the_current_directory_can_be_named(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from filtered_websocket import WebSocketMessageFilter as F\n"
        "class Shout(F):\n"
        "    @classmethod\n"
        "    def filter(cls, i, data): return data.upper()\n"
    )
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]\n"
        "from filtered_websocket.server.standalone import set_up\n"
        "assert set_up() is False\n"
        "from filtered_websocket.pipelines.pipeline import Pipeline\n"
        "assert Pipeline(['mine.Shout']).message.run(None, bytearray(b'a')) == b'A'\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    del env["DJANGO_SETTINGS_MODULE"]
    done = run("-P", "-c", code, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
