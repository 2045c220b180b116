"""The example with a channel layer that cannot be made."""

from fws_project.settings import *  # noqa: F403

CHANNEL_LAYERS = {"default": {"BACKEND": "nowhere.Layer"}}
