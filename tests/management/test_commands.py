"""Management commands and the demo page."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.pipelines import route as routes


def output(*command):
    stream = StringIO()
    call_command(*command, stdout=stream)
    return stream.getvalue()


def test_filters_prints_every_route_as_pipes():
    printed = output("filters")
    # Between them may be routes of other tests that are still in use.
    assert "/  home group 'default'\n  message    | broadcast_messages\n" in printed
    assert (
        "/rooms/<str:name>/  a home group per connection\n"
        "  message    | tidy | shout | broadcast_messages\n"
    ) in printed


def test_filters_prints_routes_of_a_router_it_does_not_know():
    own = FilteredWebSocketConsumer.as_asgi(filters=["tests.lone_filter"], groups=["own"])
    assert (
        "(a path this package does not know)  home group 'own'\n  message    | lone_filter\n"
    ) in output("filters")
    del own


def test_filters_says_what_is_wrong_with_a_pipeline(settings):
    settings.INSTALLED_FILTERS = ["nowhere"]
    with pytest.raises(CommandError, match="'nowhere': there is no such module"):
        output("filters")


def test_filters_without_routes_says_what_to_do(monkeypatch):
    monkeypatch.setattr(routes, "_routes", set())
    with pytest.raises(CommandError, match="no WebSocket routes"):
        output("filters")


@pytest.mark.parametrize(
    ("path", "pipes"),
    [("/", "| broadcast_messages"), ("/rooms/a%3Cb/", "| tidy | shout | broadcast_messages")],
)
def test_the_demo_page_shows_the_pipeline_it_talks_to(path, pipes):
    response = Client().get(path, headers={"host": "localhost"})
    assert response.status_code == 200
    assert pipes in response.content.decode()
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert "<script>" not in response.content.decode()
    assert "a<b" not in response.content.decode()


def test_the_demo_page_can_be_included(settings):
    settings.ROOT_URLCONF = "filtered_websocket.urls"
    assert reverse("demo") == "/"
    assert Client().get("/", headers={"host": "localhost"}).status_code == 200


@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", "filtered_websocket", check=True, dry_run=True, verbosity=0)
