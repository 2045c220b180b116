"""
Asks all processes what they have, for the pages of the console that this process serves.

::

    page -> LookFilter -> ask -> the control group -> every process: rows, snapshot
                           ^-- answers, for WAIT seconds <--+

However many pages are open, the processes are asked for the same thing once a second at most,
and for nothing while no page is open.
"""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeAlias

from ..api.control import ask_all
from ..auth.keys import hide_secrets
from ..history import Publication, ahistory
from ..hub.hub import Hub, get_hub
from ..observe import BOUNDS
from ..presence import apresence, apresence_stats
from .actions import TEE
from .rows import GROUP_ORDERS, MAX_ROWS, ROWS, clean, fitting
from .snapshot import merge_hubs, merge_pipelines

#: An answer about all processes is used again for so many seconds.
FRESH = 1.0
#: A process that has not answered for so long is no longer shown, seconds.
GONE = 10.0
#: The most processes and pipelines that a page is told of.
MAX_PROCESSES, MAX_PIPELINES = 100, 50
#: Of one group: so many members and messages, and so many characters of each message. Of a larger
#: group the members are only counted, as all of them would be copied.
MAX_MEMBERS, MAX_MESSAGES, MAX_SHOWN = 200, 20, 500


class Overview:
    """What the processes have said last: one that is busy may miss a question."""

    def __init__(self) -> None:
        #: By their ids: when they have answered last, and what.
        self._nodes: dict[str, tuple[float, dict[str, Any]]] = {}
        self._asked = -FRESH
        self._answer: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def look(self, hub: Hub) -> dict[str, Any]:
        """Processes, and the pipelines of all of them, summed."""
        async with self._lock:
            if time.monotonic() - self._asked >= FRESH:
                await self._ask(hub)
            return self._answer

    def names(self, since: float = -FRESH) -> list[str]:
        """The names of those that answer such questions, and have answered since then."""
        nodes = [node for at, node in self._nodes.values() if at >= since and "inside" in node]
        return [str(node.get("name")) for node in nodes]

    @property
    def awake(self) -> list[str]:
        """The names of those that have answered the last question."""
        return self.names(self._asked)

    def expected(self, hub: Hub) -> set[str]:
        """Who is waited for: they, and this process, which will answer however busy it is."""
        return {hub.grants.inventory.identity()["name"], *self.awake}

    async def _ask(self, hub: Hub) -> None:
        question = {"node": True, "snapshot": {"of": "process"}}
        answers = await ask_all(hub, question, self.expected(hub))
        now = self._asked = time.monotonic()
        said = merge_hubs(one.node for one in answers if one.node)
        last = {uid: one for uid, one in self._nodes.items() if now - one[0] < GONE}
        self._nodes = last | {str(node.get("uid")): (now, node) for node in said}
        nodes = sorted(self._nodes.values(), key=lambda one: str(one[1].get("name")))
        pipelines = merge_pipelines(node for _, node in nodes)
        self._answer = {
            "at": round(now, 3),
            "processes": [_shown(node, now - at) for at, node in nodes[:MAX_PROCESSES]],
            "num_processes": len(nodes),
            "pipelines": pipelines[:MAX_PIPELINES],
            "num_pipelines": len(pipelines),
            "bounds": BOUNDS,
        }


def _shown(node: dict[str, Any], silent: float) -> dict[str, Any]:
    """A process without its pipelines, and for how long it has been silent."""
    inside = {name: value for name, value in node.get("inside", {}).items() if name != "pipelines"}
    return {**node, "inside": inside or None, "silent": round(silent, 1)}


_overviews: "weakref.WeakKeyDictionary[Hub, Overview]" = weakref.WeakKeyDictionary()


def overview_of(hub: Hub) -> Overview:
    """That of a hub, which all its pages share."""
    return _overviews.setdefault(hub, Overview())


async def ask(hub: Hub, of: str, **about: Any) -> list[dict[str, Any]]:
    """What each process answers that knows the question, with its name as ``process``."""
    known, question = overview_of(hub), {"snapshot": {"of": of, **about}}
    answers = await ask_all(hub, question, known.expected(hub), not known.awake)
    return [
        {"process": answer.process, **answer.event["snapshot"]}
        for answer in answers
        if "snapshot" in answer.event
    ]


