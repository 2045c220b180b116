"""When the demo's clients come back: reconnect.js, in a real browser."""

import itertools

import pytest
import pytest_asyncio

from benchmarks.reconnect import CONSTANTS, SCRIPT, delay_after

from ..waiting import LIMIT
from .conftest import close

pytestmark = pytest.mark.asyncio(loop_scope="session")
CLIENTS = 10_000


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(browser):
    """One for all tests: what they call in it keeps nothing."""
    context = await browser.new_context()
    context.set_default_timeout(LIMIT * 1000)
    page = await context.new_page()
    await page.add_script_tag(path=SCRIPT)
    yield page
    await close(context)


async def delays(page, code, waited):
    """Of ``CLIENTS`` clients that have waited so long before, each by its own chance."""
    script = (
        "([clients, code, waited]) =>"
        "  Array.from({ length: clients }, () => Reconnect.delayAfter(code, waited))"
    )
    return await page.evaluate(script, [CLIENTS, code, waited])


async def returns(page, code, away):
    """How long after the server they are back that were closed together, ``away`` before."""
    script = (
        "([clients, code, away]) => Array.from({ length: clients }, () => {"
        "  const reconnect = new Reconnect();"
        "  let now = reconnect.closed(code, 0);"
        "  while (now < away) now += reconnect.closed(1006, now);"
        "  return now - away;"
        "})"
    )
    return await page.evaluate(script, [CLIENTS, code, away])


def fullest(times, width):
    """How many times the mean the fullest of the buckets holds, up to the last one in use."""
    buckets = [0] * (int(max(times) // width) + 1)
    for time in times:
        buckets[int(time // width)] += 1
    return max(buckets) * len(buckets) / len(times)


async def test_the_first_delay_is_all_chance_and_later_ones_grow_to_the_cap(page):
    expected = (
        (0, 0, 500),
        (1, 250, 500),
        (900, 450, 900),
        (8_000, 4_000, 8_000),
        (40_000, 15_000, 30_000),
    )
    for waited, least, most in expected:
        found = await delays(page, 1006, waited)
        edge = 0.01 * most
        assert least <= min(found) < least + edge and most - edge < max(found) <= most
        # Of one chance for all of them, and for all times.
        assert len(set(found)) > 0.99 * CLIENTS
        assert fullest([delay - least for delay in found], (most - least) / 30) < 1.5


@pytest.mark.parametrize("away", [60_000, 10_000])
async def test_10_000_clients_of_a_server_that_was_away_do_not_come_back_as_one(page, away):
    """All were closed at the same moment, and ask until the server is back."""
    found = await returns(page, 1006, away)
    assert fullest(found, away / 60) < 3.5 and max(found) <= CONSTANTS["CAP"]


@pytest.mark.parametrize("code", [1006, 4200])
@pytest.mark.parametrize("away", [300, 2_000, 10_000])
async def test_all_are_back_before_the_server_was_away_twice_as_long(page, code, away):
    first = CONSTANTS["SOON" if code == 4200 else "BASE"]
    assert max(await returns(page, code, away)) <= max(first, away)


async def test_a_restart_is_come_back_from_within_a_second_but_only_once(page):
    found = await delays(page, 4200, 0)
    assert 990 < max(found) <= 1_000 and fullest(found, 100) < 1.5
    assert max(await delays(page, 4200, 40_000)) > 29_000


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
    assert await page.evaluate(script, 60_000) == [500, 500]
    assert await page.evaluate(script, 59_999) == [30_000, 30_000]


@pytest.mark.parametrize("code", [1000, 4400, 4401, 4403, 4404, 4413, 4499])
async def test_who_was_told_to_stay_away_does_not_come_back(page, code):
    assert set(await delays(page, code, 0)) == {None}


async def test_the_tests_clients_in_python_follow_the_same_rule(page):
    codes = (1000, 1001, 1006, 1012, 4000, 4100, 4101, 4200, 4299, 4300, 4400, 4499, 4500)
    cases = list(itertools.product(codes, (0, 1, 900, 2_000, 50_000), (0, 0.25, 0.999)))
    script = (
        "cases => cases.map(([code, waited, chance]) =>"
        "  Reconnect.delayAfter(code, waited, () => chance))"
    )
    assert await page.evaluate(script, cases) == [delay_after(*case) for case in cases]
    shown = "() => [Reconnect.BASE, Reconnect.CAP, Reconnect.SOON, Reconnect.STABLE]"
    names = ("BASE", "CAP", "SOON", "STABLE")
    assert await page.evaluate(shown) == [CONSTANTS[name] for name in names]
