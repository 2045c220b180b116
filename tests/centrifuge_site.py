"""
A site for the clients' own tests of the Centrifuge protocol, with what they ask of a server:

    daphne -p 8000 tests.centrifuge_site:application

Nothing else is needed; where REDIS_URL is set, several processes share it.
"""

import os

from django.conf import settings

if not settings.configured:
    URL = os.environ.get("REDIS_URL")
    LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 10_000}}
    if URL:
        LAYER = {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [URL]},
        }
    settings.configure(
        SECRET_KEY="centrifuge",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.centrifuge_site",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "channels",
            "filtered_websocket",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CHANNEL_LAYERS={"default": LAYER},
        INSTALLED_FILTERS=[],
        FILTERED_WEBSOCKET={
            "AUTHENTICATORS": [],
            "GROUPS": "tests.centrifuge_site",
            "JWT_KEY": "secret",
            "API_KEY": "test-api-key",
            # A busy machine is not taken for an outage.
            "LAYER_TIMEOUT": 30.0,
        },
    )

from django.core.asgi import get_asgi_application

http = get_asgi_application()

from django.urls import include, path, register_converter  # noqa: E402

from filtered_websocket.groups import History, group, personal  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402


class AnyName:
    """Any name of a group, slashes and colons included."""

    regex = ".+"

    def to_python(self, value):
        return value

    def to_url(self, value):
        return value


register_converter(AnyName, "any")
urlpatterns = [path("api/", include("filtered_websocket.api.urls"))]


def by_anyone(connection, **captured):
    return True


grouppatterns = [
    group(
        "smallhistory:<any:name>",
        publish=by_anyone,
        history=History(size=2, ttl=300),
    ),
    group("recovery:<any:name>", publish=by_anyone, history=History(size=100, ttl=300)),
    group(
        "<any:name>",
        publish=by_anyone,
        presence=True,
        join_leave=True,
        binary=True,
        history=History(size=100, ttl=300),
    ),
    personal(presence=True, join_leave=True, publish=by_anyone, history=History(100, 300)),
]
application = with_websockets(http, [], protocols=True)
