"""How many connections use each token, in all processes."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping

from ..hub.hub import Hub
from ..publish import any_hub, reaches_connections

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
