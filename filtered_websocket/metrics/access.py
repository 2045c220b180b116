"""Who may see the metrics, and whether what makes them is installed."""

import os
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_network
from typing import Any

from django.http import HttpRequest

from ..auth.addresses import ip_of, scope_of
from ..conf import conf
from ..logs import LogThrottle, get_logger

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Of the model ``Console``.
PERMISSION = "filtered_websocket.view_console"
INSTALL = "pip install 'filtered-websocket[metrics]'"
#: Names the directory through which processes show their metrics together.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def may_see(request: HttpRequest) -> bool:
    """Whether it comes from a network of ``METRICS_ALLOWED``, or is of staff who may."""
    return _is_from_network(request) or _is_of_staff(request)


def _is_from_network(request: HttpRequest) -> bool:
    if not conf.TRUSTED_PROXIES and "HTTP_X_FORWARDED_FOR" in request.META:
        return False  # the peer is a proxy that nobody has told of: anybody may be behind it
    ip = ip_of(scope_of(request.META))
    return ip is not None and any(ip in ip_network(one) for one in conf.METRICS_ALLOWED)


def _is_of_staff(request: HttpRequest) -> bool:
    user: Any = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff and user.has_perm(PERMISSION)


def has_prometheus() -> bool:
    """Whether prometheus-client is installed: the extra ``[metrics]``."""
    return find_spec("prometheus_client") is not None


def load_prometheus() -> Any:
    """The module that shows the metrics; None where it is not installed, which is logged."""
    if has_prometheus():
        return import_module(".prometheus", __package__)
    if _throttle.note("missing"):
        logger.error("no metrics are shown: prometheus-client is not installed (%s)", INSTALL)
    return None


def share_metrics() -> None:
    """Where several processes show their metrics together, have this one write its own."""
    if os.environ.get(DIRECTORY) and (prometheus := load_prometheus()) is not None:
        prometheus.share()
