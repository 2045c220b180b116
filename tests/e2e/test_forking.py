"""Programs that are forked for tests behave as started ones do."""

import os
import resource
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
