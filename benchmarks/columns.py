"""Which figures the tables have, and the plots."""

from .tables import Column

COLUMNS = (
    Column("us / delivery", "fanout-200", "cpu_us"),
    Column("one at a time: us / delivery", "fanout-200", "single_us"),
    Column("deliveries / s", "fanout-200", "rate", less_is_better=False),
    Column("fan-out p50, ms", "fanout-200", "fanout_p50_ms"),
    Column("p99", "fanout-200", "fanout_p99_ms"),
    Column("latency p50, ms", "fanout-200", "latency_p50_ms"),
    Column("p99", "fanout-200", "latency_p99_ms"),
    Column("connections / s", "connect", "connect_rate", less_is_better=False),
    Column("KiB / connection", "idle-10000", "memory_kb"),
    Column("Redis commands / broadcast", "redis-400", "redis_commands"),
)
SIZES = (
    Column("1 client, to itself", "self-1", "cpu_us"),
    Column("200 in one group", "fanout-200", "cpu_us"),
    Column("3 000 in one group", "fanout-3000", "cpu_us"),
    Column("1 000 groups of 3", "groups-1000", "cpu_us"),
    Column("echo", "echo", "cpu_us"),
    Column("3 000: fan-out p50, ms", "fanout-3000", "fanout_p50_ms"),
    Column("p99", "fanout-3000", "fanout_p99_ms"),
    Column("Redis commands, 4 000 clients", "redis-4000", "redis_commands"),
)
CONNECTING = (
    Column("anonymous, us of CPU", "anonymous", "connect_cpu_us"),
    Column("anonymous / s", "anonymous", "connect_rate", less_is_better=False),
    Column("session and user, us of CPU", "connect", "connect_cpu_us"),
    Column("session and user / s", "connect", "connect_rate", less_is_better=False),
)
USERS = (
    Column("first to each, us", "users-5000", "first_us"),
    Column("next to each, us", "users-5000", "next_us"),
    Column("all in one go, us", "users-5000", "all_us"),
    Column("Python's own GC: first", "users-5000-gc", "first_us"),
    Column("next", "users-5000-gc", "next_us"),
    Column("all", "users-5000-gc", "all_us"),
)
RECIPIENTS = (
    Column("the same for all, us / delivery", "recipients-200", "alike_us"),
    Column("a send filter that changes nothing", "recipients-200", "look_us"),
    Column("JSON of its own for each", "recipients-200", "each_us"),
)
HISTORY = (
    Column("without: us / message", "history-50", "plain_us"),
    Column("with", "history-50", "kept_us"),
    Column("ratio", "history-50", "kept_ratio"),
    Column("Redis without: us / message", "history-50", "plain_redis_us"),
    Column("with", "history-50", "kept_redis_us"),
    Column("ratio", "history-50", "redis_ratio"),
    Column("catching up: us / client", "recover-1000", "recover_us"),
    Column("script calls / client", "recover-1000", "script_calls"),
)
#: Of each scenario: a plain route, or what a peer has, and the protocol in both formats.
SPOKEN = tuple(
    Column(heading, scenario, metric)
    for scenario, words in (
        ("spoken-200", "200 in one group, us / delivery"),
        ("spoken-groups", "500 groups of 3"),
        ("spoken-history", "50 rooms of 4 with history"),
        ("spoken-recovery", "1 000 catch up, us / client"),
    )
    for heading, metric in ((words, "plain_us"), ("JSON", "json_us"), ("Protobuf", "protobuf_us"))
)
#: The same for the Pusher protocol.
SPOKEN_BY_PUSHER = tuple(
    Column(heading, scenario, metric)
    for scenario, words in (
        ("pusher-200", "200 in one group, us / delivery"),
        ("pusher-groups", "500 groups of 3"),
    )
    for heading, metric in (
        (words, "plain_us"),
        ("Pusher protocol", "pusher_us"),
        ("ratio", "pusher_ratio"),
    )
)
#: By WebSockets, HTTP streams and server-sent events.
STREAMS = tuple(
    Column(f"{words}{unit}", "streams-200", f"{way}_{metric}")
    for metric, unit in (("us", ", us / delivery"), ("kb", ", KiB / connection"))
    for way, words in (("socket", "WebSockets"), ("stream", "streams"), ("sse", "events"))
)
CROWDS = (
    Column("5 000 connect, s", "drain-5000", "arrived_s"),
    Column("5 000 are back, s", "drain-5000", "back_s"),
    Column("ratio", "drain-5000", "back_ratio"),
    Column("50 alone: p99, ms", "crowd-10000", "alone_p99_ms"),
    Column("beside 10 000", "crowd-10000", "idle_p99_ms"),
    Column("and a flood", "crowd-10000", "flood_p99_ms"),
    Column("ratio to alone", "crowd-10000", "flood_ratio"),
)

#: Every figure that has a plot, the most important first.
PLOTS = (
    ("A message to 200 clients: CPU per delivery", "us of the server", COLUMNS[0]),
    ("The same, one message at a time: CPU per delivery", "us of the server", COLUMNS[1]),
    ("A message to 200 clients: deliveries per second", "one core", COLUMNS[2]),
    ("A message to 200 clients: median fan-out time", "ms, 20 messages a second", COLUMNS[3]),
    ("A message to 200 clients: 99th percentile of fan-out", "ms, 20 a second", COLUMNS[4]),
    ("A message to 200 clients: median latency", "ms, 20 messages a second", COLUMNS[5]),
    ("A message to 200 clients: 99th percentile of latency", "ms, 20 a second", COLUMNS[6]),
    ("A message to 3 000 clients: CPU per delivery", "us of the server", SIZES[2]),
    ("A message to 3 000 clients: median fan-out time", "ms", SIZES[5]),
    ("A message to itself: CPU per message", "us of the server", SIZES[0]),
    ("An echo: CPU per message", "us of the server", SIZES[4]),
    ("1 000 groups of 3: CPU per delivery", "us of the server", SIZES[3]),
    ("5 000 groups of 1, from another process: CPU per delivery", "us, Redis", USERS[0]),
    ("An anonymous handshake: CPU", "us of the server", CONNECTING[0]),
    ("Connections", "per second, with a session where it has any", COLUMNS[7]),
    ("Memory", "KiB per idle connection, of 10 000", COLUMNS[8]),
    ("Redis commands", "per broadcast to 400 clients of 2 processes", COLUMNS[9]),
)
