"""The hubs of one process are linked without a channel layer."""

import asyncio
import threading

import pytest
from channels.layers import InMemoryChannelLayer

from filtered_websocket.layer import links
from filtered_websocket.layer.envelope import Batch
from filtered_websocket.layer.link import LayerLink
from filtered_websocket.layer.links import ProcessLink, open_link
from filtered_websocket.publishing.items import new_item

BATCH = Batch("o", "a", 0, [new_item("x")])


@pytest.fixture(autouse=True)
def nothing_is_left_joined():
    yield
    assert links._joined == {}


async def test_a_batch_goes_to_those_that_have_joined_its_group():
    seen, told = [], []
    one, other = (ProcessLink(lambda batch, n=n: seen.append((n, batch))) for n in "12")
    one.start()
    for link in (one, other):
        link.want("a")
        link.want("a")
    other.want("b")
    assert one.is_joined("a") and await one.wait_joined("a") and await one.round_trip()
    assert not one.is_joined("b") and not await one.wait_joined("b")
    assert one.is_available and await one.wait_available(0)
    one.post(BATCH, told.append)
    assert seen == [("1", BATCH)] and told == [None]
    await asyncio.sleep(0)
    assert seen == [("1", BATCH), ("2", BATCH)]
    one.unwant("a")
    await one.send(BATCH)
    other.unwant("a")
    await asyncio.sleep(0)
    assert len(seen) == 2, "it left before the batch came"
    await one.send(BATCH._replace(key="b"))
    await other.stop()
    await asyncio.sleep(0)
    assert len(seen) == 2
    await one.stop()


async def test_hubs_of_other_threads_are_woken_and_get_everything_in_order():
    """Also while they have nothing else to do."""
    seen, ready = [], threading.Event()

    async def receive():
        loop = asyncio.get_running_loop()
        enough = loop.create_future()

        def note(batch):
            seen.append(batch.first)
            if len(seen) == 100:
                enough.set_result(None)

        link = ProcessLink(note)
        link.want("a")
        ready.set()
        await enough
        await link.stop()

    thread = threading.Thread(target=asyncio.run, args=[receive()])
    thread.start()
    await asyncio.to_thread(ready.wait)
    mine = ProcessLink(lambda batch: None)
    for number in range(100):
        await mine.send(BATCH._replace(first=number))
    await asyncio.to_thread(thread.join)
    assert seen == list(range(100))


def test_a_hub_whose_loop_was_closed_is_forgotten():
    async def join():
        ProcessLink(lambda batch: None).want("a")

    asyncio.run(join())

    async def send():
        await ProcessLink(lambda batch: None).send(BATCH)

    assert "a" in links._joined
    asyncio.run(send())


class Own(InMemoryChannelLayer):
    """A layer of the site's own, which may do more."""


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, ProcessLink),
        ({"BACKEND": f"{__name__}.Own"}, LayerLink),
    ],
)
async def test_only_the_layers_that_end_in_this_process_are_replaced(settings, backend, kind):
    settings.CHANNEL_LAYERS = {"default": backend}
    assert type(open_link(None, None, **dict.fromkeys(CALLBACKS))) is kind
    settings.CHANNEL_LAYERS = {}
    assert type(open_link(None, None, **dict.fromkeys(CALLBACKS))) is ProcessLink


CALLBACKS = "on_lost", "on_back", "on_bad_envelope", "on_joined_late"


async def test_a_send_costs_the_same_with_any_number_of_groups(monkeypatch):
    """Counted in looks at groups."""
    looks = 0

    class Counting(dict):
        def get(self, *args):
            nonlocal looks
            looks += 1
            return super().get(*args)

        def __iter__(self):
            raise AssertionError("looks at all groups")

        items = values = keys = __iter__

    link = ProcessLink(lambda batch: None)
    for number in range(1000):
        link.want(str(number))
    link.want("a")
    with monkeypatch.context() as patch:
        patch.setattr(links, "_joined", Counting(links._joined))
        await link.send(BATCH)
    assert looks == 1
    await link.stop()
