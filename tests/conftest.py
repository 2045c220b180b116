"""Fixtures for all tests."""

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import itertools
import os
import pkgutil
import signal
import sys

import _pytest.unittest
import hypothesis
import pytest

import filtered_websocket
from filtered_websocket import publish
from filtered_websocket.checks.application import load_application
from filtered_websocket.hub.drain import SIGNALS, Drain
from filtered_websocket.pipelines import route

from .e2e.processes import Valkey
from .flushing import keep_what_migrations_made
from .waiting import LIMIT

# Tests start hundreds of processes, each of which would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# pytest asks before each test, and reads the metadata of Twisted to know.
if hasattr(_pytest.unittest, "_get_twisted_version"):
    _pytest.unittest._get_twisted_version = functools.cache(_pytest.unittest._get_twisted_version)


# A busy machine may take long to make an example, and to try it.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ours")


@pytest.fixture(autouse=True, scope="session")
def a_busy_machine_is_waited_for():
    """``receive`` and the like of users' tests give up sooner than ours may."""
    from filtered_websocket import testing

    assert testing.TIMEOUT
    testing.TIMEOUT = LIMIT


@pytest.fixture(autouse=True)
def no_task_is_left_behind(request):
    """
    Whoever creates a task awaits it: nothing may run when a test has ended. A test without an
    event loop is given none for this.
    """
    used = itertools.chain.from_iterable(request.node._fixtureinfo.name2fixturedefs.values())
    # The mark is set by pytest-asyncio.
    if request.node.get_closest_marker("asyncio") or any(runs_in_a_loop(one.func) for one in used):
        request.getfixturevalue("tasks_end")


def runs_in_a_loop(function):
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


@pytest.fixture
async def tasks_end():
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def no_signal_handler_is_left_behind():
    """A hub of the main thread installs signal handlers, and removes them at its end."""
    yield
    left = [getattr(signal.getsignal(number), "__func__", None) for number in SIGNALS]
    assert Drain._on_signal not in left


@pytest.fixture(autouse=True)
def no_publisher_is_left_behind():
    """The thread that publishes for a process without connections ends with the test."""
    yield
    publish._close()


@pytest.fixture(autouse=True, scope="session")
def routes_of_the_site():
    """The example's and the package's own routes are made once in a process, and stay."""
    load_application()


@pytest.fixture(autouse=True)
def no_route_is_left_behind(routes_of_the_site):
    """A route is known until it is collected, whenever that is: a test's ends with the test."""
    first = next(route._numbers)
    yield
    for made in route.known_routes():
        if made.number > first:
            route._routes.discard(made)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The database of pytest-django, which Django does not fill again after each flush."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        with django_db_blocker.unblock():
            keep_what_migrations_made(monkeypatch)
        yield


@pytest.fixture(scope="session")
def valkey_server():
    """A real Valkey for all tests of this process, but for those of e2e, which have their own."""
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server):
    """It, as a new one is: without keys, and without users that other tests have made."""
    with valkey_server.client() as client:
        client.flushall()
        for user in set(client.acl_users()) - {"default"}:
            client.acl_deluser(user)
    return valkey_server


@pytest.fixture
def time_enough(settings):
    """Redis may take as long to answer as anything may on a busy machine."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}


#: Folders whose files take longest: with several workers they begin first.
LONGEST = ("tests/e2e/faults", "tests/stress", "tests/e2e")
#: After each of these files begin so many of the others.
BETWEEN = 3


def place(item):
    path = item.path.as_posix()
    return next((n for n, folder in enumerate(LONGEST) if f"/{folder}/" in path), len(LONGEST))


def pytest_collection_modifyitems(items):
    """
    The files of these folders come first, in their order, and after each of them some of the
    others: with several workers some wait for servers then, while others compute.
    """
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    servers = sorted(
        (file for file in files.values() if place(file[0]) < len(LONGEST)),
        key=lambda file: place(file[0]),
    )
    others = iter([file for file in files.values() if place(file[0]) == len(LONGEST)])
    order = []
    for file in servers:
        order += [file, *itertools.islice(others, BETWEEN)]
    order += others
    items[:] = itertools.chain.from_iterable(order)


#: What tells a process that tests start to measure its coverage.
COVERAGE = "COVERAGE_PROCESS_CONFIG"
CONFIG = pytest.StashKey[str]()
#: What measures this thread, where the test is measured. Python is three times slower with it.
TRACER = pytest.StashKey[object]()
OF_TEST = pytest.StashKey[object]()


@contextlib.contextmanager
def traced(tracer):
    """Measure this thread with ``tracer``, or not at all with None."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """
    Measure neither the collection, but that the package is imported, nor what pytest does
    between tests. What a collection makes is not looked at for garbage again.
    """
    stash = session.config.stash
    stash[CONFIG] = os.environ.get(COVERAGE, "")
    stash[TRACER] = sys.gettrace() if stash[CONFIG] else None
    # Workers run the tests of a process that has some. One of them measures the imports.
    number = worker_number(session.config)
    if stash[TRACER] and number:
        sys.settrace(None)
    if stash[TRACER] and (number is not None or not session.config.getoption("tx", None)):
        import_all()
    if stash[TRACER]:
        sys.settrace(None)
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def worker_number(config):
    """Which of several workers this process is; None for a process that is not one of them."""
    about = getattr(config, "workerinput", None)
    return about and int(about["workerid"].removeprefix("gw"))


def import_all():
    """Each module of the package, but those that need what is not installed."""
    for module in pkgutil.walk_packages(filtered_websocket.__path__, "filtered_websocket."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def is_measured(item):
    """
    Tests of these folders, and their servers, run what the tests of each module have measured,
    and so do those with the mark ``repeats``: only ``measured`` says that coverage needs them.
    """
    if place(item) == len(LONGEST):
        return not item.get_closest_marker("repeats")
    return item.get_closest_marker("measured")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    stash = item.config.stash
    stash[OF_TEST] = stash[TRACER] if is_measured(item) else None
    if stash[CONFIG] and is_measured(item):
        os.environ[COVERAGE] = stash[CONFIG]
    else:
        os.environ.pop(COVERAGE, None)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    if not item.config.stash[OF_TEST]:
        return (yield)
    with traced(item.config.stash[OF_TEST]):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_fixture_setup(fixturedef, request):
    """Measure our fixtures, not those of pytest and its plugins, as the one of databases."""
    tracer = request.config.stash[OF_TEST]
    if not tracer or not fixturedef.baseid:
        return (yield)
    stack = contextlib.ExitStack()
    # Of finalizers the last one is called first.
    fixturedef.addfinalizer(stack.close)
    with traced(tracer):
        value = yield
    fixturedef.addfinalizer(lambda: stack.enter_context(traced(tracer)))
    return value


def pytest_runtest_makereport(item, call):
    """Where CI is set nothing may be skipped: a skip is a failure that says so."""
    if os.environ.get("CI") and call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception):
        failure = AssertionError(f"skipped under CI: {call.excinfo.value}")
        call.excinfo = pytest.ExceptionInfo.from_exception(failure.with_traceback(call.excinfo.tb))
