"""The Django app: registers the system checks, and the signals that close connections."""

from django.apps import AppConfig
from django.core import checks

from .checks.api import check_api
from .checks.application import check_application
from .checks.environment import check_environment
from .checks.groups import check_groups
from .checks.protocols import check_protocols
from .checks.publishing import check_publishing
from .checks.pusher import check_pusher
from .checks.settings import check_access, check_filters, check_layer, check_settings, check_storage
from .console.taps import connect as connect_tees
from .signals import connect_signals

CHECKS = (
    check_settings,
    check_access,
    check_filters,
    check_groups,
    check_protocols,
    check_pusher,
    check_application,
    check_storage,
    check_layer,
    check_publishing,
    check_api,
    check_environment,
)


class FilteredWebSocketConfig(AppConfig):
    name = "filtered_websocket"
    verbose_name = "Filtered WebSocket"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        for check in CHECKS:
            checks.register(check, checks.Tags.compatibility)
        connect_signals()
        connect_tees()
