"""What a server of ``traces_settings`` serves."""

from .traces_site import make_application

application = make_application()
