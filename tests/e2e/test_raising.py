"""Filters that call sys.exit() or cancel their own task, on real servers."""

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .sockets import connect
from .test_lanes import SERVERS, SITE, running

#: In which chain -> what becomes of the connection after sys.exit(), and after a cancellation.
TABLE = {
    "data": (None, 4500),
    "message": (None, 4500),
    "blocking": (None, None),
    "group": (None, None),
    "event": (None, None),
}


@pytest.fixture(params=["daphne", "uvicorn"])
async def site(request, database, monkeypatch):
    start, options = SERVERS[request.param]
    monkeypatch.setitem(SITE, "DJANGO_SETTINGS_MODULE", "tests.e2e.raising_settings")
    async with running(start, database, *options) as server:
        yield server


async def echoes(client):
    """Whether the whole way works: what it sends comes back."""
    await client.send("hello")
    return await client.recv() == "hello"


async def test_sys_exit_and_cancel_in_a_filter_end_no_process_and_leave_no_socket_deaf(site):
    async with connect(site.ws()) as bob:
        for query in ("?connect-exit", "?connect-cancel"):
            with pytest.raises(InvalidStatus):
                await connect(site.ws("/" + query))
        for chain, outcomes in TABLE.items():
            for how, code in zip(("exit", "cancel"), outcomes, strict=True):
                async with connect(site.ws()) as ann:
                    await ann.send(f"{chain} {how}")
                    if code is None:
                        assert await echoes(ann), (chain, how)
                        assert await bob.recv() == "hello"
                    else:
                        with pytest.raises(ConnectionClosed) as caught:
                            await ann.recv()
                        assert caught.value.rcvd.code == code, (chain, how)
        # Every disconnect chain of this site calls sys.exit().
        await asyncio.to_thread(site.said, "GOODBYE")
        assert await echoes(bob)
    for path in ("Message", "Data", "Blocking", "Group", "Consumer", "Connect", "Goodbye"):
        await asyncio.to_thread(site.said, f"tests.e2e.raising_filters.{path} raised")
    assert site.is_running, site.output
