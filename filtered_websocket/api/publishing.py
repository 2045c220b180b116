"""The methods that publish: ``publish`` and ``broadcast``."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..codecs.frames import dump_json
from ..conf import conf
from ..exceptions import PublishError
from ..layer.envelope import TAGS, Item
from ..pipelines.keeping import history_of, site_keep, site_rules
from ..publish import hand_over
from ..publishing.batches import Keep
from ..publishing.items import new_item
from .requests import ApiError, Request, group_of

#: Returns the result when the channel layer has the message.
Finish = Callable[[], dict[str, Any]]


def publish(request: Request) -> Finish:
    """Begin to publish; what is returned waits for the result."""
    make = _message(request)
    return _post(request.needed("channel"), request, make())


def broadcast(request: Request) -> Finish:
    """Begin to publish to many groups; one that fails keeps no other from it."""
    make = _message(request)
    channels = request.texts("channels")
    if not channels:
        raise ApiError(107, "'channels' is missing")

    def begin(channel: str) -> Finish:
        try:
            return _post(channel, request, make())
        except ApiError as error:
            answer = error.answer
            return lambda: answer

    begun = [begin(channel) for channel in channels]
    return lambda: {"responses": [_response(finish) for finish in begun]}


def _response(finish: Finish) -> dict[str, Any]:
    try:
        result = finish()
    except ApiError as error:
        return error.answer
    return result if "error" in result else {"result": result}


def _message(request: Request) -> Callable[[], Item]:
    """What makes the message: each group gets one with a number of its own."""
    request.refuse("version", "version_epoch")
    message: Any = request.decoded("b64data")
    is_json = False
    if message is None:
        if "data" not in request:
            raise ApiError(107, "'data' is missing")
        message = request["data"]
        is_json = not isinstance(message, str)
        message = dump_json(message) if is_json else message
    tags = request.tags()
    size = len(dump_json(tags).encode()) if tags else 0

    def make() -> Item:
        try:
            item = new_item(message)
        except PublishError as error:
            raise ApiError(107, str(error)) from error
        if len(item.payload) + size > conf.MAX_MESSAGE_SIZE:
            raise ApiError(107, f"data and tags are over {conf.MAX_MESSAGE_SIZE} bytes")
        item = item._replace(kind="j") if is_json else item
        return item._replace(meta={TAGS: tags}) if tags else item

    return make


def _keep(group: str, request: Request) -> Keep | None:
    """How the message is kept in the history of its group."""
    key = request.text("idempotency_key")
    has_history = history_of(site_rules(), group) is not None
    if request.flag("skip_history"):
        has_history = False
    if key and not has_history:
        raise ApiError(
            108, "'idempotency_key' needs a group rule with a history, and no 'skip_history'"
        )
    if not has_history:
        return None
    try:
        return site_keep(group, key)
    except PublishError as error:
        raise ApiError(107, str(error)) from error


def _post(channel: str, request: Request, item: Item) -> Finish:
    group = group_of(channel)
    return send(group, item, _keep(group, request))


def send(group: str, item: Item, keep: Keep | None) -> Finish:
    """
    Begin to publish ``item``; what is returned waits until the channel layer has it, and
    returns its position in the history, if it has one. Both raise :exc:`.ApiError` 100.
    """
    try:
        told = hand_over(group, item, keep, wait=True)
    except PublishError as error:
        raise ApiError(100, str(error)) from error

    def finish() -> dict[str, Any]:
        try:
            position = told.result(conf.LAYER_TIMEOUT) if isinstance(told, Future) else told
        except PublishError as error:
            raise ApiError(100, str(error)) from error
        except TimeoutError:
            words = f"the channel layer (Redis) has not answered in {conf.LAYER_TIMEOUT} s"
            raise ApiError(100, f"{words}; the message may arrive all the same") from None
        return {} if position is None else {"offset": position.offset, "epoch": position.epoch}

    return finish
