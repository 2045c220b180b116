"""Django code of other processes publishes; clients of two serving processes hear it."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
import redis

from ..waiting import LIMIT
from .processes import ROOT, Daphne, Process, Valkey
from .sockets import connect
from .test_serving import hears
from .topologies import Sentinel

SETUP = (
    # Python 3.12 warns of a fork beside a thread, which is what is tested.
    "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    "import os, sys, django; django.setup()\n"
    "from filtered_websocket.publish import apublish, publish\n"
    "from tests.e2e import publishing\n"
)
SCRIPTS = {
    "a script": "publish({'from': 'a script'}, 'default')",
    "threads": (
        "import threading\n"
        "threads = [threading.Thread(target=publish, args=(str(n), 'default')) for n in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]"
    ),
    "a thread pool": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(publishing.publish, map(str, range(6))))\n"
        "os._exit(0)"
    ),
    "a loop": "import asyncio\nasyncio.run(apublish('from a loop', 'default'))",
    "loops": (
        "from asgiref.sync import async_to_sync\n"
        "for n in range(3): async_to_sync(apublish)(str(n), 'default')"
    ),
    "a fork": (
        "import os\n"
        "publish('from the parent', 'default')\n"
        "if os.fork() == 0:\n"
        "    publish('from the child', 'default')\n"
        "else:\n"
        "    os.wait()\n"
        "    publish('from the parent again', 'default')"
    ),
    "a transaction": (
        "from django.db import transaction\n"
        "with transaction.atomic():\n"
        "    publish('committed', 'default', on_commit=True)\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        publish('never', 'default', on_commit=True)\n"
        "        raise KeyError\n"
        "except KeyError: pass"
    ),
    "an end without a goodbye": "publish('x', 'default')\nos._exit(0)",
    **{
        f"{name} by {method}": (
            "import multiprocessing\n"
            f"context = multiprocessing.get_context({method!r})\n"
            # The parent has a connection that the children must not use.
            "publish('parent', 'default')\n"
            f"{script}"
        )
        for method in ("fork", "spawn")
        for name, script in {
            "children": (
                "ends = [publishing.publish_and_exit, publishing.publish_and_be_killed]\n"
                "children = [context.Process(target=end, args=[str(n)])\n"
                "    for n, end in enumerate(ends)]\n"
                "[child.start() for child in children]\n"
                "[child.join() for child in children]\n"
                "publish('parent again', 'default')"
            ),
            "a process pool": (
                "from concurrent.futures import ProcessPoolExecutor\n"
                "with ProcessPoolExecutor(1, mp_context=context) as pool:\n"
                "    list(pool.map(publishing.publish, map(str, range(6))))"
            ),
        }.items()
    },
}
HEARD = {
    "a script": ['{"from":"a script"}'],
    "threads": ["0", "1", "2", "3"],
    "a thread pool": ["0", "1", "2", "3", "4", "5"],
    "a loop": ["from a loop"],
    "loops": ["0", "1", "2"],
    "a fork": ["from the child", "from the parent", "from the parent again"],
    "a transaction": ["committed"],
    "an end without a goodbye": ["x"],
    **{
        f"{name} by {method}": heard
        for method in ("fork", "spawn")
        for name, heard in {
            "children": ["0", "1", "parent", "parent again"],
            "a process pool": ["0", "1", "2", "3", "4", "5", "parent"],
        }.items()
    },
}


async def publish(script, env, *, setup=SETUP, fresh=False):
    """Run the script, which must end well and say nothing."""
    command = [sys.executable, "-c", setup + script]
    process = await asyncio.to_thread(Process, command, env=env, fresh=fresh)
    try:
        assert (await asyncio.to_thread(process.wait), process.output) == (0, "")
    finally:
        process.stop()


@pytest.fixture
def env(database, valkey):
    return {**database, "REDIS_URL": valkey.url}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_what_other_processes_publish_is_heard_once_by_clients_of_both(
    two_servers, env, name
):
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        await publish(SCRIPTS[name], env)
        for client in (ann, bob):
            assert sorted(await hears(client, len(HEARD[name]))) == HEARD[name]
        await ann.send("end")
        assert await hears(bob, 1) == ["end"]


async def test_a_control_event_of_a_child_that_ends_at_once_is_with_redis(env, valkey):
    with redis.Redis.from_url(valkey.url) as client, client.pubsub() as pubsub:
        pubsub.subscribe("asgi__group__fws.house")
        assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
        await publish("publishing.disconnect_and_exit(7)", env)
        assert b'{"is":"close","kind":"user","id":"7"' in pubsub.get_message(timeout=LIMIT)["data"]


GEVENT = (
    "from gevent import monkey; monkey.patch_all()\n"
    "import gevent\n"
    "def in_order(name): publishing.publish_in_order(name, 10)\n"
    "def together(*calls):\n"
    "    gevent.joinall([gevent.spawn(*call) for call in calls], raise_error=True)\n"
)
EVENTLET = (
    "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()\n"
    "def in_order(name): publishing.publish_in_order(name, 10)\n"
    "def together(*calls):\n"
    "    [thread.wait() for thread in [eventlet.spawn(*call) for call in calls]]\n"
)
GREENLETS = (
    "together(*[(in_order, name) for name in 'abcd'])\n"
    # As the token list of the admin does.
    "from filtered_websocket.api.control import count_connections\n"
    "assert count_connections([1]) == {1: 0}\n"
    "together(*[(publishing.ask_the_database,)] * 4, *[(in_order, name) for name in 'efgh'])\n"
    "together(*[(publishing.read_history,)] * 4)\n"
    # Here SynchronousOnlyOperation was raised, once one greenlet had an event loop.
    "publishing.ask_the_database()\n"
    "os._exit(0)"
)


@pytest.mark.parametrize("green", [GEVENT, EVENTLET], ids=["gevent", "eventlet"])
async def test_a_greenlet_that_publishes_leaves_the_database_to_the_others(two_servers, env, green):
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        # What they patch must not be imported yet.
        await publish(GREENLETS, env, setup=green + SETUP, fresh=True)
        for client in (ann, bob):
            check_order(await hears(client, 80), "abcdefgh", 10)


async def test_each_thread_of_each_process_is_heard_in_its_order(two_servers, env):
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(publishing.publish_in_order, '{}', [10] * 4))"
    )
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        await asyncio.gather(*(publish(script.format(names), env) for names in ("abcd", "efgh")))
        for client in (ann, bob):
            check_order(await hears(client, 80), "abcdefgh", 10)


def check_order(heard, names, count):
    for name in names:
        mine = [message for message in heard if message.startswith(name)]
        assert mine == [f"{name} {n:02}" for n in range(count)]


AWAY = (
    "import logging, time\n"
    "from django.db import transaction\n"
    "from filtered_websocket.exceptions import PublishError\n"
    "publish('before', 'default')\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "began = time.monotonic()\n"
    "try:\n"
    "    publish('x', 'default')\n"
    "except PublishError as error:\n"
    "    print(error)\n"
    "waited = time.monotonic() - began\n"
    "with transaction.atomic():\n"
    "    publish('x', 'default', on_commit=True)\n"
    "    transaction.on_commit(lambda: print('later hook'))\n"
    "print('waited', waited >= 0.5)\n"
    "print('continued', flush=True); sys.stdin.readline()\n"
    "publish('after', 'default')\n"
    "os._exit(0)"
)


def start_script(database, server):
    return subprocess.Popen(
        [sys.executable, "-c", SETUP + AWAY],
        env={
            **os.environ,
            **database,
            "DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings",
            "TEST_SETTINGS": json.dumps({"LAYER_TIMEOUT": 0.5}),
            "REDIS_URL": server.url,
        },
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_redis_that_is_away_is_told_after_layer_timeout_and_found_again(database, how):
    server = Valkey()
    process = start_script(database, server)

    def go():
        process.stdin.write("\n")
        process.stdin.flush()

    try:
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        if how == "killed":
            server.kill()
        else:
            server.signal(signal.SIGSTOP)
        go()
        lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(4)]
        assert lines[0].startswith("Redis did not take the message")
        assert "it may have arrived" in lines[0]
        assert lines[1:] == ["later hook\n", "waited True\n", "continued\n"]
        if how == "killed":
            server = Valkey(server.port)
        else:
            server.signal(signal.SIGCONT)
        go()
        _, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        assert errors.count("not published after a commit") == 1 and "Traceback" not in errors
    finally:
        process.kill()
        process.wait()
        server.stop()


async def test_through_the_core_layer_a_child_that_ends_at_once_is_heard_too(database, valkey):
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings",
        "TEST_LAYER": "core",
        "REDIS_URL": valkey.url,
    }
    server = Daphne("fws_project.asgi:application", env=env)
    try:
        async with connect(server.ws()) as ann:
            await publish(
                "import multiprocessing\n"
                "child = multiprocessing.get_context('fork').Process(\n"
                "    target=publishing.publish_and_exit, args=['from a child'])\n"
                "publish('from the parent', 'default')\n"
                "child.start(); child.join()\n"
                "os._exit(0)",
                env,
            )
            assert await hears(ann, 2) == ["from the parent", "from a child"]
    finally:
        server.stop()


async def test_through_sentinel_the_master_is_found(two_servers, env, valkey):
    """The options of a layer that finds its Redis by Sentinel are the plain client's, too."""
    sentinel = await asyncio.to_thread(Sentinel, valkey)
    try:
        host = {"sentinels": [sentinel.address], "master_name": "mymaster"}
        setup = (
            "from django.conf import settings\n"
            f"settings.CHANNEL_LAYERS['default']['CONFIG']['hosts'] = [{host}]\n"
        )
        one, _ = two_servers
        async with connect(one.ws()) as ann:
            script = "publish('by sentinel', 'default')\nos._exit(0)"
            await publish(script, env, setup=setup + SETUP)
            assert await hears(ann, 1) == ["by sentinel"]
    finally:
        sentinel.stop()
