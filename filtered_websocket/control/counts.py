"""How many connections use each token, in all processes."""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping

from channels.layers import get_channel_layer

from ..conf import conf
from ..exceptions import PublishError
from ..hub.hub import Hub
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
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return None
    if not reaches_connections():
        return None
    sender = sender_for(get_channel_layer(conf.CHANNEL_LAYER)) if queueing_hub() is None else None
    if sender is not None:
        # Under gevent an event loop of any thread would break every other query.
        answers = _ask_directly(sender)
    else:
        hub = any_hub()
        answers = asyncio.run_coroutine_threadsafe(_ask(hub), hub.loop).result()
    if not answers:
        # Not even this process's own answer came back: the layer is lost.
        return None
    total = sum(map(Counter, answers), Counter())
    return {pk: total[str(pk)] for pk in token_ids}


async def _ask(hub: Hub) -> list[dict[str, int]]:
    grants = hub.grants
    await grants.receiving()
    nonce = secrets.token_hex(8)
    answers: list[dict[str, int]] = []
    grants.counts_asked[nonce] = answers
    try:
        hub.send_control({"is": "ask", "nonce": nonce})
        await asyncio.sleep(WAIT)
    finally:
        del grants.counts_asked[nonce]
    return answers


def _ask_directly(sender: DirectSender) -> list[dict[str, int]]:
    """The answers; one of nothing for this process, where its question came back."""
    nonce = secrets.token_hex(8)
    question = {"is": "ask", "nonce": nonce}
    answers: list[dict[str, int]] = []
    try:
        items = sender.ask(new_item(question), WAIT)
    except (PublishError, *LOST):
        return answers
    for item in items:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            event = json.loads(item.payload)
            if event == question:
                answers.append({})
            elif event["is"] == "count" and event["nonce"] == nonce:
                answers.append({str(pk): int(count) for pk, count in event["tokens"].items()})
    return answers
