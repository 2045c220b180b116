"""Processes of the site of protocol_settings, on one Redis."""

import signal

from .processes import Daphne, Valkey

SETTINGS = "tests.e2e.protocol_settings"


class ProtocolSite:
    """So many processes; tests kill the first one, and Redis."""

    def __init__(self, database, count):
        self._valkey = Valkey()
        self._env = {**database, "DJANGO_SETTINGS_MODULE": SETTINGS, "REDIS_URL": self._valkey.url}
        self.servers = [self._start() for _ in range(count)]

    def _start(self, port=0):
        return Daphne("tests.e2e.protocol_site:application", env=self._env, port=port)

    @property
    def first(self):
        return self.servers[0]

    @property
    def second(self):
        return self.servers[1]

    def kill(self):
        """Kill the first process."""
        self.first.signal(signal.SIGKILL)
        self.first.wait()

    def revive(self):
        """Start it again, at the same address."""
        self.servers[0] = self._start(self.first.port)

    def empty_redis(self):
        """Kill Redis; a new one, at the same address, knows nothing."""
        self._valkey = self._valkey.restart()

    def stop(self):
        for process in (*self.servers, self._valkey):
            process.stop()
