"""
Why a bound is missed, by the words of its claim or curve: shown where a run misses it.

Written by hand: whoever commits figures that miss a bound says here what it would take, and
runs ``python -m benchmarks --report``.
"""

from .needs import BEFORE

_ALONE = (
    "About half of what is left is the system's: a read from Redis and a write to the client"
    " for each message that comes alone, which the package as it was had, too"
)
_SCRIPT = (
    "Four commands of a script (read the position, append, note it, publish) take the place of one"
    " PUBLISH, and in a script Valkey 9 needs about as many instructions for each as for a PUBLISH"
    " that comes with many others: 5 times as many for a batch among 32, 8 times for one alone. For"
    " a batch that comes alone, most of both is the system's"
)
_GROUPS = (
    "Node, too, makes one system call for each of three clients; what is ours is some 60 us of"
    " Python for each message: to read its frame, to run two chains, to queue it, to find who"
    " gets it. 200 members share the same 60 us"
)
_THROUGH_REDIS = (
    f"{_GROUPS}. Through Redis, some 20 us more: it is packed with what else goes out in that"
    " turn of the event loop, and unpacked when it comes back. socket.io does not wait for that:"
    " it writes to the clients of its own process at once, so theirs and those of other"
    " processes may get two messages in two orders"
)
_SESSIONS = (
    "Django's session and user are two queries, which handshakes that arrive together share,"
    " and the models made of their rows; python-socketio reads neither. daphne without an"
    " application takes 0.6 ms for a handshake, of the 0.7 that python-socketio takes"
)
_TURNS = (
    "When this was measured, a client that publishes alone gave way after 0.15 ms, so that of 32"
    " messages 13 to 16 left in one write to each member, where 32 had. It gives way after up to"
    " 0.5 ms now where nobody else sends anything: in 15 short runs by turns, on a busy machine,"
    " the medians were 0.89 on daphne and 0.84 on uvicorn, and 1.46 and 1.43 with 0.15 ms"
)
_ONE_CALL = (
    "Nearly all of it is one system call for each client, in Node, too, and the ratio in"
    " repeated runs is on both sides of 1"
)
_COMMAND = (
    "A publish of this protocol is a command: its JSON or Protobuf is read and checked, its group"
    " found, who publishes told to all, and a reply sent once Redis has it. A frame of a plain"
    " route is the message, nobody is named, and nothing is answered. That is some 12 to 40 us for"
    " each message, whatever the number of members"
)
_FAN_OUT = (
    f"{_COMMAND}. So fewer of one client's messages are handled in one turn, and leave in one write"
    " to each member. socket.io takes 7 us where this takes 0.6 to 1.1"
)
_RECOVERING = (
    "A subscribe command is read, its rule asked and what was missed told in its reply, which is"
    " made for each client; the plain route joins by a filter and is sent the frame as it is kept."
    " That is some 30 to 60 us for each client, and both together half of what socket.io takes"
)
_EVENT = (
    "A client event is JSON, which is read, checked and packed anew for the subscribers, and"
    " counted against the rate of its connection; others are told who has sent it, and its channel"
    " and name go out with the data. A frame of a plain route is the message. That is some 16 us"
    " for each event, whatever the number of subscribers"
)
_REQUEST = (
    "daphne keeps Twisted's request, with its headers, and a task that waits for the client's end,"
    " for as long as a stream; a WebSocket has left its request behind"
)


def through_pusher(words: str, why: str) -> dict[str, str]:
    """The same reason on both servers."""
    return {
        f"{words}: ours on {server} through Redis, Pusher protocol / plain route": why
        for server in ("daphne", "uvicorn")
    }


def through_protocol(words: str, why: str) -> dict[str, str]:
    """The same reason on both servers and in both formats."""
    return {
        f"{words}: ours on {server} through Redis, Centrifuge protocol in {form} / plain route": why
        for server in ("daphne", "uvicorn")
        for form in ("JSON", "Protobuf")
    }


REASONS: dict[str, str] = {
    "200 clients, one message at a time, CPU per delivery: ours on daphne / Bun, in memory": (
        "Both make one system call per client; the loop around it is compiled in Bun,"
        " and Python here"
    ),
    "ten no-op `async def` filters, us per message, daphne": (
        "Ten coroutines are made and run, of about 1 us each in Python 3.11"
    ),
    "an anonymous handshake, CPU: ours on uvicorn / bare ASGI, uvicorn": (
        "The bare application accepts; ours looks at routes and origin, runs the connect chain,"
        " and joins a group: 0.15 ms, beside 0.4 of uvicorn itself"
    ),
    **{
        f"200 clients, without a send filter, CPU per delivery: ours on {server} through Redis"
        f" / as of {BEFORE}": _TURNS
        for server in ("daphne", "uvicorn")
    },
    **{
        f"3 000 clients, median fan-out time: ours on {server} / Node `ws`, in memory": _ONE_CALL
        for server in ("daphne", "uvicorn")
    },
    **{
        f"1 000 groups of 3, CPU per delivery: ours on {server} / Node `ws`, in memory": _GROUPS
        for server in ("daphne", "uvicorn")
    },
    **{
        f"1 000 groups of 3, CPU per delivery: ours on {server} {others}": _THROUGH_REDIS
        for server in ("daphne", "uvicorn")
        for others in (
            "/ socket.io, both through Redis",
            "through Redis / Node `ws` in memory",
        )
    },
    **{
        f"connections per second: ours with session and user, {server}, Redis"
        " / python-socketio": _SESSIONS
        for server in ("daphne", "uvicorn")
    },
    "50 rooms of 4, daphne, Redis: CPU per message with history / without": (
        "An append is packed with the position of its origin, and its answer is waited for; by"
        " the same code uvicorn meets the bound, and the three rounds are on both sides of it"
    ),
    **{
        "5 000 groups of 1, from another process, with Python's own garbage collection, CPU of"
        f" the first delivery: ours on {server} through Redis / as of {BEFORE}": _ALONE
        for server in ("daphne", "uvicorn")
    },
    **{
        "5 000 groups of 1, from another process, with garbage collection as advised, CPU of the"
        f" first delivery: ours on {server} through Redis / as of {BEFORE}": _ALONE
        for server in ("daphne", "uvicorn")
    },
    "groups of one: CPU per delivery, ours, uvicorn": (
        "One measurement of each size; daphne, and uvicorn through Redis, do not rise in the"
        " same run"
    ),
    "processes with 200 members each: CPU per delivery, ours, daphne, Redis": (
        "Four processes, Redis and the load share two cores"
    ),
    **{
        f"50 rooms of 4, {server}: CPU of Redis per message with history / without": _SCRIPT
        for server in ("daphne", "uvicorn")
    },
    **through_protocol("200 clients, CPU per delivery", _FAN_OUT),
    **through_protocol("500 groups of 3, CPU per delivery", _COMMAND),
    **through_protocol("50 rooms of 4 with a history, CPU per delivery", _COMMAND),
    **through_protocol("1 000 clients catch up at once, CPU per client", _RECOVERING),
    **through_pusher("200 clients, CPU per delivery of a client event", _EVENT),
    **through_pusher("500 groups of 3, CPU per delivery of a client event", _EVENT),
    "an idle connection: server-sent events on daphne / WebSocket": _REQUEST,
}
