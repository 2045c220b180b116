"""Programs that are forked for tests behave as started ones do."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from .forking import Forked

#: select.select() takes only descriptors below this.
SELECTABLE = 1024


def start(code):
    return Forked(["-c", code], dict(os.environ))


@pytest.fixture
def many_files():
    """A process may open more files than select.select() takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * SELECTABLE:
        pytest.skip(f"{2 * SELECTABLE} file descriptors are needed, 'ulimit -Hn' is {hard}")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * SELECTABLE), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_that_wait_for_one_program_get_the_same_status():
    program = start("import sys; sys.exit(3)")
    with ThreadPoolExecutor() as pool, program.stdout:
        waiting = [pool.submit(program.wait, 60) for _ in range(4)]
        assert [one.result() for one in waiting] == [3] * 4


def test_a_process_with_thousands_of_clients_can_wait_for_a_program(many_files):
    with ExitStack() as stack:
        files = [stack.enter_context(open(os.devnull)) for _ in range(SELECTABLE)]
        assert files[-1].fileno() >= SELECTABLE
        program = start("import sys; sys.exit(4)")
        with program.stdout:
            assert program.wait(60) == 4


#: What a program does when it ends: each line in the order of the interpreter.
LAST = """
import atexit, os, signal, sys, threading

class Circle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        os.write(1, b"garbage\\n")

def work():
    threading.main_thread().join()
    os.write(1, b"a thread\\n")

atexit.register(os.write, 1, b"atexit\\n")
threading.Thread(target=work).start()
Circle()
print("not flushed")
"""
ENDS = {
    "its last line": "pass",
    "status 0": "sys.exit()",
    "a status": "sys.exit(3)",
    "a bool": "sys.exit(True)",
    "a status below 0": "sys.exit(-1)",
    "a text": "sys.exit('wrong')",
    "an error": "raise ValueError('wrong')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "a signal": "os.kill(os.getpid(), signal.SIGTERM)",
    "at once": "os._exit(5)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_program_ends_as_the_interpreter_ends_it(end):
    code = f"{LAST}\n{end}"
    started = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    program = start(code)
    with program.stdout:
        assert program.wait(60) == started.returncode
        # The lines of a traceback have other files.
        says = [line for line in program.stdout if not line.startswith("  ")]
        assert says == [x for x in started.stdout.splitlines(True) if not x.startswith("  ")]
