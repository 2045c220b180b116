"""Places in pipes, as one types them."""

import pytest

from filtered_websocket import WebSocketDisconnectFilter, WebSocketMessageFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.pipelines import route as routes
from filtered_websocket.pipelines.places import (
    Place,
    find_place,
    is_route_of,
    names_of,
    stages_at,
)

from ..connections.test_connection import message_filter


def shout(web_socket_instance, data):
    pass


def tidy(web_socket_instance, data):
    pass


def note(web_socket_instance, data):
    pass


SHOUT, TIDY = message_filter(shout), message_filter(tidy)
NOTES = [
    message_filter(note, WebSocketDisconnectFilter),
    message_filter(shout, WebSocketDisconnectFilter),
]


@pytest.fixture
def served(monkeypatch):
    """A function that makes a route at these paths."""
    monkeypatch.setattr(routes, "_routes", set())

    def serve(filters, *paths, groups=None):
        route = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=groups).route
        route.paths += paths
        return route

    return serve


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("/", Place("/")),
        ("", Place("/")),
        ("/shout", Place("/", "shout")),
        ("shout", Place("/", "shout")),
        ("/message", Place("/", "message")),
        ("/disconnect", Place("/", "disconnect")),
        (f"/{__name__.replace('places', '')}", None),
        ("rooms", Place("/rooms/<str:name>/")),
        ("/rooms/<str:name>/", Place("/rooms/<str:name>/")),
        ("/rooms/<str:name>/tidy", Place("/rooms/<str:name>/", "tidy")),
        ("rooms/tidy", Place("/rooms/<str:name>/", "tidy")),
        ("rooms/message", Place("/rooms/<str:name>/", "message")),
        ("connection/websocket", Place("/connection/websocket")),
        ("/connection/websocket/tidy", Place("/connection/websocket", "tidy")),
    ],
)
def test_a_place_is_found_by_what_one_types(served, typed, place):
    kept = [
        served([SHOUT, *NOTES], "/"),
        served([TIDY], "/rooms/<str:name>/"),
        served([TIDY], "/connection/websocket", groups=["other"]),
        FilteredWebSocketConsumer.as_asgi(filters=[TIDY], build=False),
    ]
    if place is None:
        with pytest.raises(ValueError, match="the route / has no filter"):
            find_place(typed)
    else:
        assert find_place(typed) == place
    del kept


def test_a_mistake_says_what_there_is(served):
    kept = [served([SHOUT, TIDY], "/"), served([], "/empty/"), served([], groups=["own"])]
    kept.append(served([SHOUT], "/console/", groups=["console"]))
    kept[-1].is_own = True
    for typed, words in {
        "/shuot": "the route / has no filter 'shuot': its filters are shout, tidy",
        "empty/shout": "the route /empty/ has no filter 'shout': its filters are none",
        "/no/shout": "there is no route '/no/shout': the routes are /, /empty/, home group 'own'",
    }.items():
        with pytest.raises(ValueError) as caught:
            find_place(typed)
        assert str(caught.value) == words
    assert find_place("home group 'own'") == Place("home group 'own'")
    kept.clear()


def test_without_routes_there_are_none(served):
    with pytest.raises(ValueError, match="there is no route 'x': the routes are none"):
        find_place("x")


def test_what_may_be_several_places_must_be_written_out(served):
    kept = [served([SHOUT], "/a/<int:n>/"), served([SHOUT], "/a/<str:name>/", groups=["b"])]
    with pytest.raises(ValueError) as caught:
        find_place("a/shout")
    assert str(caught.value) == (
        "'a/shout' may be /a/<int:n>/shout or /a/<str:name>/shout: write one of these"
    )
    assert find_place("a/<int:n>/shout") == Place("/a/<int:n>/", "shout")
    kept.clear()


def test_a_filter_is_named_as_it_is_printed_by_its_class_or_its_path(served):
    route = served(["tests.lone_filter.Pop", SHOUT, *NOTES], "/")
    pipeline = route.pipeline
    message = {pipeline.message: frozenset({0})}
    for name in ("pop", "Pop", "tests.lone_filter.Pop"):
        assert stages_at(pipeline, name) == message
    both = {pipeline.message: frozenset({1}), pipeline.disconnect[1]: frozenset({0})}
    assert stages_at(pipeline, "shout") == both
    assert stages_at(pipeline, "disconnect") == {
        chain: frozenset({0}) for chain in pipeline.disconnect
    }
    assert stages_at(pipeline, "group") == {pipeline.group: frozenset()}
    everything = stages_at(pipeline, "")
    assert set(everything) == set(pipeline.chains) and everything[pipeline.message] == {0, 1}
    assert stages_at(pipeline, "nothing") == {}


def test_a_route_has_the_name_of_its_paths_or_its_group(served):
    route, own = served([SHOUT], "/a/", "/b/"), served([TIDY], groups=["g"])
    assert names_of(route) == ["/a/", "/b/"] and names_of(own) == ["home group 'g'"]
    assert is_route_of(route.pipeline, "/b/") and not is_route_of(own.pipeline, "/b/")
    assert is_route_of(own.pipeline, "home group 'g'")


def test_a_filter_has_the_label_that_is_printed(served):
    class Own(WebSocketMessageFilter):
        _registers = False

        @classmethod
        def filter(cls, web_socket_instance, data):
            pass

    pipeline = served([Own, "tests.lone_filter", *NOTES], "/").pipeline
    assert pipeline.labels_of(pipeline.message) == ["own", "lone_filter.Pop"]
    assert [pipeline.labels_of(chain) for chain in pipeline.disconnect] == [["note"], ["shout"]]
