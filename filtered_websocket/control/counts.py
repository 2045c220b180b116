"""
What all processes have: connections of each token, groups and how many are in them.

::

    ask -> the control group -> every process that has connections
    answers, for WAIT seconds <-+
"""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from channels.layers import get_channel_layer

from ..conf import conf
from ..exceptions import PublishError
from ..hub.hub import Hub
from ..hub.registry import Answer
from ..layer.health import LOST
from ..publish import any_hub, queueing_hub, reaches_connections
from ..publishing.direct import DirectSender, sender_for
from ..publishing.items import new_item

#: How long the caller waits for the processes' answers, seconds.
WAIT = 0.25


def count_connections(token_ids: Iterable[int]) -> Mapping[int, int] | None:
    """
    Token id -> its connections in all processes that answer within ``WAIT``.

    None where it cannot be known: in a process without connections and channel layer, on
    an event loop (this blocks), and while the layer is lost.
    """
    answers = _ask({})
    if not answers:
        return None
    total = sum((Counter(answer.tokens) for answer in answers), Counter())
    return {pk: total[str(pk)] for pk in token_ids}


def count_members(pattern: str) -> Mapping[str, int] | None:
    """
    Group -> its connections, of the groups whose names match ``pattern`` as clients write
    them (``*``, ``?`` and ``[...]``), in all processes that answer within ``WAIT``.

    It walks through all groups of all processes. None as of :func:`count_connections`.
    """
    answers = _ask({"groups": pattern})
    if not answers:
        return None
    return sum((Counter(answer.groups) for answer in answers), Counter())


def describe_processes() -> list[dict[str, Any]] | None:
    """
    What each process that has connections, and answers within ``WAIT``, says of itself. None
    as of :func:`count_connections`.
    """
    answers = _ask({"node": True})
    return [answer.node for answer in answers if answer.node] if answers else None


def _ask(what: dict[str, Any]) -> list[Answer]:
    """The answers to a question; none where nobody can be asked, or the layer is lost."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return []
    if not reaches_connections():
        return []
    sender = sender_for(get_channel_layer(conf.CHANNEL_LAYER)) if queueing_hub() is None else None
    nonce = secrets.token_hex(8)
    question = {"is": "ask", "nonce": nonce, **what}
    if sender is not None:
        # Under gevent an event loop of any thread would break every other query.
        return _ask_directly(sender, question)
    hub = any_hub()
    return asyncio.run_coroutine_threadsafe(_ask_hub(hub, question), hub.loop).result()


async def _ask_hub(hub: Hub, question: dict[str, Any]) -> list[Answer]:
    grants = hub.grants
    await grants.receiving()
    nonce = question["nonce"]
    answers: list[Answer] = []
    grants.counts_asked[nonce] = answers
    try:
        hub.send_control(question)
        await asyncio.sleep(WAIT)
    finally:
        del grants.counts_asked[nonce]
    return answers


def _ask_directly(sender: DirectSender, question: dict[str, Any]) -> list[Answer]:
    """The answers; one of nothing for this process, where its question came back."""
    answers: list[Answer] = []
    try:
        items = sender.ask(new_item(question), WAIT)
    except (PublishError, *LOST):
        return answers
    for item in items:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            event = json.loads(item.payload)
            if event == question:
                answers.append(Answer({}, {}, {}))
            elif event["is"] == "count" and event["nonce"] == question["nonce"]:
                answers.append(Answer.read(event))
    return answers
