"""
Control events: orders to the connections of all processes, and questions that all answer.

::

    order, ask -> the control group -> every process that has connections
    answers to an ask, for WAIT seconds <--+
"""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from typing import Any

from channels.layers import get_channel_layer

from ..auth.tenants import tenant_name, tenant_of
from ..conf import conf
from ..exceptions import PublishError, check_close
from ..groups import RESERVED
from ..hub.hub import Hub
from ..hub.registry import Answer
from ..layer.envelope import CONTROL, check_group
from ..layer.health import LOST
from ..logs import get_logger
from ..publish import any_hub, queueing_hub, reaches_connections, send_now
from ..publishing.direct import DirectSender, sender_for
from ..publishing.items import control_item

logger = get_logger(__name__)

#: How long the caller waits for the processes' answers, seconds; and at most for those of processes
#: that are known to be there.
WAIT, LATE = 0.25, 1.0


# Orders


def recheck(kind: str, pk: Any) -> None:
    """Have every process re-check the connections of this ``token`` or ``user``."""
    send({"is": "changed", "kind": kind, "id": str(pk)})


def tell(key: str, value: Any) -> bool:
    """
    Tell all processes something that ``hub.registry.told`` has a function for; earlier versions
    take it for an answer that nobody waits for. Returns as :func:`send`.
    """
    return send({"is": "count", "nonce": secrets.token_hex(8), "tokens": {}, key: value})


def change(kind: str, name: str, group: str, client: str = "") -> bool:
    """
    Have connections ``subscribe`` or ``unsubscribe``: those of the user with this key, or the
    one with this id. With ``client`` that connection of theirs only; without a ``name``, that
    one if nobody is logged in on it. Returns as :func:`send`.

    ValueError for names of groups that are reserved.
    """
    for prefix, whose in RESERVED.items():
        if check_group(group).startswith(prefix):
            raise ValueError(f"group {group!r:.80}: names that begin with {prefix!r} are {whose}")
    event = {"is": "changed", "kind": kind, **_about(name, client), "group": group, **_tenant()}
    return send({**event, "n": secrets.token_hex(8)})


def set_expiry(name: str, client: str, at: int | None) -> bool:
    """
    Have connections expire at this Unix time, or not at all by this order; which ones, and
    what is returned, as of :func:`change`.
    """
    return send({"is": "changed", "kind": "expiry", **_about(name, client), "at": at, **_tenant()})


def close(
    kind: str, name: str, code: int, reason: str, client: str = "", keep: Iterable[str] = ()
) -> bool:
    """
    Close the connections of a ``user``, ``token`` or ``session``, or one ``connection``, but
    for those with the ids in ``keep``; ``client`` and what is returned as in
    :func:`change`.

    ValueError for a code or reason that an application may not send.
    """
    # Checked here, so that the caller gets the error.
    check_close(code, reason)
    event = {"is": "close", "kind": kind, **_about(name, client), "code": code, "reason": reason}
    kept = list(keep)
    return send({**event, "keep": kept} if kept else event)


def _about(name: str, client: str) -> dict[str, str]:
    """The fields that say which connections an event is about."""
    # A process of an earlier version knows the id alone: never that of somebody else's connection.
    return {"id": name, "client": client} if client else {"id": name}


def _tenant() -> dict[str, str]:
    tenant = tenant_name(tenant_of(copy_context()))
    return {"tenant": tenant} if tenant else {}


def send(event: dict[str, Any]) -> bool:
    """
    Send ``event`` to the hubs of all processes. Errors are logged, never raised. Whether
    there was none.

    In a process that serves no WebSockets it returns when Redis has it, as ``publish`` does.
    """
    try:
        hub = queueing_hub()
        # Encoded here, where an error is caught. The queue's bound is for messages only.
        item = control_item(event)
        if hub is not None:
            hub.call(hub.send_control, event, item)
        else:
            send_now(CONTROL, item)
    except Exception as error:
        # An error of the layer must not break the save or the logout that caused this.
        logger.error(
            "cannot send a control event: %r; its connections close at the next RECHECK", error
        )
        return False
    return True


# Questions


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
