"""
Which connections, groups and errors a process has: the first few of those that are asked for.

Each function is asked for one page, runs in steps (see ``snapshot``), and its answer is
bounded in rows and bytes.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from ..auth.keys import hide_secrets
from ..auth.validity import is_token
from ..codecs.frames import dump_json
from ..connections.connection import Connection
from ..hub.hub import Hub
from ..hub.registry import asked
from ..logs import Incident, recent
from ..pipelines.pipeline import Pipeline
from ..pipelines.route import name_of
from .snapshot import (
    Describe,
    Reply,
    Steps,
    answer_in_turns,
    describe_process,
    in_parts,
    most_bytes,
)

#: The most rows of an answer, and those of one that is not told how many.
MAX_ROWS, ROWS = 100, 50
#: The most characters that are shown of a name, and that are searched for.
MAX_TEXT, MAX_SEARCH = 120, 100
#: The most groups that a row names, and that one connection's own answer names.
FEW_GROUPS, MAX_GROUPS = 3, 100

#: What comes first.
CONNECTION_ORDERS: dict[str, Callable[[Connection], Any]] = {
    "newest": lambda one: one.began,
    "oldest": lambda one: -one.began,
    "unsent": lambda one: one.transport.unsent,
    "groups": lambda one: len(one.joined),
}
#: Of a group: its name, its members, its messages.
GROUP_ORDERS: dict[str, Callable[[tuple[str, int, int]], Any]] = {
    "members": lambda one: one[1],
    "messages": lambda one: one[2],
}


class Top:
    """The entries that come first in an order, of any number; only ``limit`` are kept."""

    def __init__(self, limit: int, order: Callable[[Any], Any]) -> None:
        self._limit, self._order = limit, order
        self._heap: list[tuple[Any, int, Any]] = []
        #: How many there were.
        self.count = 0

    def add(self, entry: Any) -> None:
        self.count += 1
        place = self._order(entry), -self.count, entry
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, place)
        else:
            heapq.heappushpop(self._heap, place)

    def entries(self) -> list[Any]:
        return [entry for _, _, entry in sorted(self._heap, reverse=True)]


def clean(value: Any, most: int = MAX_TEXT) -> str:
    """A text that JSON can have, cut: clients choose some of them."""
    text = str(value)
    cut = text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return cut.encode("utf-8", "replace").decode()


def fitting(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows that together fit into an answer."""
    room, kept = most_bytes() * 3 // 4, []
    for row in rows:
        room -= len(dump_json(row).encode())
        if room < 0:
            break
        kept.append(row)
    return kept


def _limit(question: Mapping[str, Any]) -> int:
    return max(1, min(int(question.get("limit", ROWS)), MAX_ROWS))


def _search(question: Mapping[str, Any]) -> str:
    return str(question.get("search", ""))[:MAX_SEARCH].casefold()


# Connections


def user_name(connection: Connection) -> str:
    """What its user is called; empty where nobody is logged in. Asks no database."""
    user = connection.user
    try:
        if user is None or not user.is_authenticated:
            return ""
        return str(user.get_username() if hasattr(user, "get_username") else user)
    except Exception:
        # A field that was not loaded, or a class of the site's own.
        return str(connection.user_id or "")


def _matches(connection: Connection, search: str) -> bool:
    scope = connection.scope
    texts = user_name(connection), connection.address, str(scope.get("path")), connection.id
    return any(search in text.casefold() for text in texts)


def list_connections(hub: Hub, question: dict[str, Any]) -> Steps:
    """
    Of those that match ``search`` (user, address, path or id), are in ``group`` and are of
    ``user``.
    """
    order = CONNECTION_ORDERS.get(str(question.get("order")), CONNECTION_ORDERS["newest"])
    top, search = Top(_limit(question), order), _search(question)
    group, user = question.get("group"), question.get("user")
    for some in in_parts(hub.connections.values()):
        for one in some:
            if (
                (group is None or group in one.joined)
                and (user is None or user == one.user_id)
                and (not search or _matches(one, search))
            ):
                top.add(one)
        yield
    rows = (_connection_row(one) for one in top.entries())
    return {"rows": fitting(rows), "matched": top.count, "total": len(hub.connections)}


def _connection_row(one: Connection) -> dict[str, Any]:
    groups = sorted(islice(one.joined, FEW_GROUPS))
    state = "closing" if one.closing else "open" if one.transport.is_open else "connecting"
    row = {
        "id": one.id,
        "user": one.user_id,
        "name": clean(user_name(one)),
        "path": clean(one.scope.get("path", "")),
        "address": one.address,
        "age": int(time.monotonic() - one.began),
        "groups": [clean(name) for name in groups],
        "num_groups": len(one.joined),
        "unsent": one.transport.unsent,
        "state": state,
    }
    return row


