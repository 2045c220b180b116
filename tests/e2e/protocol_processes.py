"""Processes of the site of protocol_settings, on one Redis."""

import contextlib
import signal
import socket

from .processes import Daphne, Uvicorn, Valkey, free_port

SETTINGS = "tests.e2e.protocol_settings"
APPLICATION = "tests.e2e.protocol_site:application"


class ProtocolSite:
    """So many processes; tests kill the first one, and Redis."""

    def __init__(self, database, count):
        self._valkey = Valkey()
        self._env = {**database, "DJANGO_SETTINGS_MODULE": SETTINGS, "REDIS_URL": self._valkey.url}
        self.servers = [self._start() for _ in range(count)]

    def _start(self, port=0):
        return Daphne(APPLICATION, env=self._env, port=port)

    @property
    def first(self):
        return self.servers[0]

    @property
    def second(self):
        return self.servers[1]

    @contextlib.contextmanager
    def reached(self, server):
        """``with``: who connects to this process, connects to no other one."""
        yield server

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


class SharedPort(ProtocolSite):
    """The same on uvicorn, behind one port: all processes accept from one socket."""

    def __init__(self, database, count):
        self._listening = socket.create_server(("127.0.0.1", free_port()))
        # As NoDelay= of systemd: uvicorn does not do so itself with a socket that it is given.
        self._listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(database, count)

    def _start(self, port=0):
        return Uvicorn(APPLICATION, env=self._env, listening=self._listening)

    @contextlib.contextmanager
    def reached(self, server):
        """As of the base: the others stand still meanwhile."""
        others = [one for one in self.servers if one is not server]
        for other in others:
            other.signal(signal.SIGSTOP)
        try:
            yield server
        finally:
            for other in others:
                other.signal(signal.SIGCONT)

    def stop(self):
        super().stop()
        self._listening.close()
