"""``manage.py publish GROUP``: each line of standard input is a message to a group."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from django.core.management.base import CommandError, CommandParser

from ...codecs.frames import Encoded
from ...conf import conf
from ...exceptions import PublishError
from ...layer.envelope import check_group
from ...logs import printable
from ...publish import publish
from ...threads.tasks import pause
from ..shell import ShellCommand, check_layer

#: Progress is told after so many seconds, and again after each of these.
PROGRESS = 1.0


class Command(ShellCommand):
    help = "Publishes each line of standard input to a group, as soon as it comes."
    name = "publish"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("group", metavar="GROUP")
        parser.add_argument("--json", action="store_true", help="each line is JSON")

    def run(self, *, group: str, **options: Any) -> None:
        try:
            check_group(group)
        except ValueError as error:
            raise CommandError(str(error)) from None
        check_layer()
        if sys.stdin is None:
            raise CommandError("standard input must be open")
        publishing = Publishing(self, group, options["json"])
        try:
            publishing.run(sys.stdin.buffer)
        finally:
            publishing.progress.end()
        if publishing.failed:
            raise CommandError(f"{publishing.failed} lines were not published")


class Publishing:
    """One run of the command."""

    def __init__(self, command: ShellCommand, group: str, is_json: bool) -> None:
        self._command = command
        self._group = group
        self._is_json = is_json
        #: Lines that are no message.
        self.failed = 0
        self.progress = Progress(command)
        self._has_published = False

    def run(self, lines: BinaryIO) -> None:
        for number, line in enumerate(lines_of(lines, conf.MAX_MESSAGE_SIZE), 1):
            try:
                message = self._message(line)
            except ValueError as error:
                self.failed += 1
                self.progress.end()
                self._command.note(f"line {number}: {error}")
                continue
            self._publish(number, message)
            self.progress.count(len(line or b""))

    def _message(self, line: bytes | None) -> Encoded:
        if line is None:
            raise ValueError(f"longer than MAX_MESSAGE_SIZE, {conf.MAX_MESSAGE_SIZE} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: {printable(line[error.start : error.end])}") from None
        if not self._is_json:
            return Encoded("t", line)
        try:
            json.loads(text, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("not JSON: nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        return Encoded("j", line)

    def _publish(self, number: int, message: Encoded) -> None:
        """Publish a line; through an outage that begins later again, until Redis has it."""
        failures = 0
        while True:
            try:
                publish(message, self._group)
            except PublishError as error:
                if not self._has_published:
                    raise CommandError(str(error)) from None
                if not failures:
                    self.progress.end()
                    self._command.note(f"line {number} waits: {error}")
                failures += 1
                time.sleep(pause(failures))
            else:
                if failures:
                    self._command.note(f"going on with line {number}")
                self._has_published = True
                return


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not of JSON")


def lines_of(stream: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """
    The lines of ``stream`` without their ends, each as soon as it is there; None for one of more
    than ``limit`` bytes, which is read to its end.
    """
    most = limit + len(b"\r\n")
    while line := stream.readline(most):
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        yield text if len(text) <= limit else None
        while len(line) == most and not line.endswith(b"\n"):
            line = stream.readline(most)


class Progress:
    """How far it is, on a terminal, if it takes long."""

    def __init__(self, command: ShellCommand) -> None:
        self._stream = command.stderr
        self._began = self._told = time.monotonic()
        self._lines = self._bytes = 0
        self._is_shown = False

    def count(self, size: int) -> None:
        self._lines += 1
        self._bytes += size
        now = time.monotonic()
        if now - self._told >= PROGRESS:
            self._told = now
            if self._stream.isatty():
                rate = self._lines / (now - self._began)
                told = f"{self._lines} lines, {self._bytes / 1_048_576:.1f} MiB, {rate:.0f} lines/s"
                self._stream.write(f"\r\x1b[Kpublish: {told}", str, ending="")
                self._stream.flush()
                self._is_shown = True

    def end(self) -> None:
        """Whatever is told next begins a line."""
        if self._is_shown:
            self._stream.write("", str, ending="\n")
            self._is_shown = False
