"""The tables of docs/scale.md: costs, sites of a million connections, where one Redis ends."""

from dataclasses import replace
from typing import Any

from . import fleet, sizing
from .costs import Costs, costs, measured_by
from .results import Results
from .sizing import PROFILES, Site
from .tables import markdown, number

PROCESSES = 100
#: What is published in the table of where one Redis ends, each second.
RATES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
NOT_YET = "Not measured yet."


def profile(name: str) -> Site:
    return sizing.site_of(sizing.parse(["--profile", name]))


def unit_costs(results: Results) -> str:
    try:
        columns = [costs(server, results) for server in ("daphne", "uvicorn")]
    except LookupError:
        return NOT_YET
    rows = [
        [words, *(number(getattr(one, name)) for one in columns), unit, source]
        for name, words, unit, source in UNITS
    ]
    return markdown(["", "daphne", "uvicorn", "", "from"], rows)


def relay(results: Results) -> str:
    found = measured_by("relay")
    rows = [[words, number(found["figures"][name])] for name, words in RELAY]
    return f"{markdown(['', 'us of CPU of Redis'], rows)}\n\n{_measured_on(found['about'])}"


def members(results: Results) -> str:
    found = measured_by("members")
    tables = [
        markdown(["", heading], [[words, number(found["figures"][name])] for name, words in rows])
        for heading, rows in (("us of CPU of Redis", MEMBERS), ("bytes in Redis", MEMORY))
    ]
    return "\n\n".join([*tables, _measured_on(found["about"])])


def _measured_on(about: dict[str, Any]) -> str:
    host = about["machine"]
    return (
        f"{about['date']}; {host['cpu']}, {host['cores']} cores, {host['kernel']};"
        f" load average {host['load_average']:.2f} before it began; Valkey {about['valkey']}."
    )


def comeback(results: Results) -> str:
    found = measured_by("comeback")
    columns = [
        (f"{server}, {name}", figures)
        for server, kinds in found["figures"].items()
        for name, figures in kinds.items()
    ]
    rows = [[words, *(number(figures[name]) for _, figures in columns)] for name, words in COMEBACK]
    table = markdown(["", *(heading for heading, _ in columns)], rows)
    return f"{table}\n\n{found['about']['clients']} clients. {_measured_on(found['about'])}"


def profiles(results: Results) -> str:
    try:
        one = costs("uvicorn", results)
    except LookupError:
        return NOT_YET
    found = [(name, _simulated(profile(name), one)) for name in PROFILES]
    words = [word for word, _ in found[0][1]]
    rows = [
        [word, *(figures[place][1] for _, figures in found)] for place, word in enumerate(words)
    ]
    return markdown(["", *(name for name, _ in found)], rows)


def _simulated(site: Site, one: Costs) -> list[tuple[str, str]]:
    plan = sizing.plan(site, one, PROCESSES)
    present = replace(plan, site=replace(site, presence=True))
    return [
        *sizing.lines(plan),
        *sizing.presence_lines(present),
        *fleet.lines(fleet.simulate(plan, 1)),
    ]


def ends(results: Results) -> str:
    try:
        one = costs("uvicorn", results)
    except LookupError:
        return NOT_YET
    rows = []
    for rate in RATES:
        plan = sizing.plan(replace(profile("chat"), rate=float(rate)), one)
        rows.append(
            [
                number(rate),
                str(plan.processes),
                number(plan.spread),
                number(plan.redis_busy * 100),
                number(plan.out_mib),
                str(plan.hosts),
                str(plan.nodes or "not possible"),
            ]
        )
    return markdown(HEADINGS, rows)


HEADINGS = [
    "messages / s",
    "processes",
    "in which a group is",
    "one Redis: busy, %",
    "MiB / s out",
    "hosts",
    "or nodes of a cluster",
]
#: Field of the costs, what it is, its unit, and the scenario that measured it.
UNITS = [
    ("publish_us", "to publish a message", "us of CPU", "`groups-1000`, less the next two"),
    ("receive_us", "to receive it, in each process with members", "us", "`users-5000-gc`"),
    ("deliver_us", "to deliver it to one client", "us", "`curve-members`, 10 000"),
    ("connect_us", "a handshake with session and user", "us", "`connect`"),
    ("process_kib", "a process", "KiB", "`curve-processes`, 1 and 200 clients"),
    ("connection_kib", "a connection", "KiB", "`curve-connections`, 9 000"),
    ("group_kib", "a group, in each process with members", "KiB", "`curve-groups`, 10 000"),
    ("history_cpu", "a message with history", "times as much", "`history-50`"),
    ("history_redis_cpu", "the same, in Redis", "times as much", "`history-50`"),
]
RELAY = [
    ("publish_us", "a PUBLISH"),
    ("deliver_us", "each process that hears it, while a hundred publish"),
    ("deliver_alone_us", "the same, where one publishes at a time"),
    ("deliver_us_per_kib", "each KiB more, to each process"),
    ("cluster_publish_us", "a PUBLISH in a cluster, at the node that got it"),
    ("cluster_hear_us", "the same, at each other node"),
]
#: Of ``members.json``.
MEMBERS = [
    ("subscribe_us", "a SUBSCRIBE: a group's first member in a process"),
    ("unsubscribe_us", "an UNSUBSCRIBE: its last one has left"),
    ("present_join_us", "presence: to enter a group"),
    ("present_leave_us", "presence: to leave it"),
    ("present_renew_us", "presence: to renew a group, each 20 s, in one process"),
    ("present_renew_shared_us", "the same, in each of 40 processes that share it"),
    ("present_crowd_us", "presence: each of 500 who enter one group together"),
]
MEMORY = [
    ("channel_bytes", "a group, with its first process"),
    ("subscription_bytes", "each further process of it"),
    ("present_alone_bytes", "presence: a group with one connection"),
    ("present_crowd_bytes", "presence: each further connection"),
]
#: Of ``comeback.json``.
COMEBACK = [
    ("back_s", "until all are back, s"),
    ("handshake_p99_s", "a handshake, 99 % within, s"),
    ("tries", "tries, of each client"),
    ("process_us", "the process: us of CPU for each client"),
    ("redis_us", "Redis: us of CPU for each client"),
    ("subscribe", "SUBSCRIBE, for each client"),
    ("unsubscribe", "UNSUBSCRIBE"),
    ("evalsha", "EVALSHA (presence)"),
]
#: Name of a block in the documentation -> what writes it.
BLOCKS = {
    "unit_costs": unit_costs,
    "relay": relay,
    "members": members,
    "profiles": profiles,
    "comeback": comeback,
    "ends": ends,
}
