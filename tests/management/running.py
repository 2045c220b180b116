"""Commands of a shell, run on a thread of the test, with pipes as a shell makes them."""

import asyncio
import io
import os
import threading

from django.core.management import CommandError, call_command

from ..waiting import LIMIT, wait_until


class Running:
    """``status`` is that of its end; ``said`` waits for a line on standard error."""

    def __init__(self, *command, stdin=None):
        reading, writing = os.pipe()
        self.out = open(reading, encoding="utf-8")  # noqa: SIM115 - closed by the end
        self._stdout = open(writing, "w", encoding="utf-8")  # noqa: SIM115
        self._stderr = io.StringIO()
        self.status = None
        self._thread = threading.Thread(target=self._run, args=command, daemon=True)
        self._thread.start()

    def _run(self, *command):
        try:
            call_command(*command, stdout=self._stdout, stderr=self._stderr)
            self.status = 0
        except CommandError as error:
            self._stderr.write(f"CommandError: {error}\n")
            self.status = 1
        except SystemExit as error:
            self.status = error.code
        finally:
            self._stdout.close()

    @property
    def errors(self):
        return self._stderr.getvalue()

    def said(self, words):
        assert wait_until(lambda: words in self.errors or self.status is not None), self.errors
        assert words in self.errors, f"never said {words!r}: {self.errors}"

    async def lines(self, count):
        async with asyncio.timeout(LIMIT):
            return [(await asyncio.to_thread(self.out.readline)).rstrip("\n") for _ in range(count)]

    def end(self):
        """Nobody reads it any more; what it has said."""
        self.out.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), self.errors
        return self.errors
