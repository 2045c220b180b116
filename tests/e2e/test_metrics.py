"""Metrics of real servers, of one process and of several."""

import asyncio
import os
import re
import signal
import sys
import urllib.request
from contextlib import AsyncExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed

from ..snippets import named
from ..waiting import LIMIT, until
from .processes import Daphne, Process, Uvicorn, free_port
from .sockets import connect

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


async def metrics_of(server):
    """(name, labels) -> value."""
    page = await asyncio.to_thread(fetch, server.http("/metrics"))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def fetch(url):
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return answer.read().decode()


def settings_of(database):
    return {**database, "DJANGO_SETTINGS_MODULE": "tests.e2e.metrics_settings"}


def connections_of(found):
    return sum(value for (name, _), value in found.items() if name == "fws_connections")


@pytest.mark.parametrize(("kind", "name"), [(Daphne, "daphne"), (Uvicorn, "uvicorn")])
async def test_a_server_shows_its_connections_and_what_they_send(database, kind, name):
    server = kind(env=settings_of(database))
    try:
        before = await metrics_of(server)
        assert before["fws_received_frames_total", ()] == 0 and connections_of(before) == 0
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            await ann.send("12345")
            assert await bob.recv() == "12345"
            found = await metrics_of(server)
        assert found["fws_connections", (("route", "/"), ("server", name))] == 2
        for metric, value in {
            "fws_received_frames_total": 1,
            "fws_received_bytes_total": 5,
            "fws_deliveries_total": 1,
            "fws_sent_bytes_total": 5,
        }.items():
            assert found[metric, ()] == value, metric
        assert found["fws_handshakes_total", (("outcome", "accepted"),)] == 2

        async def codes():
            after = await metrics_of(server)
            ended = after.get(("fws_disconnections_total", (("code", "1000"),)), 0)
            return ended == 2 and connections_of(after) == 0

        await until_is(codes)
    finally:
        server.stop()


async def until_is(ask):
    """Wait for what a server tells nobody."""
    async with asyncio.timeout(LIMIT):
        while not await ask():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class Workers(Process):
    """``uvicorn --workers 2``, as docs/metrics.md starts it."""

    def __init__(self, env):
        lines = named("docs/metrics.md")["metrics: several processes"]
        options = re.search(r"uvicorn mysite\.asgi:application (.+)", lines)[1].split()
        options[options.index("--workers") + 1] = "2"
        self.port = free_port()
        application = "fws_project.asgi:application"
        where = ("--port", str(self.port))
        command = [sys.executable, "-m", "uvicorn", application, *where, *options]
        super().__init__(command, env=env, fresh=True)
        self.listens_on(self.port)

    ws, http = Uvicorn.ws, Uvicorn.http


async def is_open(client):
    """Whether its server answers."""
    try:
        await (await client.ping())
    except ConnectionClosed:
        return False
    return True


def workers_in(folder):
    """Pid of a worker -> its file with what it has now."""
    files = folder.glob("gauge_livesum_*.db")
    return {int(path.stem.rpartition("_")[2]): path for path in files}


async def test_several_workers_show_their_metrics_together(database, tmp_path):
    server = Workers({**settings_of(database), DIRECTORY: str(tmp_path)})
    try:
        async with AsyncExitStack() as stack:
            clients = []
            # The system chooses which of them gets a connection; each writes at its first.
            while len(workers_in(tmp_path)) < 2:
                # What others send waits here, unread.
                new = connect(server.ws(), max_queue=None)
                clients.append(await stack.enter_async_context(new))
                await asyncio.sleep(0.05)
                assert len(clients) < 500

            async def all_are_shown():
                return connections_of(await metrics_of(server)) == len(clients)

            await until_is(all_are_shown)
            for client in clients:
                await client.send("12345")

            async def all_have_sent():
                found = await metrics_of(server)
                return found["fws_received_bytes_total", ()] == 5 * len(clients)

            await until_is(all_have_sent)
            killed, *_ = workers_in(tmp_path)
            os.kill(killed, signal.SIGKILL)
            left = [client for client in clients if await is_open(client)]
            assert 0 < len(left) < len(clients)

            async def only_others_are_shown():
                found = await metrics_of(server)
                assert found["fws_received_bytes_total", ()] == 5 * len(clients)
                return connections_of(found) == len(left)

            await until_is(only_others_are_shown)
        await until(lambda: killed not in workers_in(tmp_path))
    finally:
        server.stop()
