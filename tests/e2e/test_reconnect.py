"""When the demo's clients come back: reconnect.js, in a real browser."""

import itertools

import pytest
import pytest_asyncio

from benchmarks.reconnect import CONSTANTS, SCRIPT, delay_after

pytestmark = pytest.mark.asyncio(loop_scope="session")
CLIENTS = 10_000


@pytest_asyncio.fixture(loop_scope="session")
async def page(new_context):
    page = await (await new_context()).new_page()
    await page.add_script_tag(path=SCRIPT)
    return page


async def delays(page, code, attempt):
    """Of ``CLIENTS`` clients, each by its own chance."""
    script = (
        "([clients, code, attempt]) =>"
        "  Array.from({ length: clients }, () => Reconnect.delayAfter(code, attempt))"
    )
    return await page.evaluate(script, [CLIENTS, code, attempt])


def fullest(times, width):
    """How many times the mean the fullest of the buckets holds, up to the last one in use."""
    buckets = [0] * (int(max(times) // width) + 1)
    for time in times:
        buckets[int(time // width)] += 1
    return max(buckets) * len(buckets) / len(times)


async def test_the_delay_doubles_up_to_the_cap_and_is_all_chance(page):
    for attempt, ceiling in ((0, 500), (1, 1_000), (5, 16_000), (6, 30_000), (5_000, 30_000)):
        found = await delays(page, 1006, attempt)
        assert min(found) < 0.01 * ceiling and 0.99 * ceiling < max(found) <= ceiling
        # Of one chance for all of them, and for all times.
        assert len(set(found)) > 0.99 * CLIENTS
        assert fullest(found, ceiling / 30) < 1.5


async def test_10_000_clients_of_a_server_that_was_away_do_not_come_back_as_one(page):
    """All were closed at the same moment, and ask until the server is back a minute later."""
    script = (
        "([clients, away]) => Array.from({ length: clients }, () => {"
        "  const reconnect = new Reconnect();"
        "  let now = 0;"
        "  while (now < away) now += reconnect.closed(1006, now);"
        "  return now - away;"
        "})"
    )
    found = await page.evaluate(script, [CLIENTS, 60_000])
    assert fullest(found, 1_000) < 3 and max(found) <= CONSTANTS["CAP"]


async def test_a_restart_is_come_back_from_within_a_second_but_only_once(page):
    found = await delays(page, 4200, 0)
    assert 990 < max(found) <= 1_000 and fullest(found, 100) < 1.5
    assert max(await delays(page, 4200, 6)) > 29_000


async def test_a_connection_that_was_stable_begins_anew(page):
    script = (
        "lasted => {"
        "  const reconnect = new Reconnect();"
        "  for (let n = 0; n < 10; n += 1) reconnect.closed(1006, 0, () => 1);"
        "  reconnect.opened(1000);"
        "  const last = reconnect.closed(1006, 1000 + lasted, () => 1);"
        "  return [last, reconnect.closed(1006, 10 ** 9, () => 1)];"
        "}"
    )
    assert await page.evaluate(script, 60_000) == [500, 1_000]
    assert await page.evaluate(script, 59_999) == [30_000, 30_000]


@pytest.mark.parametrize("code", [1000, 4400, 4401, 4403, 4404, 4413, 4499])
async def test_who_was_told_to_stay_away_does_not_come_back(page, code):
    assert set(await delays(page, code, 0)) == {None}


async def test_the_tests_clients_in_python_follow_the_same_rule(page):
    codes = (1000, 1001, 1006, 1012, 4000, 4100, 4101, 4200, 4299, 4300, 4400, 4499, 4500)
    cases = list(itertools.product(codes, (0, 1, 5, 6, 50), (0, 0.25, 0.999)))
    script = (
        "cases => cases.map(([code, n, chance]) => Reconnect.delayAfter(code, n, () => chance))"
    )
    assert await page.evaluate(script, cases) == [delay_after(*case) for case in cases]
    shown = "() => [Reconnect.BASE, Reconnect.CAP, Reconnect.SOON, Reconnect.STABLE]"
    names = ("BASE", "CAP", "SOON", "STABLE")
    assert await page.evaluate(shown) == [CONSTANTS[name] for name in names]
