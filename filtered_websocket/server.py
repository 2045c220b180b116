"""
A WebSocket server from one command line, with no Django project::

    python -m filtered_websocket.server -f my.filters

The arguments are those of the 2014 package, and a few more. Start-up lines go to
stderr once the port is open; stdout belongs to filters.
"""

import argparse
import json
import logging
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured

from . import __version__
from .consumers import FilteredWebSocketConsumer
from .filters.pipeline import Route
from .hub import Hub
from .routing import standalone_application
from .standalone import in_words, set_up
from .storage_objects import storage_class, storage_path, use_storage_object
from .types import ASGIApplication

FILTERS = (
    "filtered_websocket.filters.broadcast_messages",
    "filtered_websocket.filters.stdout_messages",
)
REDIS = "filtered_websocket.storage_objects.redis"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def default_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The arguments of the server, before a storage object adds its own."""
    parser = Parser(
        prog="fws_server",
        description="A WebSocket server composed of filters.",
        allow_abbrev=False,
        add_help=add_help,
    )
    add = parser.add_argument
    add("-p", "--port", type=_port, default=9000, help="the port to listen on (9000)")
    add("-c", "--config", help="a JSON file of these arguments; the command line wins")
    add("-f", "--filters", nargs="*", help="modules or classes, in the order they run")
    add("-key", "--key", help="a private key file: serves wss://, with -cert")
    add("-cert", "--cert", help="a certificate file, with its chain")
    add("--host", default="0.0.0.0", help="the address to listen on (0.0.0.0)")
    add("--path", help="the only path that is served (every path)")
    add("--origins", nargs="*", help='origins of pages that may connect, or "*" (the same origin)')
    add("--server", choices=("daphne", "uvicorn"), default="daphne")
    add("--verbosity", type=int, choices=(0, 1, 2), default=1, help="of the log, on stderr (1)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


_port.__name__ = "port"


# The config file


def read_config(path: str, parser: argparse.ArgumentParser) -> list[str]:
    """
    The arguments a config file stands for.

    A JSON object whose keys are long option names; ``"flags"`` lists options without a
    value; lines that begin with ``#`` are comments. ValueError says what is wrong.
    """
    try:
        with open(path, encoding="utf-8") as file:
            # Blank, not gone: an error's line number is the file's.
            text = "".join("\n" if line.startswith("#") else line for line in file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path!r}: {_reason(error)}") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"config file {path!r}, {where}: {error.msg}") from None
    if not isinstance(config, dict):
        raise ValueError(f"config file {path!r} is not a JSON object of option names")
    return [
        argument
        for key, value in config.items()
        for argument in _config_arguments(path, key, value, parser)
    ]


def _config_arguments(
    path: str, key: str, value: Any, parser: argparse.ArgumentParser
) -> list[str]:
    if key == "flags":
        return _flags(path, value, parser)
    action = parser._option_string_actions.get(f"--{key}")
    if action is None or action.nargs == 0 or key == "config":
        known = sorted(
            name.removeprefix("--")
            for name, action in parser._option_string_actions.items()
            if name.startswith("--") and action.nargs != 0 and name != "--config"
        )
        raise ValueError(
            f"config file {path!r} has no option {key!r}; it may have flags, {', '.join(known)}"
        )
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in values):
        raise ValueError(f"config file {path!r}: {key!r} must be text, a number or a list")
    return [f"--{key}", *map(str, values)]


def _flags(path: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"config file {path!r}: 'flags' must be a list")
    flags = []
    for flag in value:
        # The 2014 manual's own example: it chose the storage object.
        if flag == "redis":
            continue
        action = parser._option_string_actions.get(f"--{flag}")
        if action is None or action.nargs != 0:
            raise ValueError(f"config file {path!r}: flag {flag!r} is no option without a value")
        flags.append(f"--{flag}")
    return flags


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# From arguments to a server


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options from the command line and its config file. Exits with 2 for a mistake."""
    first = default_parser()
    # Its help would lack what the storage object adds.
    config = default_parser(add_help=False).parse_known_args(list(arguments))[0].config
    storage = storage_path()
    if config is not None and _wants_redis(config):
        storage = REDIS
    try:
        cls = storage_class(storage)
        parser = cls.parser(first)
        from_file = [] if config is None else read_config(config, parser)
    except (ImproperlyConfigured, ValueError) as error:
        first.error(in_words(error))
    options = parser.parse_args([*from_file, *arguments])
    options.storage = storage
    if (options.key is None) != (options.cert is None):
        parser.error("-key and -cert go together: give both")
    return options


