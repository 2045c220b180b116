"""Arguments of the stand-alone server: command line, config file, key and certificate."""

import argparse
import json
import ssl
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .. import __version__
from ..conf import conf
from ..connections.origins import normal_origin
from ..storage_objects import storage_class, storage_path
from .standalone import Parser, error_line, set_up

#: The storage object of the flag ``redis``.
REDIS = "filtered_websocket.storage_objects.redis"
#: Of the URL of a Redis.
SCHEMES = ("redis://", "rediss://", "unix://")


def default_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The arguments of the server, before a storage object adds its own."""
    parser = Parser(
        prog="fws_server",
        description="A WebSocket server composed of filters.",
        allow_abbrev=False,
        add_help=add_help,
        # A storage object may declare --redis_url, or another option, again.
        conflict_handler="resolve",
    )
    add = parser.add_argument
    add("-p", "--port", type=_port, default=9000, help="the port to listen on (9000)")
    add("-c", "--config", help="a JSON file of these arguments; the command line wins")
    add("-f", "--filters", nargs="*", help="modules or classes, in the order they run")
    add("-key", "--key", help="a private key file: serves wss://, with -cert")
    add("-cert", "--cert", help="a certificate file, with its chain")
    add("--host", default="0.0.0.0", help="the address to listen on (0.0.0.0)")
    add("--path", type=_path, help="the only path that is served (every path)")
    add(
        *("--origins",),
        nargs="*",
        type=_origin,
        help='origins of pages that may connect, or "*" (the origin that is connected to)',
    )
    add("--server", choices=("daphne", "uvicorn"), default="daphne")
    add("--redis_url", type=_redis, help="the Redis that carries group messages to other processes")
    add("--verbosity", type=int, choices=(0, 1, 2), default=1, help="of the log, on stderr (1)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def _path(text: str) -> str:
    if not text.isprintable() or set(text) & set("?#"):
        raise ValueError(text)
    return text


def _origin(text: str) -> str:
    if text != "*":
        normal_origin(text)
    return text


def _redis(text: str) -> str:
    if not text.startswith(SCHEMES):
        # Without the text, which may have a password.
        raise argparse.ArgumentTypeError(f"it begins with none of {', '.join(SCHEMES)}")
    return text


# argparse uses these names in its error messages.
_port.__name__, _path.__name__, _origin.__name__ = "port", "path", "origin"


# The config file


def load_config(path: str) -> dict[str, Any]:
    """
    The JSON object in a config file, whose lines that begin with ``#`` are comments.

    ValueError says what is wrong, and where.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            # Comments become empty lines, so that line numbers in errors are right.
            text = "".join("\n" if line.startswith("#") else line for line in file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path!r}: {_reason(error)}") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"config file {path!r}, {where}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config file {path!r}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"config file {path!r} is not a JSON object of option names")
    return config


def config_arguments(
    path: str, config: dict[str, Any], parser: argparse.ArgumentParser
) -> list[str]:
    """A config file as command-line arguments; ValueError for an unknown option."""
    return [
        argument
        for key, value in config.items()
        for argument in (
            _flags(path, value, parser) if key == "flags" else _option(path, key, value, parser)
        )
    ]


def _option(path: str, key: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
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
    is_list = action.nargs == "*"
    values = value if is_list and isinstance(value, list) else [value]
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in values):
        kind = "text, a number or a list of them" if is_list else "text or a number"
        raise ValueError(f"config file {path!r}: {key!r} must be {kind}")
    # With "=", a value may begin with a dash.
    return [f"--{key}", *map(str, values)] if is_list else [f"--{key}={value}"]


def _flags(path: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"config file {path!r}: 'flags' must be a list")
    flags = []
    for flag in value:
        # An example of the manual of 0.4: the flag chose the storage object.
        if flag == "redis":
            continue
        action = parser._option_string_actions.get(f"--{flag}")
        if action is None or action.nargs != 0:
            raise ValueError(f"config file {path!r}: flag {flag!r} is no option without a value")
        flags.append(f"--{flag}")
    return flags


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """
    Options from the command line and its config file, after ``django.setup()``. Exits
    with 2 for a mistake in them.
    """
    set_up()
    first = default_parser()
    # Without --help: the storage object's arguments are not added yet.
    path = default_parser(add_help=False).parse_known_args(list(arguments))[0].config
    try:
        config = {} if path is None else load_config(path)
        flags = config.get("flags", ())
        storage = REDIS if isinstance(flags, list) and "redis" in flags else storage_path()
        parser = storage_class(storage).parser(first)
        parser.set_defaults(**conf.STORAGE.get("OPTIONS", {}))
        from_file = config_arguments(str(path), config, parser)
    except (ImproperlyConfigured, ValueError) as error:
        first.error(error_line(error))
    options = parser.parse_args([*from_file, *arguments])
    options.storage = storage
    if (options.key is None) != (options.cert is None):
        parser.error("-key and -cert go together: give both")
    return options


def check_certificate(options: argparse.Namespace) -> None:
    """ValueError for a key or certificate that cannot be used."""
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
        # OpenSSL must not ask for a passphrase on the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key, password=lambda: "none")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"-key {options.key!r} and -cert {options.cert!r} are no pair of PEM files without"
            f" a passphrase: {error}"
        ) from None
