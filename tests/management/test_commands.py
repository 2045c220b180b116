"""Management commands and the demo page."""

import gc
from io import StringIO

import pytest
from channels.routing import get_default_application
from django import urls
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from filtered_websocket.checks.settings import check_filters
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group, personal
from filtered_websocket.pipelines import route as routes
from filtered_websocket.views import demo, live


def output(*command):
    stream = StringIO()
    call_command(*command, stdout=stream)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def no_routes_of_other_tests():
    get_default_application()
    gc.collect()


def test_filters_prints_no_pipeline_that_no_route_runs(settings, monkeypatch):
    monkeypatch.setattr(routes, "_routes", set())
    settings.INSTALLED_FILTERS = ["tests.lone_filter"]
    offered = FilteredWebSocketConsumer.as_asgi(build=False)
    own = FilteredWebSocketConsumer.as_asgi(filters=["tests.lone_filter.Pop"], groups=["own"])
    # As system checks do, which run before the command.
    assert check_filters() == [] and offered.route.built is not None
    expected = "(a path this package does not know)  home group 'own'\n  message    | pop\n"
    assert output("filters") == expected
    offered.route.paths.append("/")
    served = "/  home group 'default'\n  message    | lone_filter.Pop\n"
    assert output("filters") == served + expected
    del own


def test_groups_prints_the_rules_as_one_would_type_them(settings, monkeypatch):
    def is_member(connection, room):
        return True

    listed = [
        group("news"),
        group("room:<int:room>", join=is_member, publish=True, presence=True, join_leave=True),
        group("board:<slug:name>", join="board.view", see=False, history=History(1, 60.5)),
        personal(history=History(size=20, ttl=3600), latest=True),
    ]
    monkeypatch.setattr(routes, "_routes", set())
    with pytest.raises(CommandError, match="no group rules: name a module"):
        call_command("groups")
    one = FilteredWebSocketConsumer.as_asgi(filters=[], group_rules=listed)
    other = FilteredWebSocketConsumer.as_asgi(filters=[], group_rules=listed)
    without = FilteredWebSocketConsumer.as_asgi(filters=[])
    without.route.paths.append("/without/")
    one.route.paths += ["/one/", "/first/"]
    other.route.paths.append("/other/")
    lines = """/one/, /first/, /other/
  group('news')
  group('room:<int:room>', join=NAME, publish=True, presence=True, join_leave=True)
  group('board:<slug:name>', join='board.view', see=False, history=History(size=1, ttl=60.5))
  personal(history=History(size=20, ttl=3600), latest=True)
"""
    assert output("groups") == lines.replace("NAME", is_member.__qualname__)
    other.route.is_own = True
    assert "/other/" not in output("groups")
    other.route.is_own = False
    other.route.paths.clear()
    one.route.paths.clear()
    assert output("groups").startswith("group_rules\n")
    wrong = FilteredWebSocketConsumer.as_asgi(build=False, filters=[], group_rules="nowhere")
    with pytest.raises(CommandError, match="GROUPS 'nowhere': there is no module"):
        call_command("groups", skip_checks=True)
    del wrong


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
        "(a path this package does not know)  home group 'own'\n  message    | lone_filter.Pop\n"
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
    [("/", "| broadcast_messages"), ("/rooms/a%3Cb/", "| tidy_said")],
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
    response = Client().get("/", headers={"host": "localhost"})
    assert response.status_code == 200
    assert 'id="rooms"' not in response.content.decode()


@pytest.mark.parametrize("path", ["/talk/", "/talk/garden/"])
def test_the_demo_page_does_not_use_names_of_the_sites_urls(settings, path):
    settings.ROOT_URLCONF = type(
        "OfTheSite",
        (),
        {
            "urlpatterns": [
                urls.path("chat/", live, name="chat"),
                urls.path("room/<name>/", live, name="room"),
                urls.path("talk/", demo, name="talk"),
                urls.path("talk/<name>/", demo),
            ]
        },
    )
    page = Client().get(path, headers={"host": "localhost"}).content.decode()
    assert "/chat/" not in page and "/room/" not in page
    assert 'data-url="/talk/-/"' in page
    assert ('href="/talk/"' in page) is (path != "/talk/")


@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", "filtered_websocket", check=True, dry_run=True, verbosity=0)
