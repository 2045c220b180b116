"""Traces of processes: what one publishes, and another one delivers, is one trace."""

import asyncio
import json
import os
import re
import sys
import urllib.request

import pytest

from ..snippets import ROOT, named
from ..waiting import until
from .processes import Daphne, Process, Uvicorn
from .sockets import connect


@pytest.fixture(scope="module")
def servers(database, valkey):
    """Two processes on one Redis: one that serves pages, and one that serves WebSockets."""
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.traces_settings",
        "REDIS_URL": valkey.url,
    }
    application = "tests.e2e.traces_asgi:application"
    processes = Daphne(application, env=env), Uvicorn(application, env=env)
    yield processes
    for process in processes:
        process.stop()


async def get(server, path):
    def read():
        with urllib.request.urlopen(server.http(path)) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(read)


class Span:
    """One that a process has shown."""

    def __init__(self, server, fields):
        self.server, self.name = server, fields["name"]
        self.id, self.trace = fields["context"]["span_id"], fields["context"]["trace_id"]
        self.parent = fields["parent_id"]
        self.links = [link["context"]["span_id"] for link in fields["links"]]
        self.attributes = fields["attributes"]


async def spans_of(*servers):
    return [
        Span(server, fields)
        for server in servers
        for fields in json.loads(await get(server, "/spans/"))
    ]


def last(spans, name, server):
    """The last one with this name in this process."""
    return [span for span in spans if span.name == name and span.server is server][-1]


async def shown(servers, name, count, server):
    """All spans, once a process has so many with this name."""
    found = []

    async def look():
        found[:] = await spans_of(*servers)
        return sum(span.name == name and span.server is server for span in found) >= count

    while not await look():  # noqa: ASYNC110 - spans tell nobody when they end
        await asyncio.sleep(0.01)
    return found


def counted(spans, name, server):
    return sum(span.name == name and span.server is server for span in spans)


@pytest.mark.parametrize("query", ["", "?later"])
async def test_a_view_in_one_process_and_members_in_another_are_one_trace(servers, query):
    web, live = servers
    before = counted(await spans_of(*servers), "group /", live)
    async with connect(live.ws()) as ann, connect(live.ws()) as bob:
        assert await get(web, f"/pay/default/{query}") == "paid"
        assert [await ann.recv(), await bob.recv()] == ["paid, thank you"] * 2
        spans = await shown(servers, "group /", before + 1, live)
    way = [
        last(spans, "pay", web),
        last(spans, "publish default", web),
        last(spans, "process default", live),
        last(spans, "group /", live),
        last(spans, "Thank", live),
    ]
    assert len({span.trace for span in way}) == 1
    assert [span.parent for span in way] == [None, *(span.id for span in way[:-1])]
    # The members' handshakes are no part of it.
    assert last(spans, "GET /", live).trace != way[0].trace


async def test_a_client_of_one_process_and_members_of_both_are_one_trace(servers):
    web, live = servers
    before = await spans_of(*servers)
    async with connect(web.ws()) as ann, connect(web.ws()) as bob, connect(live.ws()) as eve:
        await ann.send("hi")
        assert await bob.recv() == await eve.recv() == "hi, thank you"
        for server in servers:
            count = counted(before, "group /", server) + 1
            spans = await shown(servers, "group /", count, server)
    message = last(spans, "message /", web)
    sent = last(spans, "BroadcastMessagesFilter", web)
    published = last(spans, "publish default", web)
    assert message.links == [
        span.id
        for span in spans
        if span.name == "GET /"
        and span.attributes["fws.connection.id"] == message.attributes["fws.connection.id"]
    ]
    assert (sent.parent, published.parent) == (message.id, sent.id)
    for server in servers:
        process, group = (last(spans, name, server) for name in ("process default", "group /"))
        assert process.parent == published.id and group.parent == process.id
        assert process.trace == group.trace == message.trace


async def test_what_is_recovered_in_another_process_has_a_link_to_its_publish(servers):
    web, live = servers
    name = "room:<int:room>"
    for _ in range(2):
        await get(web, "/pay/room:7/")
    async with connect(live.ws("/?7&all")) as ann:
        assert [await ann.recv(), await ann.recv()] == ["paid, thank you"] * 2
        spans = await shown(servers, f"recover {name}", 1, live)
    published = [span for span in spans if span.name == f"publish {name}"]
    recover = last(spans, f"recover {name}", live)
    assert recover.links == [span.id for span in published] and len(published) == 2
    assert recover.trace not in {span.trace for span in published}
    assert [span.name for span in spans if span.parent == recover.id] == ["group /"] * 2


async def test_no_client_is_told_of_a_trace(servers):
    web, live = servers
    async with connect(live.ws("/?8")) as ann:
        await get(web, "/pay/room:8/")
        assert await ann.recv() == "paid, thank you"
        assert not re.search("trace", str(ann.response.headers), re.IGNORECASE)


# The example of the page

PAGE = "docs/traces.md"
SITE = {
    "__init__.py": "",
    "settings.py": (
        "from fws_project.settings import *\n"
        "ROOT_URLCONF = 'mysite.urls'\n"
        "INSTALLED_FILTERS = ['mysite.filters']\n"
    ),
    "urls.py": (
        "from django.urls import path\n"
        "from . import views\n"
        "urlpatterns = [path('pay/<int:order>/', views.pay)]\n"
    ),
}
#: A process that serves no WebSockets calls the view.
CALL = (
    "import mysite.asgi\n"
    "from django.test import Client\n"
    "assert Client().get('/pay/7/').status_code == 200\n"
)


def printed(process):
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


async def test_the_example_of_the_page_is_one_trace(database, valkey, tmp_path):
    site = tmp_path / "mysite"
    site.mkdir()
    blocks = named(PAGE)
    files = {name: blocks[name] for name in ("tracing.py", "asgi.py", "views.py", "filters.py")}
    for name, text in {**SITE, **files}.items():
        (site / name).write_text(text)
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "DJANGO_ALLOWED_HOSTS": "*",
        "REDIS_URL": valkey.url,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    live = await asyncio.to_thread(Daphne, "mysite.asgi:application", env=env)
    web = None
    try:
        async with connect(live.ws()) as ann:
            web = await asyncio.to_thread(Process, [sys.executable, "-c", CALL], env=env)
            assert await asyncio.to_thread(web.wait) == 0, web.output
            assert json.loads(await ann.recv()) == {"paid": 7, "thanks": True}
            await until(lambda: any(span["name"] == "group /" for span in printed(live)))
    finally:
        if web is not None:
            web.stop()
        live.stop()
    by_name = {span["name"]: span for span in printed(web) + printed(live)}
    way = [line.split("  ")[0] for line in map(str.strip, blocks["the trace"].splitlines())]
    ids = [by_name[name]["context"]["span_id"] for name in way]
    assert way[0] == "pay" and len(way) == 5
    assert [by_name[name]["parent_id"] for name in way] == [None, *ids[:-1]]
    assert len({by_name[name]["context"]["trace_id"] for name in way}) == 1
    assert {span["resource"]["attributes"]["service.name"] for span in by_name.values()} == {
        "mysite"
    }
