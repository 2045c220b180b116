"""The ASGI application: pages over HTTP, pipelines over WebSockets."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fws_project.settings")
http = get_asgi_application()
if settings.DEBUG:
    # daphne serves no static files itself; in production a web server in front does.
    http = ASGIStaticFilesHandler(http)

# Imported here, because apps must be loaded first.
from filtered_websocket.routing import with_websockets  # noqa: E402

from .routing import websocket_urlpatterns  # noqa: E402

application = with_websockets(http, websocket_urlpatterns)