def describe_connection(hub: Hub, question: dict[str, Any]) -> Steps:
    """One of them, with all its groups, as far as they fit."""
    one = hub.connections.get(str(question.get("id")))
    yield
    if one is None:
        return {"row": None}
    named = [name for name in islice(one.joined, MAX_GROUPS) if clean(name, len(name)) == name]
    groups = fitting({"name": name} for name in sorted(named))
    row = {
        **_connection_row(one),
        "route": clean(name_of(one.pipeline)),
        "lane": one.transport.lane,
        "agent": clean(_agent(one)),
        "groups": [group["name"] for group in groups],
        "token": _token(one),
    }
    return {"row": row}


def _agent(one: Connection) -> str:
    found = [value for name, value in one.scope.get("headers", ()) if name == b"user-agent"]
    return found[0].decode("latin-1") if found else ""


def _token(one: Connection) -> dict[str, Any] | None:
    """Id and name of the token that it depends on; never a part of its key."""
    if not is_token(one.token):
        return None
    return {"id": one.token.pk, "name": clean(one.token.name)}


# Groups


def list_groups(hub: Hub, question: dict[str, Any]) -> Steps:
    """Of those whose names contain ``search``."""
    order = GROUP_ORDERS.get(str(question.get("order")), GROUP_ORDERS["members"])
    top, search = Top(_limit(question), order), _search(question)
    for names in in_parts(hub.groups.names):
        for name in names:
            if not search or search in name.casefold():
                top.add((name, *_count(hub, name)))
        yield
    named = [entry for entry in top.entries() if clean(entry[0], len(entry[0])) == entry[0]]
    rows = (_group_row(hub, *entry) for entry in named)
    return {"rows": fitting(rows), "matched": top.count, "total": len(hub.groups)}


def describe_groups(hub: Hub, question: dict[str, Any]) -> Steps:
    """The groups with these names that have members here."""
    names = list(map(str, question.get("names", ())))[:MAX_ROWS]
    yield
    found = ((name, *_count(hub, name)) for name in names)
    return {"rows": fitting(_group_row(hub, *one) for one in found if one[1])}


def _count(hub: Hub, name: str) -> tuple[int, int]:
    """The members of a group here, and the messages that have come for them."""
    group = hub.groups.find(name)
    return (0, 0) if group is None else (sum(map(len, group.members.values())), group.messages)


def _group_row(hub: Hub, name: str, members: int, messages: int) -> dict[str, Any]:
    group = hub.groups.find(name)
    pipelines = [view.pipeline for view in (group.members if group else ())]
    rules = [rule for pipeline in pipelines if (rule := _rule(pipeline, name))]
    return {
        "name": name,
        "members": members,
        "messages": messages,
        "presence": any(rule.presence for rule in rules),
        "history": any(rule.history is not None for rule in rules),
    }


def _rule(pipeline: Pipeline, name: str) -> Any:
    try:
        match = None if pipeline.rules is None else pipeline.rules.find(name)
    except Exception:
        return None  # of a converter of the site's
    return None if match is None else match.rule


# Errors


def list_errors(hub: Hub, question: dict[str, Any]) -> Steps:
    """The last errors and warnings, the newest first, each with its count; without tracebacks."""
    yield
    rows = map(_error_row, recent.newest())
    return {"rows": fitting(islice(rows, _limit(question))), "matched": len(recent)}


def describe_error(hub: Hub, question: dict[str, Any]) -> Steps:
    """One of them, with the traceback of its first time."""
    incident = recent.find(str(question.get("key")))
    yield
    if incident is None:
        return {"row": None}
    trace = [{**one, "message": hide_secrets(one["message"])} for one in incident.trace]
    return {"row": {**_error_row(incident), "trace": trace}}


def _error_row(incident: Incident) -> dict[str, Any]:
    return {**incident.row(), "what": hide_secrets(incident.what)}


#: What can be asked.
QUESTIONS: dict[str, Describe] = {
    "process": describe_process,
    "connections": list_connections,
    "connection": describe_connection,
    "groups": list_groups,
    "group": describe_groups,
    "errors": list_errors,
    "error": describe_error,
}


def connect() -> None:
    """Have this process answer the console's questions."""
    asked["snapshot"] = answer


def answer(hub: Hub, question: dict[str, Any], reply: Reply) -> None:
    """Answer a question that has come as a control event, if it is known here."""
    describe = QUESTIONS.get(str(question.get("of")))
    if describe is not None:
        process = hub.grants.inventory.identity()["name"]

        def send(part: dict[str, Any]) -> None:
            is_node = describe is describe_process
            reply({"node": part} if is_node else {"process": process, "snapshot": part})

        answer_in_turns(hub, describe(hub, question), send)