def _wants_redis(path: str) -> bool:
    """Whether a config file has the flag ``redis``; what else is wrong with it is said later."""
    try:
        with open(path, encoding="utf-8") as file:
            config = json.loads("".join(line for line in file if not line.startswith("#")))
        return "redis" in config.get("flags", ())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


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

    @property
    def url(self) -> str:
        scheme = "ws" if self.options.key is None else "wss"
        host = "localhost" if self.options.host in ("0.0.0.0", "::", "") else self.options.host
        path = "/" + (self.options.path or "").lstrip("/")
        return f"{scheme}://{host}:{self.options.port}{path}"

    def banner(self) -> str:
        """What is served, where and with what; for people."""
        storage = self.options.storage.rpartition(".")[2]
        return "\n".join(
            [
                f"filtered_websocket {__version__} on {self.url}",
                *(f"  {line}" for line in self.route.pipeline.lines() or ["(no filters)"]),
                f"storage: {storage}; channel layer: {self._layer}; {self.options.server}",
            ]
        )

    def started(self, hub: Hub, port: int) -> None:
        """The port is open: say so, and let a subscriber begin."""
        self.options.port = port
        if self.options.verbosity:
            print(self.banner(), file=sys.stderr, flush=True)
        if self.subscriber is not None:
            view = hub.view(self.route.pipeline)
            threading.Thread(
                target=self.subscriber.listener, args=(view,), name="fws-subscriber", daemon=True
            ).start()

    def stopping(self) -> None:
        """The server ends: so does a subscriber."""
        if self.subscriber is not None:
            self.subscriber.kill()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM. OSError where the port cannot be opened."""
        serve: Callable[[Server], None] = import_module(
            f".servers.{self.options.server}", __package__
        ).serve
        serve(self)


def build_server(
    options: argparse.Namespace, *, storage_object: Any = None, subscriber: Any = None
) -> Server:
    """
    A server for ``options`` (of :func:`parse`); ImproperlyConfigured for a mistake.

    ``subscriber`` has ``listener(web_socket_instance)``, which runs in a thread and
    puts events in ``web_socket_instance.queue``, and ``kill()``, as in 2014.
    """
    storage = getattr(options, "storage", storage_path())
    options.storage = storage
    redis_url = _redis_url(options)
    overrides: dict[str, Any] = {}
    if redis_url is not None:
        overrides["CHANNEL_LAYERS"] = {
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [{"address": redis_url, "socket_timeout": 2}]},
            }
        }
    is_site = set_up(**overrides)
    if storage_object is None:
        storage_object = storage_class(storage)(options)
    use_storage_object(storage_object)
    filters = options.filters
    if filters is None and not is_site:
        filters = FILTERS
    websocket: Any = FilteredWebSocketConsumer.as_asgi(filters=filters)
    application = standalone_application(websocket, options.path, options.origins)
    layer = "Redis" if redis_url is not None else "the site's" if is_site else "none"
    server = Server(options, application, websocket.route, layer)
    server.subscriber = subscriber
    return server


def build_reactor(
    options: argparse.Namespace,
    storage_object: Any = None,
    subscriber: Any = None,
    pubsub_listener: Any = None,
) -> Server:
    """:func:`build_server` by its name of 2014; no reactor is left to start but ``run()``."""
    return build_server(
        options, storage_object=storage_object, subscriber=subscriber or pubsub_listener
    )


def _redis_url(options: argparse.Namespace) -> str | None:
    """The Redis of the storage object, which carries group messages too."""
    if getattr(options, "redis_url", None):
        return str(options.redis_url)
    if options.storage == REDIS:
        return f"redis://{options.redis_host}:{options.redis_port}"
    return None


def check_certificate(options: argparse.Namespace) -> None:
    """ValueError for a key or certificate that cannot be served."""
    if options.key is None:
        return
    for name in ("key", "cert"):
        path = getattr(options, name)
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ValueError(f"-{name} {path!r}: {_reason(error)}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.cert, options.key)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"-key {options.key!r} and -cert {options.cert!r} are no pair of PEM files: {error}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[options.verbosity],
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if options.verbosity < 2:
        # What daphne and Twisted say of themselves is not what people started.
        logging.getLogger("daphne").setLevel(logging.ERROR)
        # A traceback a second while Redis is away; the hub says it once.
        logging.getLogger("channels_redis").setLevel(logging.CRITICAL)
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        check_certificate(options)
        server = build_server(options)
        server.run()
    except (ImproperlyConfigured, ValueError) as error:
        return _fail(in_words(error))
    except OSError as error:
        return _fail(f"cannot listen on {options.host}:{options.port}: {error}")
    except ModuleNotFoundError as error:
        return _fail(f"--server {options.server} needs {error.name}: pip install {error.name}")
    return 0


def _fail(message: str) -> int:
    print(f"fws_server: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
