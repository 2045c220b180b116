"""Which values a setting accepts: as a function, and as words for messages."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which values a setting accepts: as a function, and as text for messages."""

    allows: Callable[[Any], bool]
    words: str


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


COUNT = Rule(lambda value: _is_int(value) and value > 0, "an int above 0")
SECONDS = Rule(
    lambda value: (_is_int(value) or isinstance(value, float)) and value > 0,
    "a number of seconds above 0",
)
PAUSE = Rule(
    lambda value: (_is_int(value) or isinstance(value, float)) and value >= 0,
    "a number of seconds, 0 or more",
)
OPTIONAL_PAUSE = Rule(lambda value: value is None or PAUSE.allows(value), f"None or {PAUSE.words}")
NAME = Rule(
    lambda value: (
        isinstance(value, str)
        and 0 < len(value) <= 32
        and value.isascii()
        and value.replace("-", "").replace("_", "").isalnum()
    ),
    "1 to 32 of the letters A-Z a-z 0-9 - _",
)
OPTIONAL_NAME = Rule(lambda value: value is None or NAME.allows(value), f"None or {NAME.words}")
ALIAS = Rule(lambda value: isinstance(value, str), "a key of CHANNEL_LAYERS")
PATH = Rule(lambda value: value is None or isinstance(value, str), "None or a dotted path")
CALLABLE = Rule(
    lambda value: value is None or isinstance(value, str) or callable(value),
    "None, a dotted path or a function",
)
#: Of a URL, without a leading slash and without what would have to be encoded.
_URL_PATH = re.compile(r"[\w.~-]+(?:/[\w.~-]+)*/?", re.ASCII)
URL_PATH = Rule(
    lambda value: (
        value is None or (isinstance(value, str) and _URL_PATH.fullmatch(value) is not None)
    ),
    "None or a path without a leading slash, as fws-console/",
)
KEY = Rule(lambda value: value is None or isinstance(value, str), "None or a text")
STORAGE = Rule(
    lambda value: (
        isinstance(value, dict)
        and isinstance(value.get("BACKEND"), str)
        and isinstance(value.get("OPTIONS", {}), dict)
        and set(value) <= {"BACKEND", "OPTIONS"}
    ),
    '{"BACKEND": "dotted.path", "OPTIONS": {...}}',
)

#: Its entries are checked with the channel layer.
ENTRIES = Rule(
    lambda value: isinstance(value, list | tuple),
    "a list of names of groups, as 'chat' or 'orders-*', and of forward(...)",
)
#: Their options are checked with them.
APPS = Rule(lambda value: isinstance(value, list | tuple), "a list of dicts")
PATHS = Rule(
    lambda value: isinstance(value, list | tuple) and all(isinstance(path, str) for path in value),
    "a list of dotted paths",
)
ORIGINS = Rule(
    lambda value: (
        value is None
        or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))
    ),
    "None or a list of origins, as https://example.com",
)


def _is_network(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ip_network(value))
    except ValueError:
        return False


NETWORKS = Rule(
    lambda value: isinstance(value, list | tuple) and all(map(_is_network, value)),
    "a list of IP addresses and networks, as 10.0.0.7, 10.0.0.0/8 or fd00::/8",
)
FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
LIMIT = Rule(
    lambda value: value is None or (_is_int(value) and value > 0), "None or an int above 0"
)
TIMEOUT = Rule(lambda value: value is None or SECONDS.allows(value), f"None or {SECONDS.words}")
AMOUNT = Rule(lambda value: _is_int(value) and value >= 0, "an int, 0 or more")


#: An HTTP header cannot have other characters of which every program thinks the same.
_KEY = re.compile(r"[!-~]+")
_RATE = re.compile(r"0*[1-9][0-9]*/[smh]", re.ASCII)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


KEYS = Rule(
    lambda value: (
        value is None
        or _is_key(value)
        or (isinstance(value, list | tuple) and all(map(_is_key, value)))
    ),
    "None, a text of visible ASCII characters, or a list of such texts",
)
RATE = Rule(
    lambda value: value is None or (isinstance(value, str) and _RATE.fullmatch(value) is not None),
    "None or a rate, as 20/s, 600/m or 5000/h",
)


def one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, " or ".join(map(repr, choices)))


# Apps of the Pusher protocol

_APP_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_APP_KEY = re.compile(r"[-A-Za-z0-9_]{1,64}", re.ASCII)


def master_key(text: str) -> bytes | None:
    """The 32 bytes of the master key of encrypted channels; None for anything else."""
    try:
        key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == 32 else None


TEXT = Rule(lambda value: isinstance(value, str), "a text")
TEXTS = Rule(
    lambda value: (
        value is None
        or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))
    ),
    "None or a list of texts",
)
APP_ID = Rule(
    lambda value: isinstance(value, str) and _APP_ID.fullmatch(value) is not None,
    "a text of digits",
)
APP_KEY = Rule(
    lambda value: isinstance(value, str) and _APP_KEY.fullmatch(value) is not None,
    "1 to 64 of the letters A-Z a-z 0-9 - _",
)
MASTER_KEY = Rule(
    lambda value: value is None or (isinstance(value, str) and master_key(value) is not None),
    "None or 32 bytes in base64",
)

#: What a webhook may be told of.
HOOK_EVENTS = (
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "client_event",
    "cache_miss",
)
#: The keys of an entry of ``WEBHOOKS``, and the values that each accepts.
HOOK_OPTIONS = {
    "URL": Rule(
        lambda value: isinstance(value, str) and value.startswith(("http://", "https://")),
        "an address, as https://example.com/webhooks",
    ),
    "EVENTS": Rule(
        lambda value: TEXTS.allows(value) and set(value or ()) <= set(HOOK_EVENTS),
        f"None, or some of {', '.join(HOOK_EVENTS)}",
    ),
    "PREFIX": TEXT,
    "SUFFIX": TEXT,
    "HEADERS": Rule(
        lambda value: (
            isinstance(value, Mapping)
            and all(isinstance(text, str) for pair in value.items() for text in pair)
        ),
        "a dict of texts",
    ),
}
#: The keys of an entry of ``PUSHER_APPS``, and the values that each accepts.
APP_OPTIONS = {
    "ID": APP_ID,
    "KEY": APP_KEY,
    "SECRET": Rule(lambda value: TEXT.allows(value) and bool(value), "a text that is not empty"),
    "ENABLED": FLAG,
    "CLIENT_EVENTS": FLAG,
    "CLIENT_EVENT_RATE": RATE,
    "MAX_EVENT_SIZE": COUNT,
    "MAX_CONNECTIONS": LIMIT,
    "MAX_MEMBERS": COUNT,
    "ALLOWED_ORIGINS": TEXTS,
    "TLS_ONLY": FLAG,
    "ACTIVITY_TIMEOUT": COUNT,
    "ENCRYPTION_MASTER_KEY": MASTER_KEY,
    "USER_INFO": CALLABLE,
    "WEBHOOKS": Rule(lambda value: isinstance(value, list | tuple), "a list of dicts with a URL"),
}
