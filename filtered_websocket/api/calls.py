"""Calls methods, one or many, and turns what they return and raise into answers."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from django.core.exceptions import ImproperlyConfigured

from ..logs import LogThrottle, get_logger
from . import methods, publishing
from .publishing import Finish
from .requests import ApiError, Request, as_object

T = TypeVar("T")
Result: TypeAlias = dict[str, Any]

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Those that publish return what waits for the result.
METHODS: dict[str, Callable[[Request], Result | Finish]] = {
    "broadcast": publishing.broadcast,
    "channels": methods.channels,
    "disconnect": methods.disconnect,
    "history": methods.history,
    "history_remove": methods.history_remove,
    "info": methods.info,
    "presence": methods.presence,
    "presence_stats": methods.presence_stats,
    "publish": publishing.publish,
    "refresh": methods.refresh,
    "subscribe": methods.subscribe,
    "unsubscribe": methods.unsubscribe,
}
BATCH = "batch"


def answer(method: str, fields: Result, take: Callable[[], bool]) -> Result:
    """
    The answer to a request. ``take`` counts a command, and says whether its caller may have
    another one now.
    """
    if method == BATCH:
        replies = _try_to(BATCH, lambda: _batch(Request(fields), take))
        return replies.answer if isinstance(replies, ApiError) else {"replies": replies}
    result = _begin(method, fields, take)()
    return result.answer if isinstance(result, ApiError) else {"result": result}


def _batch(request: Request, take: Callable[[], bool]) -> list[Result]:
    """
    The replies, in the order of the commands: one after the other, or with ``parallel`` what
    is published is on its way together.
    """
    commands = request.listed("commands")
    if not commands:
        raise ApiError(107, "'commands' is missing")
    if request.flag("parallel"):
        begun = [_command(command, take) for command in commands]
        return [finish() for finish in begun]
    return [_command(command, take)() for command in commands]


def _command(command: Any, take: Callable[[], bool]) -> Callable[[], Result]:
    """Begin one command of a batch; what is returned waits for its reply."""
    begun = _try_to(BATCH, lambda: _split(command))
    if isinstance(begun, ApiError):
        error = begun.answer
        return lambda: error
    method, fields = begun
    finish = _begin(method, fields, take)

    def reply() -> Result:
        result = finish()
        return result.answer if isinstance(result, ApiError) else {method: result}

    return reply


def _split(command: Any) -> tuple[str, Result]:
    fields = as_object(command, "a command")
    if len(fields) != 1:
        raise ApiError(107, "a command is an object with one method")
    [(method, fields)] = fields.items()
    return method, as_object(fields, repr(method))


def _begin(
    method: str, fields: Result, take: Callable[[], bool]
) -> Callable[[], Result | ApiError]:
    """Begin a call; what is returned waits for its result."""

    def start() -> Result | Finish:
        if method not in METHODS:
            raise ApiError(104, f"{method!r:.80} is none of {', '.join(METHODS)}, {BATCH}")
        if not take():
            raise ApiError(111, "more than API_RATE")
        return METHODS[method](Request(fields))

    found = _try_to(method, start)
    if isinstance(found, ApiError | dict):
        result = found
        return lambda: result
    finish = found
    return lambda: _try_to(method, finish)


def _try_to(method: str, step: Callable[[], T]) -> T | ApiError:
    try:
        return step()
    except ApiError as error:
        return error
    except ImproperlyConfigured as error:
        # The site cannot do that: nothing can be kept beside its channel layer, for example.
        return _failed(method, ApiError(108, str(error)), error)
    except OSError as error:
        return _failed(method, ApiError(100, str(error)), error)
    except Exception as error:
        if _throttle.note(f"{method} {type(error).__name__}"):
            logger.exception("the API's method %s failed", method)
        return ApiError(100)


def _failed(method: str, answer: ApiError, error: Exception) -> ApiError:
    if _throttle.note(f"{method} {answer.code}"):
        logger.error("the API's method %s failed: %s", method, error)
    return answer
