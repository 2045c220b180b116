"""
The Django app: registers the system checks, and the signals that close connections; shares
metrics.
"""

from importlib.util import find_spec

from django.apps import AppConfig
from django.core import checks

from .checks.api import check_api
from .checks.application import check_application
from .checks.channels import check_channels, check_written_layer
from .checks.environment import check_environment, check_names
from .checks.groups import check_groups
from .checks.metrics import check_metrics
from .checks.protocols import check_protocols
from .checks.publishing import check_publishing
from .checks.pusher import check_pusher, check_pusher_rows
from .checks.settings import check_access, check_filters, check_layer, check_settings, check_storage
from .console.rows import connect as connect_console
from .console.taps import connect as connect_tees
from .logs import get_logger
from .metrics.access import share_metrics
from .signals import connect_signals

logger = get_logger(__name__)

CHECKS = (
    check_settings,
    check_access,
    check_filters,
    check_groups,
    check_channels,
    check_protocols,
    check_pusher,
    check_application,
    check_storage,
    check_written_layer,
    check_layer,
    check_publishing,
    check_api,
    check_metrics,
    check_environment,
    check_names,
)


class FilteredWebSocketConfig(AppConfig):
    name = "filtered_websocket"
    verbose_name = "Filtered WebSocket"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        for check in CHECKS:
            checks.register(check, checks.Tags.compatibility)
        checks.register(check_pusher_rows, checks.Tags.database)
        connect_signals()
        connect_console()
        connect_tees()
        share_metrics()
        if is_installed("opentelemetry.trace"):
            look_for_traces()


def look_for_traces() -> None:
    """Trace, once the site has set a tracer provider."""
    try:
        from .metrics import traces  # only with the extra
    except ImportError as error:
        # Another package may need an old one, and this site no traces.
        logger.warning("no traces: pip install filtered-websocket[otel] (%s)", error)
    else:
        traces.set_up()


def is_installed(name: str) -> bool:
    """Whether a module of a package can be imported; the package is, to know."""
    return find_spec(name.partition(".")[0]) is not None and find_spec(name) is not None
