"""A new site on an installed package, with the README's lines pasted, to the letter."""

import asyncio
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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, built from this checkout and installed by itself."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    )
    target = folder / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check"),
            *("--target", str(target), str(source)),
        ],
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


def test_the_client_for_pages_and_its_types_are_installed(installed):
    for name in ("client.js", "client.d.ts"):
        assert (installed / "filtered_websocket" / "static" / "filtered_websocket" / name).exists()


def test_check_and_filters_say_what_the_readme_shows(site):
    assert "no issues" in manage(site, "manage.py", "check")
    shown = re.search(
        r"\$ python manage\.py filters\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert manage(site, "manage.py", "filters") == shown[1]


async def test_the_site_serves_a_chat_and_its_page(site):
    folder, env = site
    port = free_port()
    address = f"127.0.0.1:{port}"
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
