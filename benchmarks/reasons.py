"""
Why a bound is missed, by the words of its claim or curve: shown where a run misses it.

Written by hand: whoever commits figures that miss a bound says here what it would take, and
runs ``python -m benchmarks --report``.
"""

from .needs import BEFORE

_ALONE = (
    "About half of what is left is the system's: a read from Redis and a write to the client"
    " for each message that comes alone. And the package as it was is measured with the advised"
    " garbage collection too, with which it takes less than half of what it takes without"
)
_SCRIPT = (
    "One run of a script, with seven commands, takes the place of one PUBLISH. Where a process"
    " writes many batches at once, as here, a PUBLISH costs Redis so little that a script that"
    " does nothing costs about twice as much, and one that only appends, notes the position and"
    " publishes about four times. For a batch that comes alone, most of both is the system's"
)

REASONS: dict[str, str] = {
    "200 clients, one message at a time, CPU per delivery: ours on daphne / Bun, in memory": (
        "Both make one system call per client; the loop around it is compiled in Bun,"
        " and Python here"
    ),
    **{
        "5 000 groups of 1, from another process, with garbage collection as advised, CPU of the"
        f" first delivery: ours on {server} through Redis / as of {BEFORE}": _ALONE
        for server in ("daphne", "uvicorn")
    },
    **{
        f"50 rooms of 4, {server}: CPU of Redis per message with history / without": _SCRIPT
        for server in ("daphne", "uvicorn")
    },
}
