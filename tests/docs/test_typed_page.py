"""The page on typed messages runs as it is written, and a type checker has read it."""

import json

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.management.asyncapi import document
from filtered_websocket.testing import connect

from ..snippets import ROOT, named

PAGE = "docs/typed.md"


async def test_its_filters_and_their_tests(site):
    _, tests = site(PAGE, "filters.py", "test_talk.py")
    await tests.test_what_is_said_reaches_the_others()
    await tests.test_a_sum()


def test_make_types_checks_the_filters_of_the_page():
    """With mistakes that it has to find: ``typed_mistakes``, and pyproject.toml names both."""
    assert (ROOT / "tests" / "typed_example.py").read_text() == named(PAGE)["filters.py"]


async def test_a_form_is_answered_in_the_words_of_the_site(site):
    [filters] = site(PAGE, "filters.py")
    page = site.run(PAGE, "invalid", Said=filters.Said)
    async with connect([page.Form]) as client:
        await client.send('{"text": ""}')
        assert json.loads(await client.receive()) == {
            "field": "text",
            "problem": "String should have at least 1 character",
        }
        assert await client.received_nothing()


async def test_a_client_is_told_what_the_page_says(site):
    [filters] = site(PAGE, "filters.py")
    page = site.run(PAGE, "invalid", Said=filters.Said)
    del page.Form.invalid
    async with connect([page.Form]) as client:
        await client.send("{}")
        assert await client.closed() == 4400
        assert client.close_reason == "text: Field required"


def test_its_operations_are_those_of_its_filters(site):
    [filters] = site(PAGE, "filters.py")
    app = FilteredWebSocketConsumer.as_asgi(filters=[filters.Talk, filters.Add])
    app.route.paths.append("/")
    found = document([app.route], "x", "1")["operations"]
    assert found == json.loads(named(PAGE)["operations"])
