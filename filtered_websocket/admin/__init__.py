"""The package in Django's admin: tokens, apps of the Pusher protocol, and the console."""

from django.contrib import admin

from ..console.page import ConsoleAdmin
from ..models import Console
from .pusher import PusherAppAdmin
from .tokens import TokenAdmin

__all__ = ["ConsoleAdmin", "PusherAppAdmin", "TokenAdmin"]

admin.site.register(Console, ConsoleAdmin)
