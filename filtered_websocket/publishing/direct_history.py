"""
What Python asks of histories where there is no event loop: on the caller's own thread, and the
connection that publishes. So under gevent a greenlet stays a greenlet.
"""

from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from redis.exceptions import ResponseError

from ..exceptions import PublishError
from ..history.base import Page
from ..history.hosts import ItemFormat
from ..history.memory import process_history
from ..history.redis import open_page
from ..history.scripts import FORGET, READ, Arguments, Script, forget_arguments, read_arguments
from ..history.stores import (
    aforget_history,
    ahistory,
    check_question,
    shared_layer,
    unreachable,
)
from ..layer.envelope import group_key
from ..threads.tasks import runs_a_loop
from .direct import DirectSender, sender_for


def history(
    group: str,
    limit: int | None = None,
    since: tuple[str, int] | None = None,
    reverse: bool = False,
) -> Page:
    """:func:`ahistory`; SynchronousOnlyOperation on an event loop, which it would stop."""
    _check_may_wait("history")
    start, key = check_question(limit, since), group_key(group)
    layer = shared_layer()
    if layer is None:
        return process_history().read_now(key, start, limit, reverse)
    sender = sender_for(layer)
    if sender is None:
        page: Page = async_to_sync(ahistory)(group, limit, since, reverse)
        return page
    reply = _ask(sender, group, READ, read_arguments(key, start, limit, reverse))
    return open_page(ItemFormat(layer), key, reply, reverse)


def forget_history(group: str) -> None:
    """:func:`aforget_history`; SynchronousOnlyOperation on an event loop."""
    _check_may_wait("forget_history")
    key, layer = group_key(group), shared_layer()
    if layer is None:
        process_history().forget_now(key)
        return
    sender = sender_for(layer)
    if sender is None:
        async_to_sync(aforget_history)(group)
    else:
        _ask(sender, group, FORGET, forget_arguments(key))


def _check_may_wait(name: str) -> None:
    if runs_a_loop():
        raise SynchronousOnlyOperation(
            f"{name}() waits for Redis, and would stop this event loop: await a{name}()"
        )


def _ask(
    sender: DirectSender, group: str, script: Script, arguments: tuple[Arguments, Arguments]
) -> Any:
    try:
        return sender.run_script(group_key(group), script, arguments)
    except PublishError as error:
        why = error.__cause__ or error
        if isinstance(why, PermissionError | ResponseError):
            raise why from None
        raise unreachable(group, why) from error
