"""The application of protocol_settings."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.protocol_settings")
http = ASGIStaticFilesHandler(get_asgi_application())

from filtered_websocket.routing import with_websockets  # noqa: E402
from filtered_websocket.streams import listening  # noqa: E402

# Within which browsers come back, milliseconds.
listening.RETRY = (100, 200)
application = with_websockets(http, protocols=True)
