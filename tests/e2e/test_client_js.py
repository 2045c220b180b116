"""client.js in a real browser: offline, a killed server, two tabs."""

import itertools

import pytest
import pytest_asyncio

from .protocol_processes import ProtocolSite

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()

#: What a page notes, and how it waits for that.
SCRIPT = """
async (group) => {
  const { connect } = await import("/static/filtered_websocket/client.js");
  const noted = [];
  let wake = () => {};
  const note = (...what) => { noted.push(what); wake(); };
  window.seen = async (name, count) => {
    const those = () => noted.filter(([of]) => of === name).map(([, what]) => what);
    while (those().length < count) await new Promise((woken) => { wake = woken; });
    return those();
  };
  window.client = connect(undefined, {
    onopen: () => note("open"),
    onclose: ({ delay }) => note("close", delay),
  });
  window.room = client.subscribe(group, {
    recover: true,
    data: { a: 1 },
    onmessage: (data) => note("message", data),
    onjoin: ({ client }) => note("join", client),
    onleave: ({ client }) => note("leave", client),
    onsubscribe: ({ recovered, data }) => note("subscribe", [recovered, data]),
    onend: ({ code }) => note("end", code),
  });
  await seen("subscribe", 1);
  return client.id;
}
"""


@pytest.fixture(scope="module")
def site(database):
    site = ProtocolSite(database, 1)
    yield site
    site.stop()


class Tab:
    """A page that is subscribed to a group."""

    @classmethod
    async def open(cls, context, site, group):
        tab = cls()
        tab.page = await context.new_page()
        tab.wrong = []
        tab.page.on("pageerror", lambda error: tab.wrong.append(str(error)))
        await tab.page.goto(site.first.http())
        tab.id = await tab.page.evaluate(SCRIPT, group)
        tab.group = group
        return tab

    async def seen(self, name, count):
        """The first so many, once they are there."""
        return await self.page.evaluate("([name, count]) => seen(name, count)", [name, count])

    async def publish(self, data):
        await self.page.evaluate("([to, data]) => client.publish(to, data)", [self.group, data])


@pytest_asyncio.fixture(loop_scope="session")
async def tabs(new_context, site):
    """Two tabs, of one group with a history, and nothing that went wrong in them."""
    group = f"kept:{next(NAMES)}"
    contexts = [await new_context() for _ in range(2)]
    tabs = [await Tab.open(context, site, group) for context in contexts]
    yield tabs
    for tab in tabs:
        assert tab.wrong == []


async def test_two_tabs_hear_one_another_and_see_who_is_there(tabs):
    ann, bob = tabs
    assert await ann.seen("subscribe", 1) == [[None, {"you said": {"a": 1}}]]
    assert await ann.seen("join", 2) == [ann.id, bob.id]
    await ann.publish({"text": "grüße, 世界"})
    await bob.publish({"text": "<b>"})
    for tab in tabs:
        assert await tab.seen("message", 2) == [{"text": "grüße, 世界"}, {"text": "<b>"}]
    here = await ann.page.evaluate(
        "async to => (await client.presence(to)).map(i => i.client)", ann.group
    )
    assert set(here) == {ann.id, bob.id}
    page = await ann.page.evaluate(
        "to => client.history(to, { limit: 1, reverse: true })", ann.group
    )
    assert [one["data"] for one in page["publications"]] == [{"text": "<b>"}]
    assert await ann.page.evaluate("client.call('add', [1, 2])") == 3
    refused = "client.call('nothing').catch((error) => [error.name, error.code])"
    assert await ann.page.evaluate(refused) == ["RequestError", 104]
    await bob.page.close()
    assert await ann.seen("leave", 1) == [bob.id]


async def test_who_was_offline_gets_what_was_missed(tabs):
    ann, bob = tabs
    await ann.page.context.set_offline(True)
    await ann.seen("close", 1)
    assert await ann.page.evaluate("client.state") == "waiting"
    for number in range(20):
        await bob.publish(number)
    await ann.page.context.set_offline(False)
    assert (await ann.seen("subscribe", 2))[1][0] is True
    await bob.publish(20)
    assert await ann.seen("message", 21) == list(range(21))


async def test_after_a_killed_server_both_go_on_where_they_were(tabs, site):
    ann, bob = tabs
    await ann.publish(0)
    for tab in tabs:
        await tab.seen("message", 1)
    site.kill()
    try:
        for tab in tabs:
            await tab.seen("close", 1)
    finally:
        site.revive()
    for tab in tabs:
        assert (await tab.seen("subscribe", 2))[1][0] is True
    await ann.publish(1)
    await bob.publish(2)
    for tab in tabs:
        assert await tab.seen("message", 3) == [0, 1, 2]
