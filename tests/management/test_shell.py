"""What the commands of a shell have in common."""

import asyncio
import errno
import io
import os
import sys
import threading

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.checks.settings import PUBSUB
from filtered_websocket.management import shell
from filtered_websocket.management.shell import (
    LineWriter,
    ShellCommand,
    check_layer,
    drop_output,
    told_when_closed,
    took,
)

from ..waiting import limited, wait_until


class Command(ShellCommand):
    name = "own"

    def __init__(self, run, **options):
        super().__init__(**options)
        self.run = run


def raises(error):
    def run(**options):
        raise error

    return run


def test_ctrl_c_ends_a_command_as_any_program_of_a_shell():
    with pytest.raises(SystemExit) as ended:
        call_command(Command(raises(KeyboardInterrupt)))
    assert ended.value.code == 130


def test_a_closed_pipe_ends_a_command_quietly(tmp_path):
    with open(tmp_path / "out", "w") as out:
        assert call_command(Command(raises(BrokenPipeError)), stdout=out) is None
        # What is printed later goes nowhere.
        print("more", file=out, flush=True)
    assert (tmp_path / "out").read_text() == ""


def test_output_that_is_no_file_need_not_be_dropped():
    drop_output(io.StringIO())


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_must_be_open(monkeypatch, name):
    command = Command(raises(KeyboardInterrupt), stdout=io.StringIO(), stderr=io.StringIO())
    monkeypatch.setattr(sys, name, None)
    with pytest.raises(CommandError, match="must be open"):
        command.handle()


def test_a_note_is_one_line_on_standard_error():
    errors = io.StringIO()
    Command(raises(KeyboardInterrupt), stderr=errors).note("two\nlines\x1b")
    assert errors.getvalue() == "own: two\\nlines\\x1b\n"


def test_nobody_need_read_standard_error():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    Command(raises(KeyboardInterrupt), stderr=Closed()).note("x")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0000042, "4 us"), (0.0015, "1.5 ms"), (12.34, "12.3 s")]
)
def test_how_long_something_took_is_told(seconds, text):
    assert took(seconds) == text


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({}, "CHANNEL_LAYERS has no 'default': configure channels_redis.pubsub"),
        (
            {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
            "the channel layer 'default' is in memory, and leads to no other process",
        ),
        (
            {"default": {"BACKEND": "nowhere.Layer"}},
            "the channel layer 'default' cannot be made: InvalidChannelLayerError: ",
        ),
    ],
)
def test_a_layer_that_leads_nowhere_is_told_with_the_cure(settings, layers, words):
    settings.CHANNEL_LAYERS = layers
    with pytest.raises(CommandError) as caught:
        check_layer()
    assert str(caught.value).startswith(words)


def test_a_layer_that_leads_to_others_is_right(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": PUBSUB, "CONFIG": {}}}
    check_layer()


@pytest.fixture
def pipe():
    """Its reading and its writing end, as files."""
    reading, writing = os.pipe()
    with open(reading, "rb") as out, open(writing, "w") as stream:
        yield out, stream


def test_lines_are_written_one_after_the_other(pipe):
    out, stream = pipe
    writer = LineWriter(stream, print)
    for line in ("a", "é", "\ud800"):
        writer.put(line)
    assert [out.readline() for _ in range(3)] == [b"a\n", "é\n".encode(), b"\\ud800\n"]
    writer.close()
    assert writer.dropped == 0


def test_lines_may_go_to_what_is_no_file():
    stream = io.StringIO()
    writer = LineWriter(stream, print)
    writer.put("a")
    writer.close()
    assert stream.getvalue() == "a\n"


def test_what_nobody_reads_is_bounded_and_the_end_does_not_wait_for_it(pipe, monkeypatch):
    out, stream = pipe
    monkeypatch.setattr(shell, "MAX_WAITING", 3 * 100_001)
    monkeypatch.setattr(shell, "LINGER", 0.01)
    closed = threading.Event()
    writer = LineWriter(stream, closed.set)
    # A pipe takes less than the first one.
    writer.put("x" * 100_000)
    assert wait_until(lambda: not writer._waiting)
    for _ in range(5):
        writer.put("x" * 100_000)
    assert writer.dropped == 2
    writer.close()
    assert writer._thread.is_alive() and not closed.is_set()
    out.close()
    assert wait_until(closed.is_set)
    writer._thread.join()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EPIPE, BrokenPipeError, ""),
        (errno.ENOSPC, CommandError, "cannot write to standard output: No space left on device"),
    ],
)
def test_a_full_disk_is_an_error_and_a_closed_pipe_is_not(number, kind, words):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(number, os.strerror(number))

    closed = threading.Event()
    writer = LineWriter(Full(), closed.set)
    assert isinstance(writer.stop_reason(), BrokenPipeError)
    writer.put("a")
    writer.close()
    assert closed.is_set()
    reason = writer.stop_reason()
    assert type(reason) is kind and str(reason) == words


async def test_that_nobody_reads_is_told_although_nothing_is_written(pipe):
    out, stream = pipe
    closed = asyncio.Event()
    with told_when_closed(stream, closed.set):
        await asyncio.sleep(0)
        assert not closed.is_set()
        out.close()
        async with limited():
            await closed.wait()


async def test_of_what_is_no_pipe_it_is_not_told(tmp_path):
    for stream in ((tmp_path / "out").open("w"), io.StringIO()):
        with stream, told_when_closed(stream, pytest.fail):
            await asyncio.sleep(0)
