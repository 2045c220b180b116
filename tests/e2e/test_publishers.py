"""Django code of other processes publishes; clients of two serving processes hear it."""

import asyncio
import os
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect

from .processes import ROOT
from .test_serving import hears

SCRIPTS = {
    "a script": "publish({'from': 'a script'}, 'default')",
    "threads": (
        "import threading\n"
        "threads = [threading.Thread(target=publish, args=(str(n), 'default')) for n in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]"
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
        "    os.wait()"
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
}
HEARD = {
    "a script": ['{"from":"a script"}'],
    "threads": ["0", "1", "2", "3"],
    "a loop": ["from a loop"],
    "loops": ["0", "1", "2"],
    "a fork": ["from the child", "from the parent"],
    "a transaction": ["committed"],
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_what_other_processes_publish_is_heard_once_by_clients_of_both(
    two_servers, database, valkey, name
):
    setup = (
        "import django; django.setup()\nfrom filtered_websocket.publish import apublish, publish\n"
    )
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        done = await asyncio.to_thread(
            subprocess.run,
            # Python 3.12 warns of a fork beside a thread, which is what is tested.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", setup + SCRIPTS[name]],
            env={**os.environ, **database, "REDIS_URL": valkey.url},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        for client in (ann, bob):
            assert sorted(await hears(client, len(HEARD[name]))) == HEARD[name]
        await ann.send("end")
        assert await hears(bob, 1) == ["end"]
