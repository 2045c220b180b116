"""
``python -m benchmarks.comeback``: all clients of a process lose their connection at the same
moment, as behind a proxy that is restarted, and come back by the rule of reconnect.js.

Each has a user and a group of its own. Counted are the time until all are back, what the process
and Redis compute meanwhile, and the commands that Redis gets, for each client.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import machine
from .bench import Bench, Figures, make_sessions
from .contenders import BY_NAME, Contender
from .processes import Valkey
from .stats import percentile
from .storm import Storm

RESULTS = Path(__file__).resolve().parent / "results" / "comeback.json"
SERVERS = ("daphne", "uvicorn")
#: Route -> what its groups have.
ROUTES = {"self": "no presence", "there": "presence"}
CLIENTS, USERS = 5000, 500
COMMANDS = ("subscribe", "unsubscribe", "evalsha", "publish")


def measure(bench: Bench, contender: Contender, route: str, clients: int) -> Figures:
    bench.valkey.flush()
    with bench.start(contender) as server:
        requests = [
            contender.wire.request(
                contender.wire.target(route, f"g{number}"),
                server.port,
                bench.cookies[number % len(bench.cookies)],
            )
            for number in range(clients)
        ]
        with Storm(server.port, requests, clients) as storm:
            storm.arrive()
            settle(storm, bench.valkey)
            storm.handshakes.clear()
            before = bench.valkey.commands()
            cpu, redis = machine.cpu_seconds(server.pid), machine.cpu_seconds(bench.valkey.pid)
            began = time.monotonic()
            storm.cut()
            storm.step_until(lambda: storm.open == clients, 300)
            back = time.monotonic() - began
            settle(storm, bench.valkey)
            cpu = machine.cpu_seconds(server.pid) - cpu
            redis = machine.cpu_seconds(bench.valkey.pid) - redis
            after = bench.valkey.commands()
            ends = storm.ends
    asked = {name: after.get(name, 0) - before.get(name, 0) for name in COMMANDS}
    return {
        "back_s": back,
        "handshake_p99_s": percentile(storm.handshakes, 99),
        "tries": sum(ends.values()) / clients,
        "process_us": cpu / clients * 1e6,
        "redis_us": redis / clients * 1e6,
        **{name: calls / clients for name, calls in asked.items()},
    }


def settle(storm: Storm, valkey: Valkey) -> None:
    """Until Redis has got nothing more for half a second: presence follows the handshakes."""
    before: dict[str, int] = {}
    while (now := valkey.commands()) != before:
        before = now
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            storm.step(0.1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comeback", description="All clients come back at once."
    )
    parser.add_argument("--clients", type=int, default=CLIENTS, help="of the process (5 000)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="a file of JSON")
    options = parser.parse_args(arguments)
    about = {"date": machine.now(), "machine": machine.describe(), "clients": options.clients}
    machine.raise_file_limit()
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    figures: dict[str, dict[str, Figures]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Valkey(machine.LOAD_CORE) as valkey,
    ):
        about["valkey"] = valkey.version()
        database = os.path.join(folder, "db.sqlite3")
        bench = Bench(valkey, make_sessions(database, min(USERS, options.clients)), database)
        for server in SERVERS:
            contender = BY_NAME[f"ours-{server}-redis"]
            for route, name in ROUTES.items():
                found = measure(bench, contender, route, options.clients)
                rounded = {key: round(value, 3) for key, value in found.items()}
                figures.setdefault(server, {})[name] = rounded
                print(f"{server}, {name}: {json.dumps(rounded)}", flush=True)
    options.output.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
