"""``manage.py listen GROUP``: what is published to a group, a message a line."""

import asyncio
import json
import time
from base64 import b64encode
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...api.listener import Listener
from ...codecs.frames import dump_json
from ...conf import describe
from ...layer.envelope import Batch, Item, Sequence, check_group, group_key
from ...logs import printable
from ..shell import LineWriter, ShellCommand, check_layer, told_when_closed


class Command(ShellCommand):
    help = "Prints what is published to groups, in all processes: a message a line, until Ctrl-C."
    name = "listen"
    _is_listening = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("groups", nargs="+", metavar="GROUP")
        parser.add_argument(
            "--json", action="store_true", help="print objects, with group, sender and time"
        )

    def run(self, *, groups: list[str], **options: Any) -> None:
        try:
            keys = {group_key(check_group(group)): group for group in groups}
        except ValueError as error:
            raise CommandError(str(error)) from None
        check_layer()
        asyncio.run(self._listen(keys, options["json"]))

    async def _listen(self, keys: dict[str, str], as_json: bool) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        writer = LineWriter(self.stdout, lambda: loop.call_soon_threadsafe(stop.set))
        received = {key: Received() for key in keys}

        def on_batch(batch: Batch) -> None:
            group = keys.get(batch.key)
            missed = None if group is None else received[batch.key].note(batch)
            if group is None or missed is None:
                return
            if missed:
                self.note(f"{missed} messages of {group!r} were missed")
            for number, item in enumerate(batch.items):
                writer.put(as_object(group, batch, number) if as_json else as_line(item))

        try:
            async with Listener(on_batch, self._lost, self._back) as listener:
                with told_when_closed(self.stdout, stop.set):
                    if not all([await listener.join(key) for key in keys]):
                        raise CommandError(listener.problem)
                    self._is_listening = True
                    self.note(f"listening to {', '.join(map(repr, keys.values()))}")
                    await stop.wait()
        finally:
            writer.close()
            if writer.dropped:
                self.note(f"{writer.dropped} messages were dropped: they were not read")
        raise writer.stop_reason()

    def _lost(self, error: BaseException) -> None:
        if self._is_listening:
            self.note(
                f"lost the channel layer (Redis): {describe(error)}; what is published until it is"
                " back may be missed"
            )

    def _back(self, seconds: float) -> None:
        self.note(f"the channel layer (Redis) is back after {seconds:.1f} s")


class Received:
    """What has come of one group."""

    def __init__(self) -> None:
        self._sequence = Sequence()
        self._epoch, self._last = "", 0

    def note(self, batch: Batch) -> int | None:
        """How many messages are missing before this batch; None for one that has come already."""
        if not batch.epoch:
            return self._sequence.record(batch)
        missed = batch.first - self._last - 1 if batch.epoch == self._epoch else 0
        if missed < 0:
            return None
        self._epoch, self._last = batch.epoch, batch.first + len(batch.items) - 1
        return missed


def as_line(item: Item) -> str:
    """A message as it is, on one line: JSON stays JSON."""
    if item.kind == "b":
        return printable(item.payload)
    text = item.payload.decode()
    if text.isprintable():
        return text
    try:
        text = dump_json(json.loads(text))
    except (ValueError, RecursionError):
        return printable(text)
    # What would control a terminal can only stand in strings.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def as_object(group: str, batch: Batch, number: int) -> str:
    """A message with what is known about it."""
    item = batch.items[number]
    about: dict[str, Any] = {"group": group, "sender": item.sender or None, "at": time.time()}
    if batch.epoch:
        about |= {"offset": batch.first + number, "epoch": batch.epoch}
    if item.kind == "b":
        # JSON has no bytes.
        about["b64data"] = b64encode(item.payload).decode()
    else:
        text = item.payload.decode()
        about["data"] = json.loads(text) if item.kind == "j" else text
    return json.dumps(about)
