"""Presence within one process: hubs on several event loops share it."""

import asyncio
import os
import threading

from filtered_websocket.presence import memory as module
from filtered_websocket.presence.base import Call, Info, Stats, pack_info
from filtered_websocket.presence.memory import ProcessStore, members_here, stats_here

from ..waiting import LIMIT, limited
from .worlds import call, entry


def open_store(heard=None, lease=60.0):
    events = [] if heard is None else heard
    return ProcessStore(lambda group, some: events.extend(some), lease)


async def test_all_hubs_hear_the_same_in_the_same_order():
    one, two = [], []
    first, second = open_store(one), open_store(two)
    await asyncio.gather(*(call(first, "o", "g", (f"c{n}", entry("ann"))) for n in range(9)))
    await call(second, "p", "g", ("d", entry()), ("e", entry()))
    await asyncio.sleep(0)
    assert one == two and [event.connection for event in one][-2:] == ["d", "e"]
    assert (await first.members("g")).infos["d"] == Info(None)
    assert await second.stats("g") == (11, 2)
    await first.close()
    await second.close()


async def test_with_the_last_hub_all_is_forgotten():
    first, second = open_store(lease=5.0), open_store(lease=7.0)
    assert first.lease == second.lease == 5.0
    await call(first, "o", "g", ("a", entry()))
    await first.close()
    assert members_here("g").infos == {"a": Info(None)}
    await second.close()
    assert members_here("g").infos == {} and stats_here("g") == Stats(0, 0)
    assert await second.change("o", [Call("g", [("a", entry())])]) == []


async def test_each_hub_hears_on_its_own_event_loop():
    here, there = [], []
    began, done = threading.Event(), threading.Event()

    async def listen():
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        def hear(group, events):
            there.extend(events)
            arrived.set_result(threading.get_ident())

        store = ProcessStore(hear, 60.0)
        began.set()
        assert await asyncio.wait_for(arrived, LIMIT) == threading.get_ident()
        await store.close()
        done.set()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    store = open_store(here)
    thread.start()
    async with limited():
        await asyncio.to_thread(began.wait)
        await call(store, "o", "g", ("a", entry()))
        await asyncio.to_thread(done.wait)
    thread.join()
    assert here == there != []
    await store.close()


def test_what_a_closed_event_loop_left_behind_is_forgotten():
    async def leave_it_open():
        await call(open_store(), "o", "g", ("a", entry()))

    asyncio.run(leave_it_open())
    assert members_here("g").infos == {"a": Info(None)}

    async def begin():
        other, ended = open_store(), asyncio.new_event_loop()
        assert members_here("g").infos == {}
        # One that is closed later is told nothing.
        stranger = open_store()
        stranger._loop = ended
        ended.close()
        await call(other, "o", "g", ("b", entry()))
        await other.close()
        await stranger.close()

    asyncio.run(begin())


async def test_a_forked_child_has_no_connections_of_its_parent():
    store = open_store()
    await call(store, "o", "g", ("a", pack_info(Info("ann"))))
    with module._lock:
        child = os.fork()
        if not child:
            os._exit(len(members_here("g").entries))
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0
    assert len(members_here("g").entries) == 1
    await store.close()
