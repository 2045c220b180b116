"""``manage.py fws_status``: what all processes do now, on one screen or as JSON."""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...api.control import describe_processes
from ...console.snapshot import merge_hubs, merge_pipelines
from ...hub.registry import process_name
from ...logs import printable
from ..shell import ShellCommand, check_layer, took

#: What matters most comes first: a terminal may be narrow.
HEADINGS = (
    *("PROCESS", "STATE", "CONNECTIONS", "USERS", "QUEUE", "UNSENT", "LAG", "ERRORS", "THREADS"),
    *("GROUPS", "UP", "VERSION"),
)
#: Words are aligned on the left, numbers on the right.
LEFT = {"PROCESS", "STATE", "VERSION"}
#: Clears a terminal.
CLEAR = "\x1b[H\x1b[J"
#: Shown where a process of an earlier version does not say it.
UNKNOWN = "-"
UNANSWERED = "the channel layer (Redis) does not answer"
#: How long processes have to answer, seconds: one whose event loop is late is to be seen, too.
ANSWER = 1.0


class Command(ShellCommand):
    help = "Shows the connections, queues and filters of all processes that have connections."
    name = "fws_status"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one object")
        parser.add_argument(
            *("--watch", "-w"),
            nargs="?",
            const=2.0,
            type=float,
            metavar="SECONDS",
            help="again and again, after so many seconds (2)",
        )

    def run(self, **options: Any) -> None:
        check_layer()
        seconds: float | None = options["watch"]
        if seconds is not None and not 0.1 <= seconds <= 3600:
            raise CommandError(f"--watch {seconds:g}: from 0.1 to 3600 seconds")
        while True:
            began = time.monotonic()
            nodes = describe_processes(inside=True, seconds=ANSWER)
            if nodes is None and seconds is None:
                raise CommandError(UNANSWERED)
            if nodes is None:
                self.note(UNANSWERED)
            else:
                nodes = merge_hubs(others(nodes))
                self._show(nodes, options["json"], is_watched=seconds is not None)
            self.stdout.flush()
            if seconds is None:
                return
            time.sleep(max(0.0, began + seconds - time.monotonic()))

    def _show(self, nodes: list[dict[str, Any]], as_json: bool, is_watched: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(summary(nodes)))
            return
        lines = list(screen(nodes))
        if not self.stdout.isatty():
            # Between two screens is an empty line.
            lines += [""] if is_watched else []
        elif is_watched:
            columns, rows = shutil.get_terminal_size()
            lines = [cut(line, columns) for line in fitting(lines, rows - 1)]
            self.stdout.write(CLEAR, ending="")
        self.stdout.write("".join(f"{line}\n" for line in lines), ending="")


def others(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without this process, which has to listen on some layers to be answered."""
    return [node for node in nodes if node["num_clients"] or node["name"] != process_name()]


def summary(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``--json`` prints."""
    nodes = sorted(nodes, key=name_of)
    return {
        "connections": sum(node["num_clients"] for node in nodes),
        "subscriptions": sum(node["num_subs"] for node in nodes),
        "at": round(time.time(), 3),
        "processes": nodes,
        "pipelines": merge_pipelines(nodes),
    }


def name_of(node: dict[str, Any]) -> str:
    return str(node["name"])


def screen(nodes: list[dict[str, Any]]) -> Iterable[str]:
    """The lines of one screen."""
    connections = sum(node["num_clients"] for node in nodes)
    yield f"{counted(len(nodes), 'process', 'es')}, {counted(connections, 'connection')}"
    if not nodes:
        return
    yield ""
    yield from table([HEADINGS, *(row(node) for node in sorted(nodes, key=name_of))])
    for pipeline in merge_pipelines(nodes):
        if pipeline["own"]:
            continue  # that of the console
        yield ""
        paths = ", ".join(pipeline["paths"]) or f"home group {pipeline['home']!r}"
        yield f"{printable(paths)}  {counted(pipeline['connections'], 'connection')}"
        for chain in pipeline["chains"]:
            stages = " | ".join(map(stage_words, chain["stages"]))
            yield f"  {chain['chain']:10} | {stages}"


def row(node: dict[str, Any]) -> tuple[str, ...]:
    """One process."""
    inside = node.get("inside")
    told = [UNKNOWN] * 6 if inside is None else how_it_does(inside)
    word, *numbers = told
    return (
        printable(node["name"]),
        word,
        str(node["num_clients"]),
        str(node["num_users"]),
        *numbers,
        str(node["num_channels"]),
        duration(node["uptime"]),
        printable(node["version"]),
    )


def how_it_does(inside: dict[str, Any]) -> list[str]:
    blocking = inside["blocking"]
    return [
        state(inside),
        str(inside["queue"]["messages"]),
        size(inside["unsent"]),
        took(inside["worst_lag"]),
        str(inside["errors"]),
        f"{blocking['busy']}/{blocking['of']}",
    ]


def state(inside: dict[str, Any]) -> str:
    if inside["draining"]:
        return "draining"
    return {"lost": "layer lost", "none": "no layer"}.get(inside["layer"], "ok")


def stage_words(stage: dict[str, Any]) -> str:
    """A filter, how often it ran, and how that ended."""
    words = [str(stage["runs"])]
    if stage["runs"]:
        words.append(took(stage["seconds"] / stage["runs"]))
    words += [f"{stage[name]} {name}" for name in ("drops", "closes", "errors") if stage.get(name)]
    return f"{printable(stage['name'])} ({', '.join(words)})"


def counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        aligned = (
            cell.ljust(width) if heading in LEFT else cell.rjust(width)
            for heading, cell, width in zip(HEADINGS, cells, widths, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def fitting(lines: list[str], rows: int) -> list[str]:
    """As many lines as a terminal has rows."""
    if len(lines) <= rows:
        return lines
    return [*lines[: max(rows - 1, 1)], f"... {len(lines) - max(rows - 1, 1)} more lines"]


def cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else line[: columns - 1] + "…"


def size(number: int) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024  # type: ignore[assignment]
    return f"{number:.1f} GiB"


def duration(seconds: int) -> str:
    """The two largest units."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
