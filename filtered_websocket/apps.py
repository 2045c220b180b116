"""The Django app: registers the system checks, and nothing else."""

from django.apps import AppConfig
from django.core import checks

from .checks import check_filters, check_layer, check_settings, check_storage


class FilteredWebSocketConfig(AppConfig):
    name = "filtered_websocket"
    verbose_name = "Filtered WebSocket"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        for check in (check_settings, check_filters, check_storage, check_layer):
            checks.register(check, checks.Tags.compatibility)
