"""Two sites on two databases of one Redis, whose pub/sub has none."""

import asyncio

import pytest

from .processes import Daphne
from .sockets import connect
from .test_serving import hears


@pytest.fixture
def sites(database, valkey):
    """The example, once with database 0 and once with database 1."""
    processes = [
        Daphne(env={**database, "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/{number}"})
        for number in (0, 1)
    ]
    yield processes
    for process in processes:
        process.stop()


async def test_they_do_not_receive_each_others_messages_and_the_log_names_the_other(sites):
    production, staging = sites
    async with connect(production.ws()) as ann, connect(production.ws()) as bob:
        async with connect(staging.ws()) as cy, connect(staging.ws()) as dan:
            await ann.send("of production")
            assert await hears(bob, 1) == ["of production"]
            await cy.send("of staging")
            assert await hears(dan, 1) == ["of staging"]
            await dan.send("end of staging")
            assert await hears(cy, 1) == ["end of staging"]
            await bob.send("end of production")
            assert await hears(ann, 1) == ["end of production"]
        said = await asyncio.to_thread(staging.said, r"\d+ processes listen under 'fws'.*'fws-1'")
        assert said
    assert "processes listen under" not in production.output


async def test_their_channels_have_different_names(sites, valkey):
    production, staging = sites
    async with connect(production.ws()), connect(staging.ws()):
        with valkey.client() as client:
            names = client.pubsub_channels("asgi__group__*")
    spaces = {name.removeprefix("asgi__group__").partition(".")[0] for name in names}
    assert {"fws", "fws-1"} <= spaces
