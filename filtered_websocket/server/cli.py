"""
A WebSocket server from one command line, with no Django project::

    python -m filtered_websocket.server -f my.filters

The arguments are those of version 0.4, and a few more. Start-up lines go to
stderr once the port is open; stdout is for what filters print.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .. import __version__
from ..conf import conf
from ..consumers import FilteredWebSocketConsumer
from ..hub.hub import Hub
from ..logs import get_logger
from ..pipelines.route import Route
from ..routing import standalone_application
from ..storage_objects import storage_class, storage_path, use_storage_object
from ..storage_objects.base import BasePubSubStorageObject
from ..storage_objects.redis import redis_url
from ..threads.blocking import shut_down
from ..types import ASGIApplication
from .options import REDIS, check_certificate, default_parser, parse
from .output import buffered_output
from .standalone import error_line, set_up

logger = get_logger(__name__)

FILTERS = (
    "filtered_websocket.filters.broadcast_messages",
    "filtered_websocket.filters.stdout_messages",
)
#: How long the server may take to end after ``DRAIN_DEADLINE``, seconds.
END_GRACE = 2.0


class Server:
    """What ``build_server`` returns: :meth:`run` serves until it is told to stop."""

    def __init__(
        self, options: argparse.Namespace, application: ASGIApplication, route: Route, layer: str
    ) -> None:
        self.options = options
        self.application = application
        self.route = route
        self.subscriber: Any = None
        self._layer = layer
        self._running = False

    @property
    def url(self) -> str:
        scheme = "ws" if self.options.key is None else "wss"
        host = "localhost" if self.options.host in ("0.0.0.0", "::", "") else self.options.host
        path = "/" + (self.options.path or "").lstrip("/")
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.options.port}{path}"

    def banner(self) -> str:
        """The lines printed at start: address, filters, storage object, layer and server."""
        storage = self.options.storage.rpartition(".")[2]
        return "\n".join(
            [
                f"filtered_websocket {__version__} on {self.url}",
                *(f"  {line}" for line in self.route.pipeline.lines() or ["(no filters)"]),
                f"storage: {storage}; channel layer: {self._layer}; {self.options.server}",
            ]
        )

    def started(self, hub: Hub, port: int) -> None:
        """The port is open: print the banner and start a subscriber's thread."""
        self.options.port = port
        if self.options.verbosity:
            print(self.banner(), file=sys.stderr, flush=True)
        if self.subscriber is not None:
            view = hub.view(self.route.pipeline)
            threading.Thread(
                target=self.subscriber.listener, args=(view,), name="fws-subscriber", daemon=True
            ).start()

    def stopping(self) -> None:
        """The server ends: end the subscriber, and limit how long the process may take."""
        if self._running:
            # A thread or coroutine that hangs must not keep the process alive; a second
            # signal ends it at once.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: exit_now())
            self._deadline.start()
        if self.subscriber is not None:
            self.subscriber.kill()

    def run(self) -> None:
        """
        Serve until SIGINT or SIGTERM. The process ends at once on a second signal, or when
        ``DRAIN_DEADLINE`` and 2 seconds have passed. Main thread only.

        OSError where the port cannot be opened.
        """
        try:
            module = import_module(f".{self.options.server}", __package__)
        except ModuleNotFoundError as error:
            if error.name not in ("uvicorn", "websockets"):
                raise
            raise ImproperlyConfigured(
                "--server uvicorn is an extra: pip install 'filtered-websocket[uvicorn]'"
            ) from error
        self._running = True
        self._deadline = threading.Timer(
            conf.DRAIN_DEADLINE + END_GRACE, exit_now, ("the shutdown took too long",)
        )
        self._deadline.daemon = True
        try:
            module.serve(self)
        finally:
            self._running = False
            self._deadline.cancel()


def exit_now(why: str = "a second signal") -> None:
    """End the process at once with status 0, whatever still runs in it."""
    busy = [thread.name for thread in threading.enumerate() if not thread.daemon][1:]
    logger.warning(
        "exited at once: %s%s", why, f"; still running: {', '.join(busy)}" if busy else ""
    )
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            getattr(stream, "finish", stream.flush)()
    os._exit(0)


def build_server(
    options: argparse.Namespace, *, storage_object: Any = None, subscriber: Any = None
) -> Server:
    """
    A server for ``options`` (of :func:`parse`); ImproperlyConfigured for a mistake.

    ``subscriber`` has ``listener(web_socket_instance)``, which runs in a thread and
    puts events in ``web_socket_instance.queue``, and ``kill()``, as in 0.4.
    """
    is_site = set_up()
    storage = getattr(options, "storage", None) or storage_path()
    cls = storage_class(storage)
    # A program may pass fewer options than there are.
    defaults = cls.parser(default_parser()).parse_args([])
    options = argparse.Namespace(**{**vars(defaults), **vars(options), "storage": storage})
    redis = _redis(options)
    if redis is not None:
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [{"address": redis, "socket_timeout": 2}]},
            }
        }
        conf.forget()  # NAMESPACE depends on it
    if storage_object is None:
        storage_object = cls(options)
        if subscriber is None and isinstance(storage_object, BasePubSubStorageObject):
            client = storage_object.get_client()
            subscriber = cls.get_subscriber()(client=client, options=options)  # type: ignore[attr-defined]
    use_storage_object(storage_object)
    get_channel_layer(conf.CHANNEL_LAYER)  # raises now where the layer cannot be made
    filters = options.filters
    if filters is None and not is_site:
        filters = FILTERS
    websocket: Any = FilteredWebSocketConsumer.as_asgi(filters=filters)
    application = standalone_application(websocket, options.path, options.origins)
    layer = "Redis" if redis is not None else "the site's" if is_site else "none"
    server = Server(options, application, websocket.route, layer)
    server.subscriber = subscriber
    return server


def build_reactor(
    options: argparse.Namespace,
    storage_object: Any = None,
    subscriber: Any = None,
    pubsub_listener: Any = None,
) -> Server:
    """:func:`build_server` by its name in 0.4; start it by ``run()``, not by a reactor."""
    return build_server(
        options, storage_object=storage_object, subscriber=subscriber or pubsub_listener
    )


def _redis(options: argparse.Namespace) -> str | None:
    """URL of the Redis for group messages: the storage object's, or ``--redis_url``."""
    if options.storage == REDIS:
        return redis_url(options)
    url: str | None = options.redis_url
    return url


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    with buffered_output():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        _start_logging(options.verbosity)
        check_certificate(options)
        server = build_server(options)
    except Exception as error:
        logger.debug("cannot start", exc_info=True)
        return _fail(error_line(error))
    try:
        server.run()
    except OSError as error:
        where = f"{options.host}:{options.port}"
        return _fail(f"cannot listen on {where}: {error.strerror or error}")
    except Exception as error:
        logger.debug("cannot serve", exc_info=True)
        return _fail(error_line(error))
    if not shut_down(timeout=1.0):
        exit_now("a blocking filter is still busy")
    return 0


def _start_logging(verbosity: int) -> None:
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[verbosity],
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if verbosity < 2:
        # daphne's and uvicorn's own start-up lines are left out. While Redis is not
        # reachable channels_redis logs a traceback per second; the hub logs it once.
        for name in ("daphne", "uvicorn"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("channels_redis").setLevel(logging.CRITICAL)


def _fail(message: str) -> int:
    print(f"fws_server: error: {message}", file=sys.stderr)
    return 2
