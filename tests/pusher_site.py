"""
A site for the tests of Pusher's own clients, with what they ask of a server:

    daphne -p 6001 tests.pusher_site:application

Nothing else is needed. Where REDIS_URL is set, several processes share it, and PUSHER_DB is the
database that they share. ``/login/ann`` logs ``ann`` in.
"""

import atexit
import json
import os
import tempfile
import threading

from django.conf import settings

if not settings.configured:
    URL = os.environ.get("REDIS_URL")
    LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 10_000}}
    if URL:
        LAYER = {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [URL]},
        }
    # Pages of the admin, for "boss", where a test looks at them.
    ADMIN = "PUSHER_ADMIN" in os.environ
    DATABASE = os.environ.get("PUSHER_DB")
    if DATABASE is None:
        folder = tempfile.TemporaryDirectory(prefix="fws-pusher-")
        atexit.register(folder.cleanup)
        DATABASE = f"{folder.name}/db.sqlite3"
    APP = {
        "ID": "1",
        "KEY": "app-key",
        "SECRET": "app-secret",
        "CLIENT_EVENTS": True,
        # 32 bytes.
        "ENCRYPTION_MASTER_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "USER_INFO": "tests.pusher_site.shown",
    }
    settings.configure(
        SECRET_KEY="pusher",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.pusher_site",
        USE_TZ=True,
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "channels",
            "filtered_websocket",
            *(["django.contrib.admin", "django.contrib.messages"] if ADMIN else []),
        ],
        STATIC_URL="/static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ],
                },
            },
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            *(["django.contrib.messages.middleware.MessageMiddleware"] if ADMIN else []),
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": DATABASE,
                "OPTIONS": {"timeout": 60},
            }
        },
        CHANNEL_LAYERS={"default": LAYER},
        INSTALLED_FILTERS=[],
        FILTERED_WEBSOCKET={
            "GROUPS": "tests.pusher_site",
            "PUSHER_APPS": [
                APP | json.loads(os.environ.get("PUSHER_APP", "{}")),
                {"ID": "2", "KEY": "other-key", "SECRET": "other-secret"},
                {"ID": "3", "KEY": "disabled-key", "SECRET": "disabled-secret", "ENABLED": False},
                {"ID": "4", "KEY": "tls-key", "SECRET": "tls-secret", "TLS_ONLY": True},
                {"ID": "5", "KEY": "small-key", "SECRET": "small-secret", "MAX_CONNECTIONS": 1},
                {
                    "ID": "6",
                    "KEY": "elsewhere-key",
                    "SECRET": "elsewhere-secret",
                    "ALLOWED_ORIGINS": ["https://elsewhere.example"],
                },
            ],
            # Processes need little time to subscribe again, where tests wait for them.
            "LAYER_SETTLE": 0.1,
            **json.loads(os.environ.get("TEST_SETTINGS", "{}")),
        },
    )

from django.core.asgi import get_asgi_application

http = get_asgi_application()

from django.contrib.auth import get_user_model, login, logout  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.urls import include, path, register_converter  # noqa: E402

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.disconnect import disconnect_connection  # noqa: E402
from filtered_websocket.groups import History, group, personal  # noqa: E402
from filtered_websocket.models import PusherApp, Token  # noqa: E402
from filtered_websocket.publish import publish, publish_to_user  # noqa: E402
from filtered_websocket.pusher.connection import connection_of  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402


class AnyName:
    """The rest of the name of a channel."""

    regex = "[^/]+"

    def to_python(self, value):
        return value

    def to_url(self, value):
        return value


register_converter(AnyName, "rest")


def is_known(connection, name):
    return connection.user.is_authenticated


def shown(user):
    return {"name": user.username}


grouppatterns = [
    group("private-closed-<rest:name>", join=False),
    group("private-<rest:name>", join=is_known, publish=True),
    group("presence-<rest:name>", join=is_known, publish=True),
    group("kept-<rest:name>", publish=True, history=History(size=10, ttl=300)),
    group("room-<rest:name>", publish=True),
    personal(),
]


def page(request):
    body = '<!doctype html><title>A page</title><link rel="icon" href="data:,">'
    return HttpResponse(body)


def log_in(request, name):
    """The id of a user, who is made, and the token for forms."""
    rights = {"is_staff": True, "is_superuser": True} if name == "boss" else {}
    user, _ = get_user_model().objects.get_or_create(rights, username=name)
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"id": str(user.pk), "csrf": get_token(request)})


def make_token(request):
    """A key for who is logged in."""
    _, key = Token.objects.create_key(name="of a test", user=request.user)
    return HttpResponse(key)


def log_out(request):
    logout(request)
    return JsonResponse({})


def say(request, where):
    """What a view of the site publishes; to a user where it begins with "user:"."""
    data = {"said": request.GET["text"]}
    if where.startswith("user:"):
        publish_to_user(where.removeprefix("user:"), data)
    else:
        publish(data, where)
    return JsonResponse({})


def close(request, socket_id, code):
    """Close one connection, as a filter might."""
    disconnect_connection(connection_of(socket_id), code, "as a test wishes")
    return JsonResponse({})


def change_app(request, step):
    """An app, as the admin makes and changes it; what its clients and backends need."""
    app = PusherApp.objects.filter(name="shop").first() or PusherApp(name="shop")
    secret = "" if step == "disable" else app.set_new_secret()
    app.enabled = step != "disable"
    app.save()
    return JsonResponse({"id": app.app_id, "key": app.key, "secret": secret})


urlpatterns = [
    path("", page),
    path("admin-app/<step>", change_app),
    path("close/<socket_id>/<int:code>", close),
    path("login/<name>", log_in),
    path("logout", log_out),
    path("token", make_token),
    path("say/<where>", say),
    path("pusher/", include("filtered_websocket.pusher.views")),
    path("", include("filtered_websocket.api.pusher")),
    # Where Laravel Echo looks for it.
    path("broadcasting/", include("filtered_websocket.pusher.views")),
]

if "django.contrib.admin" in settings.INSTALLED_APPS:
    from django.contrib import admin

    urlpatterns.append(path("admin/", admin.site.urls))

# In a thread: a server may import this on its event loop.
migrating = threading.Thread(target=call_command, args=("migrate",), kwargs={"verbosity": 0})
migrating.start()
migrating.join()


class Plain(FilteredWebSocketConsumer):
    """Plain clients: each message is published to the group in the path."""

    protocol = "plain"
    filters = ["filtered_websocket.filters.broadcast_messages"]

    def get_groups(self):
        return [self.scope["url_route"]["kwargs"]["group"]]


application = with_websockets(http, [path("plain/<group>", Plain.as_asgi())], protocols=True)
