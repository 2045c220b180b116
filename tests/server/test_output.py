"""Output that is written by a thread."""

import contextlib
import io
import os
import sys
import threading

import pytest

from filtered_websocket.server import output
from filtered_websocket.server.output import BufferedStream, buffered_output

from ..waiting import LIMIT


class Pipe:
    """A pipe as ``sys.stdout`` would have it; the other end is read when a test wants."""

    encoding = "ascii"

    def __init__(self):
        self.read_end, self.write_end = os.pipe()
        self.stream = BufferedStream(self, "a pipe")

    def fileno(self):
        return self.write_end

    def isatty(self):
        return False

    def read(self, size):
        said = b""
        while len(said) < size:
            said += os.read(self.read_end, size - len(said))
        return said


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    with contextlib.suppress(OSError):
        os.close(made.read_end)
    made.stream.finish()
    os.close(made.write_end)


def test_lines_come_out_whole_and_in_order(pipe):
    print("one", "two", file=pipe.stream, flush=True)
    pipe.stream.write("gr\u00fcn\nhalf")
    assert pipe.read(16) == b"one two\ngr\\xfcn\n"
    pipe.stream.write(" a line\n")
    assert pipe.read(12) == b"half a line\n"


def test_at_the_end_the_last_line_needs_no_end(pipe):
    pipe.stream.write("the last")
    pipe.stream.finish()
    assert pipe.read(9) == b"the last\n"


def test_other_attributes_are_those_of_the_stream(pipe):
    assert pipe.stream.fileno() == pipe.write_end and not pipe.stream.isatty()
    with pytest.raises(AttributeError):
        pipe.stream.nothing  # noqa: B018


def test_where_nobody_reads_lines_are_dropped_and_counted_and_nobody_waits(pipe, caplog):
    line = "x" * 1023 + "\n"
    for _ in range(2000):
        pipe.stream.write(line)
    assert pipe.stream._size <= output.MAX_WAITING
    # What was taken before the bound is read; then there is room again.
    taken = 1024 * (2000 - pipe.stream._dropped)
    assert taken < 1024 * 2000
    assert pipe.read(taken) == b"x" * 1023 + b"\n" + line.encode() * (taken // 1024 - 1)
    pipe.stream.finish()
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"dropped {2000 - taken // 1024} lines for a pipe: it was read too slowly"


def test_unread_output_does_not_delay_the_end(pipe, monkeypatch):
    monkeypatch.setattr(output, "END_TIMEOUT", 0.05)
    pipe.stream.write("x" * 1_000_000 + "\n")
    pipe.stream.finish()
    assert pipe.stream._size


def test_the_reader_of_the_output_may_close_it(pipe):
    os.close(pipe.read_end)
    pipe.stream.write("x\n")
    with pipe.stream._changed:
        assert pipe.stream._changed.wait_for(lambda: pipe.stream._is_closed, LIMIT)
    pipe.stream.write("y\n")
    pipe.stream.finish()
    assert not pipe.stream._size


def test_output_that_is_no_file_stays_as_it_is(monkeypatch, pipe):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", None)
    with buffered_output():
        assert sys.stdout is text and sys.stderr is None
    monkeypatch.setattr(sys, "stdout", pipe)
    with buffered_output():
        assert isinstance(sys.stdout, BufferedStream)
        print("printed")
    assert sys.stdout is pipe and pipe.read(8) == b"printed\n"


def test_its_thread_ends_with_it(pipe):
    before = [thread for thread in threading.enumerate() if thread.name == "fws-a pipe"]
    pipe.stream.finish()
    before[-1].join(LIMIT)
    assert not before[-1].is_alive()
