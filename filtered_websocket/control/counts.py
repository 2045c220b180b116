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
from ..publishing.items import control_item

#: How long the caller waits for the processes' answers, seconds; and at most for those of processes
#: that are known to be there.
WAIT, LATE = 0.25, 1.0


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


def count_in_all(key: str, value: Any) -> int | None:
    """
    The sum of what all processes answer to a question that ``hub.registry.asked`` has a
    function for, which replies with a number of the same name. None as of
    :func:`count_connections`.
    """
    answers = _ask({key: value})
    return sum(int(answer.event.get(key, 0)) for answer in answers) if answers else None


def describe_processes(
    inside: bool = False, seconds: float | None = None
) -> list[dict[str, Any]] | None:
    """
    What each process that has connections, and answers within so many ``seconds`` (``WAIT``),
    says of itself; with ``inside`` also how it does and what its filters have done, which
    processes of an earlier version leave out. None as of :func:`count_connections`.
    """
    what = {"node": True, **({"snapshot": {"of": "process"}} if inside else {})}
    answers = _ask(what, seconds)
    return [answer.node for answer in answers if answer.node] if answers else None


def _ask(what: dict[str, Any], seconds: float | None = None) -> list[Answer]:
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
    question = _question(what)
    if sender is not None:
        # Under gevent an event loop of any thread would break every other query.
        return _ask_directly(sender, question, WAIT if seconds is None else seconds)
    hub = any_hub()
    asking = _ask_hub(hub, question, Answers(seconds=seconds))
    return asyncio.run_coroutine_threadsafe(asking, hub.loop).result()


def _question(what: dict[str, Any]) -> dict[str, Any]:
    return {"is": "ask", "nonce": secrets.token_hex(8), **what}


class Answers(list[Answer]):
    """Those to one question, and of which processes they are still missing."""

    def __init__(self, expected: Iterable[str] = (), seconds: float | None = None) -> None:
        super().__init__()
        #: How long those are waited for of which nobody knows; None: for ``WAIT``.
        self.seconds = seconds
        self._missing = set(expected)
        self._knows_some = bool(self._missing)
        self._complete = asyncio.Event()

    def append(self, answer: Answer) -> None:
        super().append(answer)
        self._missing.discard(answer.process)
        if not self._missing:
            self._complete.set()

    async def wait(self, also_others: bool) -> None:
        """Return when all that are expected have come; with ``also_others``, after ``WAIT``."""
        if also_others or not self._knows_some:
            await wait_for(self)
        if self._missing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATE):
                    await self._complete.wait()


async def ask_all(
    hub: Hub, what: dict[str, Any], expected: Iterable[str] = (), also_others: bool = True
) -> list[Answer]:
    """
    What all processes answer to a question. On the loop of ``hub``.

    It waits for those whose names are ``expected``, which may be busy, for ``LATE`` at most; for
    others, of which it cannot know how many there are, for ``WAIT``, or not if they need not
    be heard.
    """
    return await _ask_hub(hub, _question(what), Answers(expected), also_others)


async def wait_for(answers: "Answers") -> None:
    """Return when all processes have had their time to answer."""
    await asyncio.sleep(WAIT if answers.seconds is None else answers.seconds)


async def _ask_hub(
    hub: Hub, question: dict[str, Any], answers: Answers | None = None, also_others: bool = True
) -> list[Answer]:
    answers = Answers() if answers is None else answers
    grants = hub.grants
    await grants.receiving()
    nonce = question["nonce"]
    grants.counts_asked[nonce] = answers
    try:
        hub.send_control(question)
        await answers.wait(also_others)
    finally:
        del grants.counts_asked[nonce]
    return answers


def _ask_directly(sender: DirectSender, question: dict[str, Any], seconds: float) -> list[Answer]:
    """The answers; one of nothing for this process, where its question came back."""
    answers: list[Answer] = []
    try:
        items = sender.ask(control_item(question), seconds)
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
