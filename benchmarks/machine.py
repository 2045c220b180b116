"""The machine and its processes: cores, CPU time, memory, versions."""

import datetime
import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any

#: The packages of the benchmarks' environment that influence the figures.
DISTRIBUTIONS = (
    "django",
    "channels",
    "channels-redis",
    "daphne",
    "twisted",
    "autobahn",
    "asgiref",
    "uvicorn",
    "uvloop",
    "websockets",
    "python-socketio",
    "redis",
    "hiredis",
    "msgpack",
)


_allowed = sorted(os.sched_getaffinity(0))
#: Every server runs here, one at a time; the load and Redis there.
SERVER_CORE, LOAD_CORE = _allowed[0], _allowed[-1]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads, to the nanosecond, also of ended ones."""
    # clock_getcpuclockid(3), which Python has not: the inverted pid, and 2 for the scheduler.
    return time.clock_gettime((~pid << 3) | 2)


def core_seconds(core: int) -> float:
    """How long a core was busy since the machine started, with any process."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, fields)
            ticks = user + nice + system + irq + softirq + steal
            return ticks / os.sysconf("SC_CLK_TCK")
    raise LookupError(f"/proc/stat has no core {core}")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def raise_file_limit() -> int:
    """Allow as many file descriptors as this user may have. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "server_core": SERVER_CORE,
        "load_core": LOAD_CORE,
        "load_average": os.getloadavg()[0],
    }


def python_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
