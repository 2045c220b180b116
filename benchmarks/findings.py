"""Conclusions from the figures: what costs how much, who is faster, whether the load kept up."""

from statistics import median

from .contenders import BY_NAME
from .results import Results
from .tables import MISSING, Column, markdown, number, table

#: If a server's core is idle for less than this, the server is the bottleneck, percent.
IDLE = 5
LOAD = (
    Column("deliveries / s", "fanout-200", "rate", less_is_better=False),
    Column("server's core: this server, %", "fanout-200", "server_busy"),
    Column("anything else, %", "fanout-200", "others_busy"),
    Column("load's core: the load, %", "fanout-200", "load_busy"),
    Column("us of Valkey / delivery", "fanout-200", "valkey_us"),
)
#: What is compared to say who is faster.
CONTESTS = (
    ("CPU per message, 1 client to itself", Column("us", "self-1", "cpu_us")),
    ("CPU per delivery, 200 clients", Column("us", "fanout-200", "cpu_us")),
    ("CPU per delivery, 200 clients, one at a time", Column("us", "fanout-200", "single_us")),
    ("CPU per delivery, 3 000 clients", Column("us", "fanout-3000", "cpu_us")),
    ("CPU per delivery, 1 000 groups of 3", Column("us", "groups-1000", "cpu_us")),
    ("CPU per delivery, 5 000 groups of 1", Column("us", "users-5000", "first_us")),
    ("CPU per echo", Column("us", "echo", "cpu_us")),
    ("median fan-out time, 200 clients", Column("ms", "fanout-200", "fanout_p50_ms")),
    ("median fan-out time, 3 000 clients", Column("ms", "fanout-3000", "fanout_p50_ms")),
    ("99th percentile of latency, 200 clients", Column("ms", "fanout-200", "latency_p99_ms")),
    ("CPU per anonymous handshake", Column("us", "anonymous", "connect_cpu_us")),
    ("connections per second", Column("/s", "connect", "connect_rate", less_is_better=False)),
    ("memory per idle connection", Column("KiB", "idle-10000", "memory_kb")),
    ("Redis commands per broadcast, 400 clients", Column("", "redis-400", "redis_commands")),
)


def costs(results: Results) -> str:
    """How much each part adds: differences of medians."""

    def figure(scenario: str, name: str, metric: str) -> float | None:
        spread = results.spread(scenario, name, metric)
        return None if spread is None else spread.median

    def less(scenario: str, metric: str, of: str, than: str) -> float | None:
        a, b = figure(scenario, of, metric), figure(scenario, than, metric)
        return None if a is None or b is None else a - b

    delivery, connection = "us of CPU / delivery", "us of CPU / connection"
    message, memory = "us of CPU / message", "KiB / connection"
    fan, cpu = "fanout-200", "connect_cpu_us"
    kept = ("idle-10000", "memory_kb")
    rows = [
        ("a frame to a socket, 200 clients: the limit", figure(fan, "limit", "cpu_us"), delivery),
        (
            "uvicorn, hub and filters on top of it",
            less(fan, "cpu_us", "ours-uvicorn", "limit"),
            delivery,
        ),
        (
            "daphne instead of uvicorn",
            less(fan, "cpu_us", "ours-daphne", "ours-uvicorn"),
            delivery,
        ),
        (
            "Redis, daphne, 200 clients",
            less(fan, "cpu_us", "ours-daphne-redis", "ours-daphne"),
            delivery,
        ),
        (
            "Redis, daphne, 1 client to itself",
            less("self-1", "cpu_us", "ours-daphne-redis", "ours-daphne"),
            message,
        ),
        (
            "an echo through a filter, on top of bare ASGI, daphne",
            less("echo", "cpu_us", "ours-daphne", "bare-daphne"),
            message,
        ),
        ("an empty chain", figure("echo", "ours-daphne", "empty_chain_us"), message),
        ("ten no-op `def` filters", figure("echo", "ours-daphne", "ten_def_us"), message),
        ("ten no-op `async def` filters", figure("echo", "ours-daphne", "ten_async_us"), message),
        ("a handshake, daphne alone", figure("connect", "bare-daphne", cpu), connection),
        (
            "its session and user from the database",
            less("connect", cpu, "bare-middleware", "bare-daphne"),
            connection,
        ),
        (
            "routes, hub and groups, through Redis",
            less("connect", cpu, "ours-daphne-redis", "bare-middleware"),
            connection,
        ),
        ("an idle connection, daphne alone", figure(kept[0], "bare-daphne", kept[1]), memory),
        ("its session and user", less(*kept, "bare-middleware", "bare-daphne"), memory),
        ("routes, hub and groups", less(*kept, "ours-daphne", "bare-middleware"), memory),
    ]
    return markdown(
        ["", "costs", ""],
        [[what, MISSING if n is None else number(n), unit] for what, n, unit in rows],
    )


def faster(results: Results) -> str:
    """Every figure in which a peer is better, and by how much."""
    lines = []
    for words, column in CONTESTS:
        spreads = dict(results.measured(column.scenario, column.metric))
        sign = 1 if column.less_is_better else -1
        mine = [name for name in spreads if BY_NAME[name].ours]
        if not mine:
            continue
        best = min(mine, key=lambda name: sign * spreads[name].median)
        ahead = [
            name
            for name in spreads
            if not BY_NAME[name].yardstick
            and not BY_NAME[name].ours
            and sign * spreads[name].median < sign * spreads[best].median
        ]
        if ahead:
            ahead.sort(key=lambda name: sign * spreads[name].median)
            listed = ", ".join(
                f"{BY_NAME[name].title} {number(spreads[name].median)}" for name in ahead
            )
            unit = f" {column.heading}" if column.heading else ""
            lines.append(
                f"- {words}: {listed}; ours at best {number(spreads[best].median)}{unit}"
                f" ({BY_NAME[best].title.removeprefix('ours, ')})"
            )
    return "\n".join(lines) if lines else "None in this run."


def proof(results: Results) -> str:
    """Whether the load could have slowed a server down."""
    rates = {name: s.median for name, s in results.measured("fanout-200", "rate")}
    if "limit" not in rates:
        return "The limit was not measured in this run, so the load may have been too slow."
    waited = {}
    for name in rates:
        own = results.rounds("fanout-200", name, "server_busy")
        others = results.rounds("fanout-200", name, "others_busy")
        waited[name] = max(0.0, 100 - median(own[n] + others[n] for n in own))
    most = max(waited, key=lambda name: waited[name])
    verdict = (
        "the load slowed no server down"
        if waited[most] <= IDLE
        else f"the load may have slowed down those whose core was idle for more than {IDLE} %"
    )
    words = f"The load received {number(rates['limit'])} deliveries per second from the limit"
    products = [name for name in rates if not BY_NAME[name].yardstick]
    if products:
        best = max(products, key=lambda name: rates[name])
        words += f", {rates['limit'] / rates[best]:.2f} times those of {BY_NAME[best].title}"
    return (
        f"{words}.\n"
        f"While 200 clients were served, the servers' core was idle for at most"
        f" {waited[most]:.1f} % of the time ({BY_NAME[most].title}): {verdict}.\n\n"
        + table(results, LOAD)
    )


def absences(results: Results) -> str:
    """Which contenders have no figures, in which scenario, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for scenario, contenders in results.absent.items():
        for name, reason in contenders.items():
            reasons.setdefault((name, reason), []).append(scenario)
    listed = [
        f"- {BY_NAME[name].title}: {reason} ({', '.join(scenarios)})"
        for (name, reason), scenarios in reasons.items()
    ]
    return "\n".join(listed) if listed else "No contender was left out."
