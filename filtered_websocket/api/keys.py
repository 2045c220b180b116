"""Who calls: by a key of the settings, or a token that an admin has allowed to."""

from collections import OrderedDict
from functools import lru_cache

from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.debug import sensitive_variables

from ..auth.addresses import address_of, scope_of
from ..auth.keys import digest_of, is_key
from ..auth.throttle import Throttle
from ..conf import conf
from ..filters.rate_limit import Buckets
from ..logs import get_logger
from ..models import LAST_USED_EVERY, Token

logger = get_logger(__name__)

#: How many callers are remembered who have a good key: no bad one from their address keeps
#: them out.
MAX_KNOWN = 1000

_throttle = Throttle()
#: Digests of the keys that were good when they were used last, the latest at the end.
_known: OrderedDict[str, None] = OrderedDict()


class Refused(Exception):
    """There is no caller; ``status`` is that of HTTP."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@sensitive_variables()
def caller_of(request: HttpRequest) -> str:
    """
    Who calls, as a name to count by. :exc:`Refused` for a request without a good key.

    A key of the settings is compared in constant time. Any other is looked up in the database
    if it looks like a token's; once ``GUESS_LIMIT`` bad ones have come from an address, only
    those that were good before.
    """
    key = _offered(request)
    if not key:
        raise Refused(401, "send the key as X-API-Key, or as Authorization: apikey KEY")
    digest = digest_of(key)
    found = [number for number, one in enumerate(_keys()) if constant_time_compare(one, digest)]
    if found:
        return f"API_KEY {found[0]}"
    address = address_of(scope_of(request.META))
    if _throttle.is_over(address) and digest not in _known:
        raise Refused(429, "too many bad keys from this address")
    token = _find(key) if is_key(key) else None
    if token is None:
        _known.pop(digest, None)
        _throttle.note(address)
        raise Refused(401, "this key is not valid here")
    _known[digest] = None
    if len(_known) > MAX_KNOWN:
        _known.popitem(last=False)
    return f"token {token.pk}"


@sensitive_variables()
def _offered(request: HttpRequest) -> str:
    """The key of a request; empty if there is none."""
    key: str = request.headers.get("X-API-Key", "").strip()
    scheme, _, rest = request.headers.get("Authorization", "").strip().partition(" ")
    if not key and scheme.lower() == "apikey":
        return rest.strip()
    return key


@sensitive_variables()
def _keys() -> list[str]:
    """The digests of the keys of the settings: of equal length, as they are compared."""
    keys = conf.API_KEY
    if not keys:
        return []
    return [digest_of(key) for key in ([keys] if isinstance(keys, str) else keys) if key]


@sensitive_variables()
def _find(key: str) -> Token | None:
    """The token of ``key``, if it may call the API now."""
    try:
        token = Token.objects.find(key)
        if token is None or token.flaw or not token.can_call_api:
            return None
        now = timezone.now()
        if token.last_used is None or token.last_used < now - LAST_USED_EVERY:
            Token.objects.note_used({token.pk})
    except Exception as error:
        # Not raised as it is: a report would show the frames with the key.
        logger.error("cannot look an API key up: %s: %s", type(error).__name__, error)
        raise Refused(503, "the key cannot be looked up now") from None
    return token


def may_call(caller: str) -> bool:
    """Count a command of ``caller``; whether it is within ``API_RATE``."""
    rate = conf.API_RATE
    return rate is None or _buckets(rate).take(caller)


@lru_cache(1)
def _buckets(rate: str) -> Buckets:
    return Buckets(rate, None)
