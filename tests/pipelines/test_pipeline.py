"""From settings to pipelines: entries, options, pipeline, route."""

import asyncio
import itertools
import logging
import re
import shlex
import subprocess
import sys
from typing import Any, Literal

import pytest
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket import Drop, PublishError, WebSocketGroupFilter, WebSocketMessageFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.exceptions import FilterError
from filtered_websocket.pipelines.entries import PipelineError, entry_name, load_entry
from filtered_websocket.pipelines.options import describe_hint, fits
from filtered_websocket.pipelines.pipeline import RETURNED, Pipeline
from filtered_websocket.pipelines.route import Route, name_of
from filtered_websocket.testing import connect

from .. import examples
from ..connections.test_connection import message_filter
from ..lone_filter import Pop
from ..snippets import ROOT
from ..waiting import until

BROADCAST = "filtered_websocket.filters.broadcast_messages"


def names(entry):
    return [cls.__name__ for _, cls in load_entry(entry)]


def test_an_entry_may_be_a_module_a_class_a_path_or_a_dict():
    assert names("tests.lone_filter") == ["Pop"]
    assert names("tests.lone_filter.Pop") == ["Pop"]
    assert names(Pop) == ["Pop"]
    assert names({"NAME": "tests.lone_filter"}) == ["Pop"]
    assert names({"NAME": Pop, "OPTIONS": {}}) == ["Pop"]


def test_a_module_gives_its_own_public_filters_in_the_order_they_are_defined(monkeypatch):
    monkeypatch.delattr(examples, "Empty")
    assert names("tests.examples") == ["Shout", "Whisper", "Guard", "Odd"]


@pytest.mark.parametrize(
    ("entry", "number", "words"),
    [
        ("tests.nowhere", 4, "'tests.nowhere': module 'tests' has no attribute 'nowhere'"),
        ("nowhere.at.all", 4, "there is no such module or class"),
        ("nowhere", 4, "there is no such module or class"),
        ("tests.nowhere.at.all", 4, "module 'tests' has no attribute 'nowhere.at.all'"),
        ("tests..examples", 4, "there is no such module or class"),
        ("tests.examples.", 4, "there is no such module or class"),
        ("a\0b", 4, "there is no such module or class"),
        ("\ud800", 4, "there is no such module or class"),
        ("tests.instance_method", 9, "Shout.filter is an instance method: make it a class"),
        ("tests.instance_method.Shout", 9, "importing 'tests.instance_method' fails: TypeError"),
        ("", 4, "there is no such module or class"),
        ("..", 4, "there is no such module or class"),
        ("tests.lone_filter.Pup", 4, "has no attribute 'Pup'"),
        ("tests.no_filters", 5, "the module defines no filter"),
        ({"NAME": "tests.lone_filter", "OPTIONS": {"dept": 2}}, 6, "has no option 'dept'"),
        ({"NAME": "tests.lone_filter", "OPTIONS": {"blocking": True}}, 6, "has no option"),
        ({"NAME": "tests.lone_filter", "OPTIONS": {"depth": "2"}}, 7, "option 'depth' is '2'"),
        ({"NAME": "tests.lone_filter", "OPTIONS": {"depth": True}}, 7, "It must be int"),
        ({"NAME": "tests.lone_filter", "OPTION": {}}, 8, "is not understood"),
        ({"OPTIONS": {}}, 8, "is not understood"),
        ({"NAME": "tests.lone_filter", "OPTIONS": None}, 8, "is not understood"),
        (3, 8, "An entry is a dotted path"),
        (int, 8, "An entry is a dotted path"),
        ("tests.broken_module", 9, "nowhere_to_be_found"),
        ("tests.broken_module.Filter", 9, "nowhere_to_be_found"),
        ("tests.raising_module", 9, "RuntimeError: not today"),
        ("tests.raising_module.Filter", 9, "RuntimeError: not today"),
        ("tests.exiting_module", 9, "SystemExit: 0"),
        ("tests.examples.NOT_A_FILTER", 10, "is not a filter: 3"),
        (WebSocketMessageFilter, 10, "is not a filter"),
        ("tests.examples.Empty", 10, r"Empty defines no filter\(\)"),
        ("tests.examples", 10, r"Empty defines no filter\(\)"),
    ],
)
def test_a_mistake_names_the_entry_and_the_cure(entry, number, words):
    with pytest.raises(PipelineError, match=words) as caught:
        Pipeline([entry])
    assert caught.value.id == f"filtered_websocket.E{number:03}"
    assert isinstance(caught.value, ImproperlyConfigured)
    assert caught.value.hint


