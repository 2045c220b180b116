"""System checks of routes whose clients speak a protocol, and of the tokens that they send."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from ..conf import SETTINGS, SettingError, conf
from ..pipelines.entries import PipelineError
from ..pipelines.route import Route, known_routes
from ..protocols.tokens import has_jwt, load_users

#: RFC 7518 section 3.2: a key has at least as many bytes as the hash.
LEAST_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


def check_protocols(**kwargs: Any) -> Iterable[CheckMessage]:
    """Protocols of routes, JWT_KEY, JWT_ALGORITHM and JWT_USER."""
    found = {message.msg: message for route in known_routes() for message in _check_route(route)}
    names = ("JWT_ALGORITHM", "JWT_KEY", "JWT_USER")
    # check_settings reports a value of a wrong type.
    if all(SETTINGS[name][1].allows(getattr(conf, name)) for name in names):
        found |= {message.msg: message for message in (*_check_key(), *_check_users())}
    return list(found.values())


def _check_route(route: Route) -> Iterable[CheckMessage]:
    try:
        rules = route.pipeline.rules
    except PipelineError:
        return  # check_filters reports it
    if route.protocol is None:
        return
    where = f"the route at {', '.join(route.paths)}" if route.paths else "a route"
    if rules is None:
        yield Warning(
            f"Clients of {where} speak {route.protocol.name!r}, and no group rules say what they"
            " may subscribe to: nothing.",
            hint="Declare groups, and name the module in FILTERED_WEBSOCKET['GROUPS'].",
            id="filtered_websocket.W021",
        )
    if route.names_codec:
        yield Warning(
            f"Clients of {where} speak {route.protocol.name!r}, so its codec is not used.",
            hint="Leave the codec out: filters get what the protocol has decoded.",
            id="filtered_websocket.W022",
        )


def _check_key() -> Iterable[CheckMessage]:
    key, algorithm = conf.JWT_KEY, conf.JWT_ALGORITHM
    if key is None:
        return
    if not has_jwt():
        yield Error(
            "FILTERED_WEBSOCKET['JWT_KEY'] is set, and PyJWT is not installed: every token is"
            " refused.",
            hint="Install it: pip install 'filtered-websocket[jwt]'.",
            id="filtered_websocket.E027",
        )
        return
    jwt = import_module("jwt")
    try:
        # NotImplementedError without the package cryptography.
        jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except Exception as error:
        yield Error(
            f"FILTERED_WEBSOCKET['JWT_KEY'] is no key for JWT_ALGORITHM {algorithm!r}"
            f" ({type(error).__name__}): every token is refused.",
            hint="HS256, HS384 and HS512 take a secret; RS256, ES256 and EdDSA take a public key"
            " as PEM text, and the package 'cryptography'.",
            id="filtered_websocket.E028",
        )
        return
    least = LEAST_BYTES.get(algorithm, 0)
    if len(key.encode()) < least:
        yield Warning(
            f"FILTERED_WEBSOCKET['JWT_KEY'] has {len(key.encode())} bytes: who has a token can"
            " find a short secret by trying, and make tokens of any user.",
            hint=f"For {algorithm} take {least} random bytes or more, as from"
            f" secrets.token_urlsafe({least}).",
            id="filtered_websocket.W020",
        )


def _check_users() -> Iterable[CheckMessage]:
    try:
        load_users()
    except SettingError as error:
        yield Error(error.message, hint=error.hint, id="filtered_websocket.E029")
