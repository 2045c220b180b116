"""What a call costs, counted: no clock is read, so that a busy machine changes nothing."""

import gc
import signal
import sys
from contextlib import contextmanager

from .waiting import LEAST


def steps(call, *arguments):
    """How many lines of Python ``call`` runs, and how many functions of C they call."""
    count = 0

    def count_lines(frame, event, argument):
        nonlocal count
        count += event == "line"
        return count_lines

    def count_calls(frame, event, argument):
        nonlocal count
        count += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    # What the garbage collector calls would be counted, whenever it comes.
    gc.disable()
    sys.settrace(count_lines)
    sys.setprofile(count_calls)
    try:
        call(*arguments)
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
        gc.enable()
    return count


def is_linear(call, make, size):
    """Whether ``call(make(2 * size))`` runs at most twice the steps of ``call(make(size))``."""
    some, twice = steps(call, make(size)), steps(call, make(2 * size))
    return twice <= 2 * some + 100


@contextmanager
def ends(what="it"):
    """
    :exc:`TimeoutError`, which names ``what``, in the main thread where it does not end, also
    inside of a function of C that Python may interrupt, as a regular expression is.

    A linear cost shows in this: what is squared takes minutes at the size that is tried, and
    what is linear a few milliseconds.
    """

    def give_up(number, frame):
        raise TimeoutError(f"{what} has not ended after {LEAST} s")

    before = signal.signal(signal.SIGALRM, give_up)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, LEAST)
    try:
        yield
    finally:
        # pytest-timeout uses the same timer.
        signal.setitimer(signal.ITIMER_REAL, rest)
        signal.signal(signal.SIGALRM, before)
