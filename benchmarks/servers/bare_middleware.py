"""The bare application behind the origin check, sessions and users of stock Channels."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.servers.site_settings")
get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from .bare import application as bare  # noqa: E402

application = AllowedHostsOriginValidator(AuthMiddlewareStack(bare))