def _rows(answers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all answers, which say of which process they are."""
    return [{**row, "process": answer["process"]} for answer in answers for row in answer["rows"]]


#: What comes first, of rows.
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newest": lambda row: -row["age"],
    "oldest": lambda row: row["age"],
    "unsent": lambda row: row["unsent"],
    "groups": lambda row: row["num_groups"],
}


async def find_connections(hub: Hub, limit: int = ROWS, **about: Any) -> dict[str, Any]:
    """The first of those that are asked for, and how many there are."""
    answers = await ask(hub, "connections", limit=limit, **about)
    order = ORDERS.get(str(about.get("order")), ORDERS["newest"])
    rows = sorted(_rows(answers), key=order, reverse=True)[: min(limit, MAX_ROWS)]
    counts = {name: sum(one[name] for one in answers) for name in ("matched", "total")}
    return {"rows": rows, **counts}


async def find_groups(hub: Hub, limit: int = ROWS, **about: Any) -> dict[str, Any]:
    """
    The first of those that are asked for, and how many the process has that has most of them.
    (A group that is small in each of many processes may be missing.)
    """
    answers = await ask(hub, "groups", limit=limit, **about)
    order = GROUP_ORDERS.get(str(about.get("order")), GROUP_ORDERS["members"])

    def first(groups: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        key: Any = lambda row: order((row["name"], row["members"], row["messages"]))  # noqa: E731
        return sorted(groups.values(), key=key, reverse=True)[: min(limit, MAX_ROWS)]

    rows = first(_add_up(_rows(answers)))
    if any(len(answer["rows"]) < answer["matched"] for answer in answers) and len(answers) > 1:
        # Those that come first in one process need not do so in another, and count there, too.
        rows = first(await _count_groups(hub, [row["name"] for row in rows]))
    most = {name: max((one[name] for one in answers), default=0) for name in ("matched", "total")}
    return {"rows": rows, **most}


async def count_group(hub: Hub, name: str) -> dict[str, Any] | None:
    """One group; None where nobody is in it."""
    return (await _count_groups(hub, [name])).get(name)


async def _count_groups(hub: Hub, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    chosen = [one["name"] for one in fitting({"name": name} for name in names)]
    return _add_up(_rows(await ask(hub, "group", names=chosen)))


def _add_up(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each group in all processes."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = found.setdefault(row["name"], {**row, "members": 0, "messages": 0, "processes": 0})
        known["members"] += row["members"]
        known["processes"] += 1
        # Each process gets every message of a group.
        known["messages"] = max(known["messages"], row["messages"])
        for flag in ("presence", "history"):
            known[flag] = known[flag] or row[flag]
    return found


# What a page asks for

#: Called with what the user may, and what the page says.
Look: TypeAlias = Callable[[frozenset[str], Mapping[str, Any]], Awaitable[dict[str, Any]]]


def _texts(about: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Those that the page gives as texts."""
    return {name: about[name] for name in names if isinstance(about.get(name), str)}


def _limit(about: Mapping[str, Any]) -> int:
    limit = about.get("limit")
    return min(limit, MAX_ROWS) if isinstance(limit, int) and limit > 0 else ROWS


async def _overview(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    hub = get_hub()
    return await overview_of(hub).look(hub)


async def _connections(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    asked = _texts(about, "search", "order", "group", "user")
    return await find_connections(get_hub(), _limit(about), **asked)


async def _groups(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    return await find_groups(get_hub(), _limit(about), **_texts(about, "search", "order"))


async def _connection(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """
    One connection. ``row`` is None where nobody has it, which is not ``sure`` while its process
    does not answer.
    """
    hub, process = get_hub(), about.get("process")
    answers = await ask(hub, "connection", **_texts(about, "id"))
    found = [{**one["row"], "process": one["process"]} for one in answers if one["row"]]
    silent = set(overview_of(hub).names()) - {one["process"] for one in answers}
    return {"row": found[0] if found else None, "sure": process not in silent}


async def _group(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """One group, who is in it where that is kept, and to whom may see it what was published."""
    name = _texts(about, "name").get("name", "")
    row = await count_group(get_hub(), name) if name else None
    answer: dict[str, Any] = {"row": row}
    if row is None:
        return answer
    try:
        if row["presence"]:
            answer["presence"] = await _presence(name)
        if row["history"] and TEE in permissions:
            page = await ahistory(name, limit=MAX_MESSAGES, reverse=True)
            answer["messages"] = [*map(_show, page.publications)]
    except ConnectionError as error:
        answer["problem"] = str(error)
    return answer


async def _presence(name: str) -> dict[str, Any]:
    stats = await apresence_stats(name)
    answer: dict[str, Any] = {"connections": stats.connections, "users": stats.users}
    if stats.connections <= MAX_MEMBERS:
        infos = islice((await apresence(name)).items(), MAX_MEMBERS)
        answer["members"] = [{"id": key, "user": clean(info.user or "")} for key, info in infos]
    return answer


def _show(publication: Publication) -> dict[str, Any]:
    text = publication.data.decode("utf-8", "replace") if publication.kind != "b" else ""
    return {
        "offset": publication.offset,
        "size": len(publication.data),
        "text": clean(hide_secrets(text), MAX_SHOWN),
        "sender": clean(publication.sender),
    }


async def _errors(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """The last ones of all processes, each once."""
    merged: dict[str, dict[str, Any]] = {}
    for row in _rows(await ask(get_hub(), "errors", limit=MAX_ROWS)):
        known = merged.setdefault(row["key"], {**row, "count": 0, "processes": 0})
        if row["last"] > known["last"]:
            known.update({name: row[name] for name in ("what", "where", "process", "last")})
        known["first"] = min(known["first"], row["first"])
        known["count"] += row["count"]
        known["processes"] += 1
    rows = sorted(merged.values(), key=lambda row: -row["last"])
    return {"rows": rows[:MAX_ROWS], "total": len(rows)}


async def _error(permissions: frozenset[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """
    One of them, with a traceback. The message of an exception may hold what a client has
    sent: only who may see that sees it.
    """
    answers = await ask(get_hub(), "error", **_texts(about, "key"))
    found = [{**one["row"], "process": one["process"]} for one in answers if one["row"]]
    if not found:
        return {"row": None}
    row = found[0]
    if TEE not in permissions:
        row["trace"] = [{**one, "message": None} for one in row["trace"]]
    return {"row": row}


#: By the method of a call.
LOOKS: dict[str, Look] = {
    "overview": _overview,
    "connections": _connections,
    "connection": _connection,
    "groups": _groups,
    "group": _group,
    "errors": _errors,
    "error": _error,
}
