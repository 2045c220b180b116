"""A real PostgreSQL, and PgBouncer before it, from what the machine has installed."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from .processes import Process, free_port

#: The role of everything; nobody but this machine reaches the server.
USER = "fws"


def find_program(name):
    """Its path; Debian keeps PostgreSQL's off the PATH. Skips where it is not installed."""
    found = [
        shutil.which(name),
        *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))),
    ]
    found += [path for path in [f"/usr/sbin/{name}"] if os.access(path, os.X_OK)]
    programs = [path for path in found if path]
    if not programs:
        pytest.skip(f"no {name} on this machine: apt-get install postgresql pgbouncer")
    # Of Debian's own, the newest; one on the PATH may lack its share of files.
    return programs[-1] if name != "pgbouncer" else programs[0]


def account():
    """Whom these servers run as: they refuse root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class Folder:
    """A new one that the servers' account may write to."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="fws-pg-"))
        if who := account():
            os.chown(self.path, who["user"], who["group"])

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)


class _Server(Process):
    """One that may not be root's."""

    def __init__(self, command, cwd):
        super().__init__(command, cwd=cwd, **account())


class Postgres:
    """One on a free port of 127.0.0.1, and how many connections it has."""

    def __init__(self):
        self._folder = Folder()
        self._data = self._folder.path / "data"
        self._program = find_program("postgres")
        subprocess.run(
            [
                *(find_program("initdb"), "--pgdata", self._data, "--username", USER),
                *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=self._folder.path,
            **account(),
        )
        self.port = free_port()
        self.start()

    def start(self):
        self._process = _Server(
            [
                *(self._program, "-D", str(self._data), "-p", str(self.port)),
                *("-h", "127.0.0.1", "-k", str(self._folder.path)),
                *("-c", "fsync=off", "-c", "max_connections=60"),
                *("-c", "log_connections=on", "-c", "log_disconnections=on"),
                *("-c", "log_line_prefix=[%p] "),
            ],
            self._folder.path,
        )
        self._process.said("database system is ready to accept connections")

    def end(self):
        """As an administrator restarts it: clients are cut (a fast shutdown)."""
        self._process.signal(signal.SIGINT)
        self._process.wait()

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self._process.signal(signal.SIGINT)
        self._process.wait()
        self._folder.remove()

    def ask(self, query, database="postgres"):
        """Rows of a query, on a connection of its own."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def connections_to(self, database):
        return Connections(self._process, database)


class Connections:
    """How many clients are connected to one of its databases, from what it logs of each."""

    def __init__(self, process, database):
        self._process = process
        self._mark = process.lines_so_far
        event = r"(authorized|disconnection)"
        self._line = re.compile(rf"\[(\d+)\] .*{event}: .*\bdatabase={database}\b")
        #: Of the processes that serve them. What is logged only now of an earlier one that has
        #: ended is about none of these.
        self._now = set()
        self._most = 0

    def _read(self):
        lines = self._process.lines_since(self._mark)
        self._mark += len(lines)
        for line in lines:
            if found := self._line.search(line):
                change = self._now.add if found[2] == "authorized" else self._now.discard
                change(found[1])
                self._most = max(self._most, len(self._now))

    @property
    def now(self):
        self._read()
        return len(self._now)

    @property
    def most(self):
        """The most at any moment so far."""
        self._read()
        return self._most


class PgBouncer(_Server):
    """In transaction mode, before ``postgres``."""

    def __init__(self, postgres):
        self._folder = Folder()
        self.port = free_port()
        settings = self._folder.path / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={postgres.port} user={USER}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\n"
            "max_client_conn = 500\ndefault_pool_size = 10\n"
        )
        settings.chmod(0o644)
        super().__init__([find_program("pgbouncer"), str(settings)], self._folder.path)
        self.starts("process up")

    def stop(self):
        status = super().stop()
        self._folder.remove()
        return status
