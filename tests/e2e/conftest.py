"""Servers and a browser for the tests that need them real."""

import contextlib
import shutil

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from ..waiting import LIMIT, limited
from .processes import Daphne, Process, Valkey, manage

#: Milliseconds: a page on a busy machine may take long, and a wait ends when it is true.
expect.set_options(timeout=LIMIT * 1000)

#: What Chromium does without. Of a flag that is given twice the last one counts, so these are
#: those of Playwright that tests here could notice, and the suggestions of the address bar: two
#: pages for each window that nobody sees, which take more computing than the one that is tested.
DISABLED_FEATURES = [
    *("AimEnabled", "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose"),
    *("HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "MediaRouter", "OptimizationHints"),
    *("NetworkTimeServiceQuerying", "PaintHolding", "PreconnectToSearch"),
    *("ThirdPartyStoragePartitioning", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup"),
    "WebUIOmniboxPopup",
]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(DISABLED_FEATURES)}",
]


#: So many of the last lines of each process belong to the report of a failure.
LAST_LINES = 40


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure of a test tells what its servers, and those of its module, said last."""
    report = yield
    if report.failed:
        for process in list(Process.started):
            if said := process.output.splitlines()[-LAST_LINES:]:
                title = f"{process.pid} said last: {' '.join(map(str, process.command))[:200]}"
                report.sections.append((title, "\n".join(said)))
    return report


@pytest.fixture(scope="session")
def valkey():
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A migrated SQLite file; what makes the example's processes use it."""
    path = tmp_path_factory.mktemp("db") / "db.sqlite3"
    env = {"DJANGO_DB": str(path), "DJANGO_SETTINGS_MODULE": "fws_project.settings"}
    manage(env, "migrate", "-v", "0")
    return env


@pytest.fixture(scope="session")
def server(database):
    """One process, without Redis."""
    process = Daphne(env=database)
    yield process
    process.stop()


@pytest.fixture(scope="session")
def two_servers(database, valkey):
    """Two processes on one Redis."""
    env = {**database, "REDIS_URL": valkey.url}
    processes = Daphne(env=env), Daphne(env=env)
    yield processes
    for process in processes:
        process.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """
    Headless Chromium, the one Debian ships: one for all tests, which run on its event loop
    and have contexts of their own, as different people. Without the windows that nobody sees
    (``chromium-headless-shell``) a page takes half of the computing.
    """
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    async with async_playwright() as playwright:
        process = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield process
        await close(process)


async def close(what):
    """A Chromium that hangs fails a test, and does not keep all others waiting for ever."""
    async with limited():
        await what.close()


@pytest_asyncio.fixture(loop_scope="session")
async def new_context(browser):
    """``await new_context(**options)``: cookies and windows that no other test sees."""
    async with contextlib.AsyncExitStack() as stack:

        async def new_context(**options):
            context = await browser.new_context(**options)
            # By default half of that, which a busy machine may need for a page.
            context.set_default_timeout(LIMIT * 1000)
            stack.push_async_callback(close, context)
            return context

        yield new_context
