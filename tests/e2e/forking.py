"""
Python programs for tests, forked from a process that has imported what most of them need.

A start costs more than a second of computing, nearly all of it imports of Django, Twisted and
autobahn, and the tests start hundreds of processes. So each process of pytest has a helper,
``python -m tests.e2e.forking``, that imports them once. A program is a fork of it which then
runs as ``python -m`` or ``python manage.py`` would, with its own environment, arguments, folder,
output, descriptors and exit status.

Before the fork only other people's modules are imported, and none that reads settings or makes
an event loop: what a test changes by settings, environment or options is read after it, and so
is each module of this package, which coverage measures as in any other process. Programs that
coverage does not measure are forked from a second helper, which has this package, too.

What a fork cannot show is started by its command line: memory, start-up itself, another account,
other variables of Python, a package that is not this checkout, commands as users type them
(test_stranger).
"""

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import weakref
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Where one is not installed, as in the oldest versions of a library, its programs do without.
PRELOADED = (
    *("autobahn.twisted.websocket", "autobahn.wamp.protocol", "autobahn.websocket.protocol"),
    *("channels.routing", "channels.sessions", "channels_redis.core", "channels_redis.pubsub"),
    *("coverage.sqldata", "cryptography.fernet"),
    *("cryptography.hazmat.primitives.asymmetric.rsa", "daphne.access", "django.contrib.admin"),
    *("cryptography.hazmat.primitives.kdf.pbkdf2", "django.contrib.admin.sites"),
    *("django.contrib.auth.hashers", "django.contrib.auth.password_validation"),
    *("django.contrib.staticfiles.handlers", "django.contrib.staticfiles.storage"),
    *("django.core.asgi", "django.core.management.commands.migrate"),
    *("django.db.backends.sqlite3.base", "django.forms", "django.middleware.clickjacking"),
    *("django.middleware.common", "django.middleware.security", "django.test"),
    *("django.template.backends.django", "opentelemetry.baggage.propagation"),
    *("opentelemetry.trace.propagation.tracecontext", "redis.asyncio", "redis.sentinel"),
    *("twisted.internet.asyncioreactor", "twisted.internet.endpoints", "txaio.tx"),
    *("twisted.protocols.tls", "twisted.web.http", "uvicorn.lifespan.on", "uvicorn.loops.auto"),
    *("uvicorn.main", "uvicorn.protocols.http.h11_impl", "uvloop", "websockets.server"),
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
#: What of this package needs no settings to be imported; it imports most of the rest.
OURS = ("filtered_websocket.apps", "filtered_websocket.routing", "filtered_websocket.publish")
#: A test may hand so many descriptors to a program.
MOST_DESCRIPTORS = 8


def can_fork(command, env, cwd):
    """Whether the program would see no difference to a start by its command line."""
    variables = {name: env[name] for name in env or {} if name.startswith("PYTHON")}
    is_ours = (cwd == ROOT and not variables) or variables == {"PYTHONPATH": str(ROOT)}
    is_python = command[0] == sys.executable
    return is_ours and is_python and (command[1] in ("-c", "-m") or command[1].endswith(".py"))


class Forked:
    """What tests use of :class:`subprocess.Popen`, for a program with the output as a pipe."""

    def __init__(self, arguments, env, cwd=ROOT, pass_fds=()):
        (request, requests), (out, output), (self._ended, ends) = (os.pipe() for _ in range(3))
        sent = request, output, ends
        socket.send_fds(_helper(_is_measured(env)), [b"+"], [*sent, *pass_fds])
        for descriptor in sent:
            os.close(descriptor)
        with open(requests, "w") as file:
            program = {"arguments": arguments, "env": env, "cwd": str(cwd), "fds": pass_fds}
            json.dump({**program, "files": resource.getrlimit(resource.RLIMIT_NOFILE)}, file)
        self.stdout = os.fdopen(out, errors="backslashreplace")
        self.returncode = None
        #: Of threads that wait, one reads the status. The others may begin to wait only then,
        #: so the pipe stays open, or its number would be that of another file by then.
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._ended)
        self.pid = int(self._next_line())

    def _next_line(self):
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self._ended, 1)
            assert more, "the helper that forks programs has ended"
            line += more
        return line

    def wait(self, timeout=None):
        if self.returncode is None:
            self._wait_readable(timeout)
            with self._lock:
                if self.returncode is None:
                    self.returncode = int(self._next_line())
        return self.returncode

    def _wait_readable(self, timeout):
        # select.select() takes no descriptor above 1023, and crowds of clients have thousands.
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired(self.pid, timeout)

    def poll(self):
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def heed_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_measured(env):
    """As coverage's own start-up file asks."""
    return bool(env.get("COVERAGE_PROCESS_START") or env.get("COVERAGE_PROCESS_CONFIG"))


@functools.cache
def _helper(is_measured):
    """The connection to a helper of this process, which ends with it."""
    ours, its = socket.socketpair()
    # Coverage begins in the forks, and so do settings.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE_", "DJANGO_"))}
    helper = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.forking", *(() if is_measured else OURS)],
        stdin=its,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=env | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=heed_ctrl_c,
    )
    its.close()

    @atexit.register
    def stop():
        ours.close()
        helper.wait()

    return ours


def serve(*ours):
    """In the helper: fork for each request. Returns in each fork, with the request."""
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    assert "filtered_websocket" not in sys.modules, "its imports would not be measured"
    for name in ours:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules, "forks would share an event loop"
    # No fork looks for garbage in what all of them share.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, 3 + MOST_DESCRIPTORS)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG if descriptors else 0)[0]:
                    pass
            if not descriptors:
                sys.exit()
            if os.fork() == 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    return _in_a_fork(*descriptors)


def _in_a_fork(request, output, ends, *passed):
    """The first fork tells how its own fork, the program, ended: the helper does not wait."""
    program = os.fork()
    if program:
        for descriptor in (request, output, *passed):
            os.close(descriptor)
        os.write(ends, b"%d\n" % program)
        _, status = os.waitpid(program, 0)
        with suppress(BrokenPipeError):
            os.write(ends, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.close(ends)
    with open(request) as file:
        wanted = json.load(file)
    _renumber(passed, wanted.pop("fds"))
    return wanted


def _renumber(descriptors, numbers):
    """Give descriptors the numbers that they have in the test, which others of them may have."""
    away = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 512) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(away, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def run(arguments, env, cwd, files):
    """As the interpreter does: variables, coverage where it is asked for, then the program."""
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if cwd != str(ROOT):
        sys.path.insert(0, cwd)
    if _is_measured(env):
        import coverage

        coverage.process_startup()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def run_and_end(program):
    """
    As the interpreter ends: threads, atexit, garbage, output. Only the modules are not taken
    apart, which would write to all memory that a fork shares, and so copy it: that costs as much
    as to start. What ends by an exception is ended by the interpreter, which prints it.
    """
    status = None
    try:
        run(**program)
    except SystemExit as end:
        status = end.code
        if not isinstance(status, int | None):
            raise
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    run_and_end(serve(*sys.argv[1:]))
