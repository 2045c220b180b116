"""The site that docs/tutorial.md builds, from its own blocks, in a browser."""

import asyncio
import os
import subprocess
import sys

import pytest
from playwright.async_api import expect

from ..snippets import named
from .processes import Process, free_port, run_python

pytestmark = pytest.mark.asyncio(loop_scope="session")
PAGE = named("docs/tutorial.md")
#: What is written at the end of a file that Django makes.
ADDED = {
    "end of settings.py": "settings.py",
    "end of asgi.py": "asgi.py",
    "end of urls.py": "urls.py",
}
#: Nobody will steal these passwords: to hash them well takes seconds in all.
FAST = '\nPASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]\n'
#: Access is asked for again so soon, not after a minute.
SOON = '\nFILTERED_WEBSOCKET["RECHECK"] = 1\n'
#: What the last step of the page has done in the admin.
CHANGED = """
import django
django.setup()
from django.contrib.auth.models import Group, User
Group.objects.get(name="kitchen").user_set.set(User.objects.filter(username__in=["ann", "eve"]))
"""
#: The commands of the page that say something, in one process.
COMMANDS = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
exec({people!r})
for line in {lines!r}:
    call_command(line.rpartition(" ")[2])
from django.test import override_settings
exec({layer!r})
with override_settings(CHANNEL_LAYERS=CHANNEL_LAYERS, DEBUG=False):
    call_command("check")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The project in its end state, but for the Redis that it may do without."""
    folder = tmp_path_factory.mktemp("tutorial")
    start = PAGE["start"].splitlines()[0].removeprefix("$ django-admin ")
    subprocess.run([sys.executable, "-m", "django", *start.split()], cwd=folder, check=True)
    site = folder / "mysite"
    for label, name in ADDED.items():
        with open(site / "mysite" / name, "a") as file:
            file.write("\n" + PAGE[label])
            if name == "settings.py":
                file.write(FAST + SOON)
    for label in ("mysite/groups.py", "mysite/filters.py", "mysite/templates/room.html"):
        (site / label).parent.mkdir(exist_ok=True)
        (site / label).write_text(PAGE[label])
    return site


@pytest.fixture(scope="module")
def env():
    return {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": os.getcwd()}


@pytest.fixture(scope="module")
def said(folder, env):
    """What the commands of the page print, once there are people."""
    lines = PAGE["what is served"].splitlines()
    code = COMMANDS.format(people=PAGE["people"], lines=lines, layer=PAGE["channel layer"])
    return run_python(env, "-W", "error", "-c", code, cwd=folder)


@pytest.fixture(scope="module")
def server(folder, env, said):
    [command] = PAGE["run"].splitlines()
    address = f"127.0.0.1:{free_port()}"
    words = command.removeprefix("$ python ").split()
    server = Process([sys.executable, *words, "--noreload", address], env=env, cwd=folder)
    server.listens_on(int(address.rpartition(":")[2]))
    yield f"http://{address}"
    server.stop()


async def test_it_has_no_mistake_and_says_what_is_served(said):
    assert PAGE["migrate"] == "$ python manage.py migrate\n$ python manage.py shell\n"
    # In the memory of a process, and with Redis.
    assert said.count("System check identified no issues") == 2
    assert "ShowName" in said and "SayAs" in said and "group('room:<slug:name>'" in said


async def test_it_is_as_short_as_it_says():
    files = [*ADDED, "mysite/groups.py", "mysite/filters.py"]
    lines = [line for label in files for line in PAGE[label].splitlines() if line.strip()]
    page = [line for line in PAGE["mysite/templates/room.html"].splitlines() if line.strip()]
    assert len(lines) == 40 and len(page) == 40


class Window:
    def __init__(self, context, page):
        self.context, self.page, self.wrong = context, page, []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))

    async def come(self, server, name):
        """As somebody who has to log in first."""
        await self.page.goto(f"{server}/rooms/kitchen/")
        await self.page.fill("#id_username", name)
        await self.page.fill("#id_password", f"{name}-secret")
        await self.page.click("[type=submit]")

    async def say(self, text):
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def shows(self, here, *lines):
        await expect(self.page.locator("#here")).to_have_text(here)
        await expect(self.page.locator("#log li")).to_have_text(lines)


async def test_members_chat_and_miss_nothing_and_others_stay_outside(
    server, new_context, folder, env
):
    windows = []
    for _ in range(3):
        context = await new_context()
        windows.append(Window(context, await context.new_page()))
    ann, bob, eve = windows
    await ann.come(server, "ann")
    await ann.shows("ann")
    await ann.say("  is anybody here?")
    await ann.shows("ann", "ann: is anybody here?")
    await bob.come(server, "bob")
    # Who is there, and what was said before.
    for window in (ann, bob):
        await window.shows("ann, bob", "ann: is anybody here?")
    await bob.say("   ")
    await bob.say("I am")
    for window in (ann, bob):
        await window.shows("ann, bob", "ann: is anybody here?", "bob: I am")
    # What is said while the connection is broken is there afterwards, once.
    await bob.context.set_offline(True)
    await ann.shows("ann", "ann: is anybody here?", "bob: I am")
    await ann.say("Bob?")
    await bob.context.set_offline(False)
    everything = ["ann: is anybody here?", "bob: I am", "ann: Bob?"]
    for window in (ann, bob):
        await window.shows("ann, bob", *everything)
    await eve.come(server, "eve")
    await eve.shows("permission denied")
    # Who is no longer a member is out, and who has become one is in.
    await asyncio.to_thread(run_python, env, "-c", CHANGED, cwd=folder)
    await bob.shows("server unsubscribe", *everything)
    await ann.shows("ann", *everything)
    await eve.page.reload()
    for window in (ann, eve):
        await window.shows("ann, eve", *everything)
    assert [window.wrong for window in windows] == [[]] * 3
