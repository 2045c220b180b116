"""``manage.py tee ROUTE/FILTER``: what passes through a pipe, live, in all processes."""

import asyncio
import datetime
import json
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from ...checks.application import load_application
from ...console.tee import (
    MOST_MESSAGES,
    MOST_SECONDS,
    Subject,
    Tee,
    on_connection,
    on_group,
    on_place,
)
from ...layer.envelope import check_group
from ...logs import printable
from ...pipelines.places import find_place
from ...threads.tasks import end_tasks
from ..shell import LineWriter, ShellCommand, check_layer, told_when_closed, took

#: How long processes have to answer before it is told that none has, seconds.
ANSWER = 2.0
#: So much is shown of an id.
ID = 8


class Command(ShellCommand):
    help = (
        "Shows what passes through a filter, a chain or a whole route in all processes, through a"
        " connection, or to a group: a line each, until Ctrl-C, at most 10 minutes."
    )
    name = "tee"

    def add_arguments(self, parser: CommandParser) -> None:
        on = parser.add_mutually_exclusive_group(required=True)
        on.add_argument(
            "place", nargs="?", metavar="PLACE", help="ROUTE/FILTER, ROUTE/CHAIN or ROUTE"
        )
        on.add_argument("--connection", metavar="ID", help="frames and chains of a connection")
        on.add_argument("--group", metavar="GROUP", help="what is published to a group")
        parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="its time (600)")
        parser.add_argument(
            "--messages", type=int, default=MOST_MESSAGES, help="the most of them (10000)"
        )
        parser.add_argument("--size", type=int, default=200, help="characters of a payload (200)")
        parser.add_argument("--no-payloads", action="store_true", help="show only their sizes")
        parser.add_argument("--json", action="store_true", help="print whole records")

    def run(self, **options: Any) -> None:
        subject, words = self._subject(**options)
        check_layer()
        asyncio.run(self._show(subject, words, **options))

    def _subject(
        self, *, place: str | None, connection: str | None, group: str | None, **options: Any
    ) -> tuple[Subject, str]:
        """What it is on, and how that is called."""
        try:
            if connection is not None:
                return on_connection(connection), f"connection {connection}"
            if group is not None:
                return on_group(check_group(group)), f"group {group!r}"
            load_application()
            found = find_place(place or "/")
        except (ImproperlyConfigured, ValueError) as error:
            raise CommandError(str(error)) from None
        return on_place(*found), str(found)

    async def _show(self, subject: Subject, words: str, **options: Any) -> None:
        try:
            tee = Tee(
                subject,
                seconds=options["seconds"],
                messages=options["messages"],
                size=options["size"],
                payloads=not options["no_payloads"],
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        loop = asyncio.get_running_loop()
        writer = LineWriter(self.stdout, lambda: loop.call_soon_threadsafe(close))
        closed = False

        def close() -> None:
            nonlocal closed
            closed = True
            tee.close()

        try:
            async with tee:
                with told_when_closed(self.stdout, close):
                    self.note(f"on {words}")
                    looking = loop.create_task(self._look_for_answers(tee, subject))
                    async for record in tee:
                        self._show_record(record, writer, options["json"])
                    await end_tasks([looking])
        except TimeoutError as error:
            raise CommandError(str(error)) from None
        finally:
            writer.close()
            if dropped := tee.dropped + writer.dropped:
                self.note(f"{dropped} records were dropped: they came too fast")
        if closed:
            raise writer.stop_reason()
        _check_found(tee, subject)

    def _show_record(self, record: dict[str, Any], writer: LineWriter, as_json: bool) -> None:
        if not self._noted(record):
            for line in [json.dumps(record)] if as_json else lines_of(record):
                writer.put(line)

    async def _look_for_answers(self, tee: Tee, subject: Subject) -> None:
        """Tell where nobody answers, and end a tee on a connection that no process has."""
        await asyncio.sleep(ANSWER)
        if not tee.processes:
            self.note(
                "no process has answered: nobody is connected, or they run an earlier version"
            )
        while subject.kind == "connection" and not tee.found:
            if tee.processes:
                tee.close()
            await asyncio.sleep(ANSWER)

    def _noted(self, record: dict[str, Any]) -> bool:
        """Whether it is about the tee itself: that is told on standard error."""
        kind = record["is"]
        if kind == "begin":
            found = "" if record["found"] else ", which has none of it now"
            self.note(f"watching in {record['process']}{found}")
        elif kind == "end":
            self.note(f"ended in {record['process']}: {record['why']}")
        elif kind == "outage":
            self.note("lost Redis" if record["lost"] else "Redis is back")
        return kind not in ("chain", "publish", "frame")


def _check_found(tee: Tee, subject: Subject) -> None:
    if subject.kind == "connection" and tee.processes and not tee.found:
        raise CommandError(
            f"no process has a connection {subject.name!r:.80} ({len(tee.processes)} answered):"
            " write a whole id, as --json and the log have it, of one that is open"
        )


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """A record as text: a line for each filter."""
    at = datetime.datetime.fromtimestamp(record["at"]).strftime("%H:%M:%S.%f")[:-3]
    who = record.get("connection") or record.get("sender") or "-"
    start = f"{at}  {record['id'][:ID]:{ID}}  {who[:ID]:{ID}}"
    if record["is"] == "frame":
        yield f"{start}  {record['way']:10}  {text_of(record['in'])}"
    elif record["is"] == "publish":
        yield f"{start}  {'publish':10}  {text_of(record['in'])} to {record['group']!r}"
    else:
        for stage in record["stages"]:
            passed = passage(stage["in"], stage["out"], stage["end"])
            what = f"{stage['filter']}: {passed}  {took(stage['seconds'])}"
            yield f"{start}  {record['chain']:10}  {what}"
        if "members" in record:
            to = f"of {record['group']!r} to {record['members']} in {record['process']}"
            yield f"{start}  {'group':10}  {text_of(record['out'])} {to}"


def passage(before: dict[str, Any], after: dict[str, Any] | None, end: Any) -> str:
    """What went in, and what came out."""
    shown = text_of(before)
    if after == before:
        return shown
    return f"{shown} -> {outcome(end) if after is None else text_of(after)}"


def outcome(end: dict[str, Any]) -> str:
    """How an event ended."""
    words = [end["how"], str(end.get("code", "")), end.get("class", ""), end["why"]]
    return " ".join(word for word in words if word)


def text_of(shown: dict[str, Any] | None) -> str:
    """A payload on one line."""
    if shown is None:
        return "nothing"
    if "text" not in shown:
        size = "" if shown["size"] is None else f" {shown['size']} bytes"
        return f"<{shown['kind']}{size}>" if shown["kind"] != "none" else "-"
    text = printable(shown["text"]) + ("…" if shown.get("cut") else "")
    return f'"{text}"' if shown["kind"] == "text" else text