ERRORS_OF_A_MODULE = (
    "ValueError('wrong')",
    "TypeError('wrong')",
    "AttributeError('wrong')",
    "ImportError('wrong')",
    "ModuleNotFoundError('wrong')",
    "ModuleNotFoundError('wrong', name='tests')",
    "AssertionError('wrong')",
    "SystemExit('wrong')",
    "GeneratorExit('wrong')",
    "asyncio.CancelledError('wrong')",
    "BaseException('wrong')",
    "ImproperlyConfigured('wrong')",
)


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes the source of a module, which can be imported by the name that is returned."""
    monkeypatch.syspath_prepend(tmp_path)
    names = itertools.count()

    def write(source):
        name = f"written_{next(names)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("written_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("tests.lone_filter.Pup", "Did you mean 'tests.lone_filter.Pop'?"),
        ("tests.lone_filtre.Pop", "Did you mean 'tests.lone_filter.Pop'?"),
        (f"{BROADCAST}s", f"Did you mean '{BROADCAST}'?"),
        ("tests.lone_filter.Nothing", "Check its spelling."),
        ("tests.lone_filter.Pop.Inner", "Check its spelling."),
        ("nowhere.Filter", "Check its spelling, and that it is on the Python path."),
        (f"tests.lone_filter{BROADCAST}", f"Is a comma missing before '{BROADCAST}'?"),
        ("./tests/lone_filter.py", "Write it as a module: 'tests.lone_filter'."),
        ("tests.filtered_websocket.Pop", "Check its spelling."),
    ],
)
def test_a_misspelt_path_is_told_what_may_be_meant(entry, hint):
    with pytest.raises(PipelineError) as caught:
        load_entry(entry)
    assert (caught.value.id, caught.value.hint) == ("filtered_websocket.E004", hint)


@pytest.mark.parametrize("error", ERRORS_OF_A_MODULE)
def test_whatever_a_module_raises_is_reported_with_its_own_text(write_module, error):
    module = write_module(
        f"import asyncio\nfrom django.core.exceptions import ImproperlyConfigured\nraise {error}\n"
    )
    kind = error.partition("(")[0].rpartition(".")[2]
    for entry in (module, f"{module}.Filter"):
        with pytest.raises(PipelineError) as caught:
            Pipeline([entry])
        assert caught.value.id == "filtered_websocket.E009"
        expected = f"entry {entry!r}: importing {module!r} fails: {kind}: wrong."
        assert caught.value.message == "INSTALLED_FILTERS " + expected
    for codec in (f"{module}.Codec", module):
        with pytest.raises(PipelineError) as caught:
            _ = route([], codec=codec).pipeline
        assert caught.value.id == "filtered_websocket.E013"
        assert f"importing {module!r} fails: {kind}: wrong." in caught.value.message


def test_a_syntax_error_is_reported_with_its_line(write_module):
    module = write_module("x = 1\nfor\n")
    with pytest.raises(PipelineError, match=r"SyntaxError: invalid syntax.*line 2") as caught:
        Pipeline([f"{module}.Filter"])
    assert caught.value.id == "filtered_websocket.E009"


def test_a_package_that_misses_its_own_module_is_not_misspelt(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "written_package"
    package.mkdir()
    (package / "__init__.py").write_text("import written_package.filters")
    with pytest.raises(
        PipelineError, match=r"No module named 'written_package\.filters'"
    ) as caught:
        Pipeline(["written_package.filters"])
    assert caught.value.id == "filtered_websocket.E009"


def test_ctrl_c_during_an_import_is_not_swallowed(write_module):
    module = write_module("raise KeyboardInterrupt")
    for entry in (module, f"{module}.Filter"):
        with pytest.raises(KeyboardInterrupt):
            Pipeline([entry])
    lazy = write_module(
        "def __getattr__(name):\n"
        "    raise AttributeError if name == '__path__' else KeyboardInterrupt"
    )
    with pytest.raises(KeyboardInterrupt):
        Pipeline([f"{lazy}.Filter"])


def test_an_error_of_a_modules_getattr_is_reported_with_its_own_text(write_module):
    module = write_module(
        "def __getattr__(name):\n"
        "    raise (AttributeError if name == '__path__' else ValueError)(f'no {name} today')"
    )
    words = f"importing '{module}.Filter' fails: ValueError: no Filter today"
    with pytest.raises(PipelineError, match=words) as caught:
        Pipeline([f"{module}.Filter"])
    assert f'-c "from {module} import Filter"' in caught.value.hint
    assert caught.value.id == "filtered_websocket.E009"


def test_a_mistake_in_a_route_that_a_module_makes_is_reported_as_itself(write_module):
    module = write_module(
        "from filtered_websocket.consumers import FilteredWebSocketConsumer\n"
        "app = FilteredWebSocketConsumer.as_asgi(filters=['nowhere'])\n"
        "def decode(self): pass\n"
    )
    for build in (
        lambda: Pipeline([module]),
        lambda: route([], codec=f"{module}.app").pipeline,
    ):
        with pytest.raises(PipelineError, match="entry 'nowhere': there is no such") as caught:
            build()
        assert caught.value.id == "filtered_websocket.E004"


@pytest.mark.repeats
@pytest.mark.parametrize("settings_module", ["fws_project.settings", ""])
def test_the_command_of_the_hint_shows_where(monkeypatch, settings_module):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", settings_module)
    with pytest.raises(PipelineError) as caught:
        Pipeline(["tests.instance_method"])
    command = re.search(r"'(python .*)'", caught.value.hint)[1]
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r'instance_method.py", line 6, in <module>', done.stderr)
    assert "TypeError: tests.instance_method.Shout.filter is an instance method" in done.stderr


def test_lazy_objects_of_a_module_are_not_evaluated(write_module):
    module = write_module(
        "from django.utils.functional import SimpleLazyObject\n"
        "from tests.lone_filter import Pop as Base\n"
        "lazy = SimpleLazyObject(lambda: 1 / 0)\n"
        "class Pop(Base):\n    pass\n"
    )
    assert names(module) == ["Pop"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("size: 'Nowhere' = 1", "the annotations of F cannot be evaluated: NameError: name 'Now"),
        ("size: int = 1\n    def __init_subclass__(cls): raise TypeError('no')", "TypeError: no."),
        ("size: int = 1\n    def __init_subclass__(cls): raise SystemExit(3)", "SystemExit: 3."),
    ],
)
def test_an_option_that_a_filter_cannot_take_is_reported(write_module, source, words):
    module = write_module(
        "from filtered_websocket import WebSocketMessageFilter\n"
        f"class F(WebSocketMessageFilter):\n    {source}\n"
        "    @classmethod\n    def filter(cls, web_socket_instance): pass\n"
    )
    with pytest.raises(PipelineError, match=re.escape(words)) as caught:
        Pipeline([{"NAME": module, "OPTIONS": {"size": 2}}])
    assert caught.value.id == "filtered_websocket.E007"


def test_ctrl_c_while_options_are_set_is_not_swallowed(write_module):
    module = write_module(
        "from filtered_websocket import WebSocketMessageFilter\n"
        "class F(WebSocketMessageFilter):\n    size: int = 1\n"
        "    def __init_subclass__(cls): raise KeyboardInterrupt\n"
        "    @classmethod\n    def filter(cls, web_socket_instance): pass\n"
    )
    with pytest.raises(KeyboardInterrupt):
        Pipeline([{"NAME": module, "OPTIONS": {"size": 2}}])


def test_a_filter_without_a_signature_is_a_mistake(monkeypatch):
    monkeypatch.setattr(Pop, "filter", staticmethod(type))
    with pytest.raises(PipelineError, match="no signature found") as caught:
        Pipeline([Pop])
    assert caught.value.id == "filtered_websocket.E011"


def test_a_filter_that_stopped_fitting_is_a_mistake_too(monkeypatch):
    monkeypatch.setattr(Pop, "filter", classmethod(lambda cls: None))
    with pytest.raises(PipelineError, match="must take"):
        Pipeline([Pop])


def test_options_are_bound_for_one_pipeline_only():
    chain = Pipeline([{"NAME": "tests.lone_filter", "OPTIONS": {"depth": 2}}]).message
    assert chain.run(None, bytearray(b"Test")) == b"Te"
    assert Pop.depth == 1
    assert Pipeline([Pop]).message.run(None, bytearray(b"Test")) == b"Tes"
    assert chain.filters[0] not in WebSocketMessageFilter._own_chain.filters
    assert chain.stages[0].path == "tests.lone_filter.Pop"


def test_options_of_a_module_go_to_the_filters_that_declare_them(monkeypatch):
    monkeypatch.delattr(examples, "Empty")
    entry = {"NAME": "tests.examples", "OPTIONS": {"mark": "!", "times": 2}}
    assert Pipeline([entry]).message.filters[0].mark == "!"
    assert Pipeline([entry]).message.run(None, bytearray(b"a")) == b"a!!"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, Any, True),
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (True, float, False),
        (1.5, float, True),
        ("1", int, False),
        (True, bool, True),
        (None, str | None, True),
        ("a", str | None, True),
        (1, str | None, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (["a"], list[str], True),
        ([1], list[str], False),
        ("a", list[str], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "1"}, dict[str, int], False),
        ((1, "a"), tuple[int, str], True),
        ((1,), tuple[int, str], False),
        ((1, 2), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False),
        (None, None, True),
    ],
)
def test_options_are_checked_against_their_annotation(value, hint, expected):
    assert fits(value, hint) is expected
    assert describe_hint(hint)


def test_a_pipeline_prints_as_one_would_type_it(monkeypatch):
    monkeypatch.delattr(examples, "Empty")
    lines = Pipeline(["tests.lone_filter", "tests.examples", Pop]).lines()
    assert lines == [
        "connect    | examples.Guard",
        "message    | lone_filter.Pop | examples.Shout | examples.Whisper | pop",
        "disconnect | examples.Odd",
    ]


def route(filters=None, groups=None, codec=None, **kwargs):
    return Route(filters, groups, codec, None, **kwargs)


def test_a_route_without_filters_runs_the_sites_in_the_group_default(settings):
    settings.INSTALLED_FILTERS = ["tests.lone_filter"]
    site = route()
    assert site.groups == ("default",)
    assert site.pipeline.lines() == ["message    | lone_filter.Pop"]
    assert site.pipeline is route().pipeline


def test_a_route_with_filters_has_a_home_group_of_its_own():
    assert route([Pop, "tests.examples.Shout"]).groups == (
        "tests.lone_filter.Pop|tests.examples.Shout",
    )
    dull = {"NAME": "tests.examples.Shout", "OPTIONS": {"mark": "?"}}
    assert route([dull]).groups == ('tests.examples.Shout{"mark": "?"}',)
    assert route([]).groups == ("(no filters)",)
    assert entry_name({"NAME": Pop}) == "tests.lone_filter.Pop"


def test_routes_share_a_pipeline_only_where_nothing_differs():
    assert route([Pop]).pipeline is not route([Pop], ["other"]).pipeline
    both = route([Pop]), route([Pop])
    assert both[0].pipeline is both[1].pipeline


def test_a_changed_setting_builds_pipelines_again(settings):
    settings.INSTALLED_FILTERS = ["tests.lone_filter"]
    site = route()
    first = site.pipeline
    settings.INSTALLED_FILTERS = ["tests.examples.Shout"]
    assert site.pipeline is not first
    assert site.pipeline.lines() == ["message    | shout"]
    settings.STATIC_URL = "unrelated/"
    assert site.built is not None


def test_installed_filters_must_be_a_list(settings):
    settings.INSTALLED_FILTERS = "tests.lone_filter"
    with pytest.raises(PipelineError, match=r"INSTALLED_FILTERS is 'tests\.lone_filter'"):
        _ = route().pipeline


@pytest.mark.parametrize("groups", [[""], ["x" * 1025], [3], ["token:abc"]])
def test_a_route_cannot_name_what_is_no_group_of_its(groups):
    with pytest.raises(PipelineError, match="A route's groups"):
        _ = route(groups=groups).pipeline


def test_lists_of_one_are_still_lists():
    for wrong in ({"filters": "tests.lone_filter"}, {"groups": "default"}, {"filters": {}}):
        with pytest.raises(PipelineError, match="Give a list"):
            route(**wrong)


@pytest.mark.parametrize("entry", [{"OPTIONS": {}}, None, 5])
def test_what_is_no_entry_is_a_mistake_of_a_route_too(entry):
    with pytest.raises(PipelineError, match="is not understood"):
        _ = route([entry]).pipeline


class UpperCodec:
    def decode(self, frame, text):
        return frame.decode().upper()

    def encode(self, message, meta):
        return str(message)


@pytest.mark.parametrize(
    "codec", [UpperCodec(), UpperCodec, "tests.pipelines.test_pipeline.UpperCodec"]
)
def test_a_codec_is_an_object_a_class_or_a_path(codec):
    assert isinstance(route(codec=codec).pipeline.codec, UpperCodec)


@pytest.mark.parametrize("codec", ["tests.nowhere.Codec", object()])
def test_a_codec_that_is_none_is_a_mistake(codec):
    with pytest.raises(PipelineError, match="CODEC"):
        _ = route(codec=codec).pipeline


class NoCodec:
    def __init__(self):
        raise SystemExit("no codec today")


def test_a_codec_that_cannot_be_made_is_a_mistake(monkeypatch):
    words = "is called without arguments and raises SystemExit: no codec today"
    with pytest.raises(PipelineError, match=words) as caught:
        _ = route(codec=NoCodec).pipeline
    assert caught.value.id == "filtered_websocket.E013"
    monkeypatch.setattr(NoCodec, "__init__", raise_keyboard_interrupt)
    with pytest.raises(KeyboardInterrupt):
        _ = route(codec=NoCodec).pipeline


def raise_keyboard_interrupt(self):
    raise KeyboardInterrupt


def test_a_failing_filter_is_logged_once_and_counted(caplog):
    pipeline = Pipeline([])
    for _ in range(5):
        error = FilterError("site.Bad")
        error.__cause__ = ValueError("x")
        pipeline.failed(error, "connection 1")
    pipeline.failed(ValueError("not json"), "connection 2")
    assert pipeline.failures == {"site.Bad": 5, "the codec": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "site.Bad raised ValueError on connection 1 (1 so far)",
        "the codec raised ValueError on connection 2 (1 so far)",
    ]
    assert all(record.levelno == logging.ERROR for record in caplog.records)


def raised(error, *, elsewhere=False):
    """What a chain raises for a filter that raised ``error``."""
    failed = FilterError("site.Bad")
    try:
        if elsewhere:
            raise error
        raise error
    except Exception as cause:
        failed.__cause__ = cause
    return failed


def test_each_kind_of_error_of_a_filter_is_logged(caplog, settings):
    pipeline = Pipeline([])
    for error in (KeyError("a"), KeyError("b"), ValueError("c"), ValueError("d")):
        pipeline.failed(raised(error), "connection 1")
    pipeline.failed(raised(KeyError("e"), elsewhere=True), "connection 1")
    assert [record.args[1].value for record in caplog.records] == [
        "KeyError",
        "ValueError",
        "KeyError",
    ]
    assert pipeline.failures == {"site.Bad": 5}
    settings.DEBUG = True
    for _ in range(3):
        pipeline.failed(raised(KeyError("a")), "connection 1")
    assert len(caplog.records) == 6 and "(8 so far)" in caplog.text


async def test_a_filter_that_uses_the_database_on_the_event_loop_is_told_what_to_do(
    caplog, django_user_model
):
    def count(web_socket_instance, message):
        django_user_model.objects.count()

    async with connect([message_filter(count)]) as ann:
        await ann.send("x")
        await ann.settle()
    assert "on the filter, or on the function of the group rule" in caplog.records[0].getMessage()


def _text_before(web_socket_instance, data):
    return "he said " + data


def _text_after(web_socket_instance, data):
    return data + " he said"


def _field(web_socket_instance, data):
    return data["text"]


async def _awaited_push(web_socket_instance, data):
    await web_socket_instance.push("x")


def _run(web_socket_instance, data):
    later = asyncio.sleep(0)
    try:
        asyncio.run(later)
    finally:
        later.close()


def _keys(web_socket_instance, data):
    for one in web_socket_instance.users:
        one.push(data)


def _returned_class(web_socket_instance, data):
    return Drop


def _returned_number(web_socket_instance, data):
    return 5


@pytest.mark.parametrize(
    ("function", "cure"),
    [
        (_text_before, "data.decode() is its text"),
        (_text_after, "data.decode() is its text"),
        (_field, "'filtered_websocket.json_codec.JSONCodec'"),
        (lambda web_socket_instance, data: data.encode(), "data.decode() is its text"),
        (_awaited_push, "only send, apublish, join and leave are awaited"),
        (_run, "make the filter 'async def' and use 'await'"),
        (_keys, "users.values()"),
        (_returned_class, f"{RETURNED}\nTraceback"),
        (_returned_class, "dict or list, not Drop: 'raise' it, do not return it\n"),
        (_returned_number, f"{RETURNED}\nTraceback"),
    ],
    ids=["text", "after", "field", "encode", "await", "run", "keys", "blame", "drop", "number"],
)
async def test_the_log_has_the_cure_of_a_mistake_that_many_make(function, cure, caplog):
    async with connect([message_filter(function), BROADCAST]) as ann:
        await ann.send("hi there")
        await until(lambda: "Traceback" in caplog.text)
    assert cure in caplog.text


async def test_a_group_filter_that_takes_the_hub_for_a_connection_is_told(caplog):
    def name(web_socket_instance, data):
        return web_socket_instance.user.username

    async with connect([message_filter(name, WebSocketGroupFilter), BROADCAST]) as ann:
        await ann.send("hi")
        await until(lambda: "'HubView' object" in caplog.text)
    assert "a WebSocketSendFilter gets each of them\n" in caplog.text


@pytest.mark.parametrize(
    "cause",
    [PublishError("too long"), TypeError(object()), TypeError("of a filter"), KeyError()],
    ids=["long", "object", "own", "none"],
)
def test_any_other_error_has_no_cure(cause, caplog):
    error = FilterError(f"{BROADCAST}.BroadcastMessagesFilter")
    error.__cause__ = cause
    Pipeline([]).failed(error, "connection x")
    kind = type(cause).__name__
    assert f"BroadcastMessagesFilter raised {kind} on connection x (1 so far)\n" in caplog.text


def test_a_filter_with_yield_is_a_mistake():
    def upper(web_socket_instance, data):
        yield data.upper()

    async def later(web_socket_instance, data):
        yield data.upper()

    for function in (upper, later):
        with pytest.raises(PipelineError, match="is a generator, as it has 'yield': use 'return'"):
            Pipeline([message_filter(function)])


def test_as_asgi_refuses_what_it_does_not_take_and_what_cannot_be_built():
    with pytest.raises(
        TypeError,
        match="takes calls, codec, filters, group_rules, groups, personal, protocol, not filter",
    ):
        FilteredWebSocketConsumer.as_asgi(filter=[])
    with pytest.raises(ImproperlyConfigured, match="no such module"):
        FilteredWebSocketConsumer.as_asgi(filters=["nowhere"])


def test_as_asgi_before_django_is_ready_builds_at_first_use(monkeypatch):
    from django.apps import apps

    monkeypatch.setattr(apps, "ready", False)
    app = FilteredWebSocketConsumer.as_asgi(filters=["nowhere"])
    with pytest.raises(ImproperlyConfigured):
        _ = app.route.pipeline


def test_a_route_describes_itself():
    plain = route([Pop])
    assert plain.lines() == [
        "(a path this package does not know)  home group 'tests.lone_filter.Pop'",
        "  message    | pop",
    ]
    plain.paths = ["/a/", "/b/"]
    assert route([], dynamic=True).lines()[0].endswith("a home group per connection")
    assert route([]).lines()[1] == "  (no filters)"
    assert plain.lines()[0].startswith("/a/, /b/  ")


def test_a_pipeline_is_called_by_the_paths_of_its_routes_or_by_its_home_group():
    one, same, other = route([Pop]), route([Pop]), route([], groups=["lobby"])
    assert one.pipeline is same.pipeline and other.pipeline is not one.pipeline
    assert name_of(one.pipeline) == "home group 'tests.lone_filter.Pop'"
    one.paths, same.paths, other.paths = ["/a/", "/b/"], ["/b/", "/c/"], ["/d/"]
    assert name_of(one.pipeline) == "/a/, /b/, /c/"
    other.paths = []
    assert name_of(other.pipeline) == "home group 'lobby'"


@pytest.mark.parametrize(
    ("made", "names_home"),
    [(Route(None, None, None, None), True), (Route([], None, None, None), False)],
)
def test_a_home_group_that_nobody_has_named_is_known(made, names_home):
    assert made.names_home is names_home
    assert Route([], ["a"], None, None).names_home
