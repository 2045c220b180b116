"""The example, with Pusher apps in the admin."""

from fws_project.settings import *  # noqa: F403

FILTERED_WEBSOCKET = {"PUSHER_APPS_IN_ADMIN": True}
