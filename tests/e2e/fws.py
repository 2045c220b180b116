"""The stand-alone server, ``fws_server``, and clients of it."""

import contextlib
import sys

from .processes import ROOT, Process, free_port
from .sockets import connect

LEGACY = ROOT / "tests" / "e2e" / "legacy"
FILTERS = "filtered_websocket.filters."
REDIS = {"STORAGE_OBJECT_MODULE": "filtered_websocket.storage_objects.redis"}
OURS = [sys.executable, "-m", "filtered_websocket.server"]


class Fws(Process):
    """A server of either kind."""

    def __init__(self, command, *arguments, env=None, cwd=LEGACY, config=None):
        self.port = free_port()
        if config is not None:
            path, content = config
            path.write_text(content % self.port)
            where = ["-c", str(path)]
        else:
            where = ["-p", str(self.port)]
        inherited = {"DJANGO_SETTINGS_MODULE": "", "PYTHONPATH": ""}
        if command == OURS:
            inherited["PYTHONPATH"] = str(ROOT)
        super().__init__([*command, *where, *arguments], env=inherited | (env or {}), cwd=cwd)
        self.listens_on(self.port)

    def ws(self):
        return f"ws://127.0.0.1:{self.port}/"


@contextlib.asynccontextmanager
async def clients(count, server, ssl=None):
    """
    Clients that leave without a close frame: the old server takes one for a message, and
    never answers it.
    """
    url = server.ws() if ssl is None else server.ws().replace("ws://", "wss://")
    sockets = [await connect(url, ssl=ssl, close_timeout=0) for _ in range(count)]
    try:
        yield sockets
    finally:
        for socket in sockets:
            socket.transport.abort()
