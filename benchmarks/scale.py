"""The tables of docs/scale.md: costs, sites of a million connections, where one Redis ends."""

from dataclasses import replace

from . import fleet, sizing
from .costs import Costs, costs, relayed
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
    found = relayed()
    one, about = found["figures"], found["about"]
    host = about["machine"]
    rows = [[words, number(one[name])] for name, words in REDIS]
    table = markdown(["", "us of CPU of Redis"], rows)
    return (
        f"{table}\n\n{about['date']}; {host['cpu']}, {host['cores']} cores, {host['kernel']};"
        f" load average {host['load_average']:.2f} before it began; Valkey {about['valkey']}."
    )


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
    return [*sizing.lines(plan), *fleet.lines(fleet.simulate(plan, 1))]


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
REDIS = [
    ("publish_us", "a PUBLISH"),
    ("deliver_us", "each process that hears it, while a hundred publish"),
    ("deliver_alone_us", "the same, where one publishes at a time"),
    ("deliver_us_per_kib", "each KiB more, to each process"),
    ("cluster_publish_us", "a PUBLISH in a cluster, at the node that got it"),
    ("cluster_hear_us", "the same, at each other node"),
]
#: Name of a block in the documentation -> what writes it.
BLOCKS = {"unit_costs": unit_costs, "relay": relay, "profiles": profiles, "ends": ends}
