"""A new site on an installed package, with the README's lines pasted, to the letter."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest

from ..snippets import ROOT, named
from ..waiting import LIMIT, limited
from .processes import Daphne, Process, free_port, run_python
from .sockets import connect

REPOSITORY = "https://forge.example/owner/repository"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What git has of this checkout, but for what begins with a dot."""
    folder = tmp_path_factory.mktemp("package") / "source"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def tracked():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    return [name for name in names if not name.startswith(".") and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def installed(source):
    """The package, built from this checkout, as it is published, and installed by itself."""
    target = source.parent / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check"),
            *("--target", str(target), str(source)),
        ],
        env={**os.environ, "REPOSITORY_URL": REPOSITORY},
        check=True,
    )
    return target


@pytest.fixture(scope="module")
def project(installed, tmp_path_factory):
    """``django-admin startproject mysite``."""
    folder = tmp_path_factory.mktemp("project")
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "mysite", str(folder)],
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
    )
    return folder


@pytest.fixture
def site(installed, project, tmp_path):
    """A project of this test, with the README's lines, and what its commands need."""
    env = {"PYTHONPATH": str(installed), "DJANGO_SETTINGS_MODULE": "mysite.settings"}
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    snippets = named()
    append(tmp_path / "mysite/settings.py", snippets["settings.py"])
    append(tmp_path / "mysite/asgi.py", snippets["end of asgi.py"])
    append(tmp_path / "mysite/urls.py", snippets["end of urls.py"])
    return tmp_path, env


def append(path, code):
    path.write_text(path.read_text() + "\n" + code)


def manage(site, *arguments):
    folder, env = site
    return run_python(env, *arguments, cwd=folder)


def test_the_package_is_the_installed_one(installed, site):
    where = manage(site, "-c", "import filtered_websocket as f; print(f.__file__)")
    assert where.startswith(str(installed))


def test_every_file_of_the_package_is_installed_and_nothing_else(installed):
    package = installed / "filtered_websocket"
    found = {path.relative_to(installed) for path in package.rglob("*") if path.is_file()}
    found = {str(path) for path in found if path.parent.name != "__pycache__"}
    assert found == {name for name in tracked() if name.startswith("filtered_websocket/")}
    assert "filtered_websocket/locale/de/LC_MESSAGES/django.mo" in found
    # Neither tests nor benchmarks, which would be importable by everybody.
    names = {path.name for path in installed.iterdir()} - {"bin", "__pycache__"}
    assert {name.partition("-")[0] for name in names} == {"filtered_websocket"}


def test_the_source_archive_has_all_that_git_has(source, installed):
    """What ``MANIFEST.in`` says has been written where it was built."""
    [listed] = source.glob("*.egg-info/SOURCES.txt")
    files = {name for name in listed.read_text().splitlines() if ".egg-info/" not in name}
    assert files == set(tracked())


def test_the_metadata_leads_to_the_repository(installed):
    [found] = importlib.metadata.distributions(path=[str(installed)])
    told = found.metadata
    assert f"Source, {REPOSITORY}" in told.get_all("Project-URL")
    assert told["Description-Content-Type"] == "text/markdown"
    description = told["Description"] or told.get_payload()
    assert f"({REPOSITORY}/blob/HEAD/docs/history.md)" in description


def test_check_and_filters_say_what_the_readme_shows(site):
    assert "no issues" in manage(site, "manage.py", "check")
    command, shown = named()["manage.py filters"].split("\n", 1)
    assert command == "$ python manage.py filters"
    assert manage(site, "manage.py", "filters") == shown


async def test_the_site_serves_a_chat_and_its_page(site):
    folder, env = site
    port = free_port()
    address = f"127.0.0.1:{port}"
    first = named()["first commands"].splitlines()
    assert first == [f"$ python manage.py {name}" for name in ("migrate", "check", "runserver")]
    await asyncio.to_thread(manage, site, "manage.py", "migrate", "-v", "0")
    command = [sys.executable, "manage.py", "runserver", "--noreload", address]
    server = Process(command, env=env, cwd=folder)
    try:
        await asyncio.to_thread(server.listens_on, port)
        async with connect(f"ws://{address}/") as ann, connect(f"ws://{address}/") as bob:
            await ann.send("hello")
            async with limited():
                assert await bob.recv() == "hello"

        def get(path):
            with urllib.request.urlopen(f"http://{address}{path}", timeout=LIMIT) as answer:
                return answer.read().decode()

        page = await asyncio.to_thread(get, "/")
        assert "broadcast_messages | stdout_messages" in page
        for asset in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
            assert await asyncio.to_thread(get, asset)
    finally:
        await asyncio.to_thread(server.stop)


@pytest.fixture
def bigger_site(site):
    """The rest of the README pasted too."""
    folder, env = site
    snippets = named()
    (folder / "mysite/filters.py").write_text(snippets["mysite/filters.py"])
    append(folder / "mysite/settings.py", snippets["end of settings.py"])
    (folder / "mysite/asgi.py").write_text(snippets["asgi.py with a second route"])
    (folder / "test_readme.py").write_text(snippets["test of a filter"])
    return folder, env


async def test_a_second_route_hears_nothing_of_the_first(bigger_site):
    folder, env = bigger_site
    server = await asyncio.to_thread(Daphne, "mysite.asgi:application", env=env, cwd=folder)
    try:
        async with (
            connect(server.ws()) as ann,
            connect(server.ws()) as bob,
            connect(server.ws("/quiet/")) as quiet,
            connect(server.ws("/quiet/")) as other,
            connect(server.ws("/rooms/a/")) as room,
            connect(server.ws("/rooms/a/")) as neighbour,
        ):
            await ann.send("to the site")
            await room.send("to the room")
            async with limited():
                assert await bob.recv() == "TO THE SITE?"
                assert await neighbour.recv() == "to the room"
                # What the others said came first, had it come here at all.
                await other.send("in quiet")
                assert await quiet.recv() == "in quiet"
    finally:
        await asyncio.to_thread(server.stop)


def test_the_readmes_test_passes(bigger_site):
    manage(bigger_site, "manage.py", "check")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    scope = ["-o", "asyncio_default_fixture_loop_scope=function", "test_readme.py"]
    assert "1 passed" in manage(bigger_site, *command, *scope)


def test_the_channel_layer_of_the_readme_passes_the_checks(bigger_site):
    folder, _ = bigger_site
    append(folder / "mysite/settings.py", named()["channel layer"])
    assert "no issues" in manage(bigger_site, "manage.py", "check")
