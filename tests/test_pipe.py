"""A pipeline over standard input: pipe."""

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys

import pydantic
import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from filtered_websocket import (
    Close,
    Drop,
    WebSocketCallFilter,
    WebSocketConnectFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
    current,
)
from filtered_websocket import pipe as pipe_module
from filtered_websocket.pipe import Frames, Pipe, main
from filtered_websocket.pipelines.pipeline import Pipeline

from .connections.test_connection import message_filter
from .snippets import ROOT


def piped(text, *filters, chain="message"):
    """Exit status, output and errors of a run."""
    output, errors = io.BytesIO(), io.StringIO()

    async def run():
        pipe = Pipe(Pipeline(filters), output, errors, chain)
        await pipe.run(io.BytesIO(text.encode("utf-8", "surrogateescape")))
        return int(pipe.failed)

    status = asyncio.run(run())
    return status, output.getvalue().decode("utf-8", "surrogateescape"), errors.getvalue()


def test_a_line_in_is_a_line_out():
    assert piped("a\nb\r\n\nc", "tests.examples.Shout") == (0, "A\nB\n\nC\n", "")


def test_a_line_may_be_a_message_of_a_group():
    def shout(hub, data):
        hub.publish("more")
        hub.fan_out("default", "to all here")
        return data.upper()

    def sign(web_socket_instance, data):
        if data == b"X":
            raise Drop
        return data + f" in {current.group} for {web_socket_instance.id[:0]}me".encode()

    filters = message_filter(shout, WebSocketGroupFilter), message_filter(sign, WebSocketSendFilter)
    status, out, err = piped("a\nx\n", *filters, chain="group")
    assert (status, out) == (0, "to all here\nA in default for me\nto all here\n")
    assert err == "pipe: 2 published\n"


def test_what_a_filter_declares_is_checked():
    class Moved(pydantic.BaseModel):
        x: int

    def double(web_socket_instance, data: Moved):
        return Moved(x=2 * data.x)

    status, out, err = piped('{"x": 1}\n{"x": "?"}\n{\n', message_filter(double))
    assert (status, out) == (0, '{"x":2}\n')
    first, second = err.splitlines()
    assert first.startswith("pipe: line 2: x: Input should be a valid integer")
    assert second == "pipe: line 3: not JSON"
    answering = message_filter(double, WebSocketCallFilter, method="double")
    status, out, err = piped('double {"x": 1}\ndouble\n', answering, chain="call")
    assert (status, out) == (0, '{"x":2}\n') and err.startswith("pipe: line 2: Input should")


def test_a_line_may_be_a_call():
    def add(web_socket_instance, call):
        if call.method == "add":
            return sum(call.data)
        return {"said": call.data} if call.method == "say" else None

    lines = 'add [1, 2]\nsay\nsay "hi"\nadd\nsubtract 1\nsay {\n'
    status, out, err = piped(lines, message_filter(add, WebSocketCallFilter), chain="call")
    assert (status, out) == (1, '3\n{"said":null}\n{"said":"hi"}\n')
    told = err.splitlines()
    assert told[0].startswith("pipe: line 4: tests.connections.test_connection.add raised TypeErr")
    assert told[1] == "pipe: line 5: no filter answers 'subtract'"
    assert told[2].startswith("pipe: line 6: JSONDecodeError")


def test_a_line_may_be_a_group_to_join():
    left = []

    async def note(web_socket_instance, subscription):
        if subscription.group == "secret":
            raise Drop
        subscription.info = {"name": subscription.data}
        subscription.reply = "welcome"

    def leave(web_socket_instance, subscription):
        left.append((subscription.group, subscription.group in web_socket_instance.groups))
        if subscription.group == "b":
            raise ValueError("on purpose")

    filters = message_filter(note, WebSocketJoinFilter), message_filter(leave, WebSocketLeaveFilter)
    status, out, err = piped('a "ann"\nsecret\ntoken:x\nb\n', *filters, chain="join")
    assert (status, out.splitlines()) == (
        1,
        [
            '{"group":"a","info":{"name":"ann"},"reply":"welcome"}',
            '{"group":"b","info":{"name":null},"reply":"welcome"}',
        ],
    )
    assert left == [("a", True), ("b", True)]
    told = err.splitlines()
    assert told[0] == "pipe: line 2: may not join this group: 'secret'"
    assert "token:" in told[1]
    assert told[2].startswith("pipe: leave 'b': tests.connections.test_connection.leave raised")
    assert told[3] == "pipe: 2 groups joined"


def test_groups_without_a_chain_of_their_own_are_joined_in_silence():
    assert piped("a\n", chain="join") == (0, "", "pipe: 1 groups joined\n")


def test_the_leave_chain_runs_when_a_filter_leaves_a_group():
    def come_and_go(web_socket_instance, data):
        web_socket_instance.join("room")
        web_socket_instance.leave("room")

    def leave(web_socket_instance, subscription):
        web_socket_instance.push(f"left {subscription.group}")

    filters = message_filter(come_and_go), message_filter(leave, WebSocketLeaveFilter)
    assert piped("x\n", *filters) == (0, "x\nleft room\n", "pipe: 1 groups joined\n")


class Adds(WebSocketCallFilter):
    _registers = False

    @classmethod
    async def filter(cls, web_socket_instance, call):
        await asyncio.sleep(0)
        return sum(call.data)


def spoken(*lines, filters=(Adds,)):
    """Exit status, what came and errors of a client that speaks the Centrifuge protocol."""
    output, errors = io.BytesIO(), io.StringIO()

    async def run():
        pipe = Frames(filters, output, errors, "centrifuge")
        await pipe.run(iter(lines))
        return int(pipe.failed)

    status = asyncio.run(run())
    return status, [json.loads(line) for line in output.getvalue().splitlines()], errors.getvalue()


CONNECT = b'{"id":1,"connect":{}}\n'


def test_a_line_may_be_a_command_of_a_protocol():
    lines = [CONNECT, b'{"id":2,"rpc":{"data":[1,2]}}\n', b'{"id":3,"ping":{}}']
    status, came, told = spoken(*lines)
    assert (status, told) == (0, "")
    assert came[0]["connect"]["client"]
    assert came[1:] == [{"id": 2, "rpc": {"data": 3}}, {"id": 3, "ping": {}}]


@override_settings(FILTERED_WEBSOCKET={"GROUPS": "tests.protocols.test_history"})
def test_commands_change_groups_of_this_process_alone():
    publish = b'{"id":3,"publish":{"channel":"plain","data":"hi"}}\n'
    status, came, _ = spoken(CONNECT, b'{"id":2,"subscribe":{"channel":"plain"}}\n', publish)
    assert status == 0 and {"id": 3, "publish": {}} in came
    assert [one["push"]["pub"]["data"] for one in came if "push" in one] == ["hi"]


@pytest.mark.parametrize("line", [b"nonsense\n", b"\xff\n"])
def test_a_line_that_is_no_command_closes(line):
    status, came, told = spoken(CONNECT, line, b'{"id":2,"ping":{}}\n')
    assert (status, len(came)) == (1, 1)
    assert told == "pipe: closed with 3501 'bad request'\n"


def test_a_dropped_line_prints_nothing():
    def drop(web_socket_instance, data):
        if data == b"x":
            raise Drop

    assert piped("a\nx\nb\n", message_filter(drop)) == (0, "a\nb\n", "")


def test_nobody_is_present_in_a_group_without_a_server():
    def count(web_socket_instance, data):
        return str(len(web_socket_instance.present("default"))).encode()

    assert piped("x\n", message_filter(count)) == (0, "0\n", "")


def test_a_filter_in_a_thread_may_push_and_join():
    def work(web_socket_instance, data):
        web_socket_instance.push("pushed")
        async_to_sync(web_socket_instance.join)("room")
        async_to_sync(web_socket_instance.apublish)("hi")

    status, out, err = piped("a\n", message_filter(work, blocking=True))
    assert (status, out) == (0, "pushed\na\n")
    assert err == "pipe: 1 published\npipe: 1 groups joined\n"


def test_groups_that_it_may_not_join_are_told_with_their_line():
    async def join(web_socket_instance, data):
        assert not await web_socket_instance.is_allowed("see", "room")
        await web_socket_instance.enter("own")
        await web_socket_instance.join(data.decode())

    status, out, err = piped("token:x\nroom\n", message_filter(join))
    assert (status, out) == (0, "room\n")
    words = "names that begin with 'token:' are the groups of tokens: 'token:x'"
    assert err == f"pipe: line 1: {words}\npipe: 2 groups joined\n"


def test_an_error_is_told_with_its_line_and_the_next_line_goes_on():
    def fail(web_socket_instance, data):
        if data == b"x":
            raise KeyError("oh")

    status, out, err = piped("a\nx\nb\n", message_filter(fail))
    assert (status, out) == (1, "a\nb\n")
    assert err == "pipe: line 2: tests.connections.test_connection.fail raised KeyError: 'oh'\n"


def test_what_is_no_message_is_told_too():
    def odd(web_socket_instance, data):
        return 7 if data == b"x" else {"n": data.decode()}

    status, out, err = piped("x\na\n", message_filter(odd))
    assert (status, out) == (1, '{"n":"a"}\n')
    assert err.startswith("pipe: line 1: TypeError: a message is str, bytes")


def test_connect_data_and_disconnect_chains_run_too():
    def greet(web_socket_instance, handshake):
        web_socket_instance.push("hello")

    def shorten(web_socket_instance, data):
        data.pop()

    def goodbye(web_socket_instance):
        web_socket_instance.push(f"bye {web_socket_instance.close_code}")

    status, out, err = piped(
        "ab\n",
        message_filter(goodbye, WebSocketDisconnectFilter),
        message_filter(shorten, WebSocketDataFilter),
        message_filter(greet, WebSocketConnectFilter),
    )
    assert (status, out, err) == (0, "hello\na\nbye 1000\n", "")


@pytest.mark.parametrize("error", [Drop(), Close(4401), KeyError("x")])
def test_a_connect_chain_may_refuse(error):
    def refuse(web_socket_instance, handshake):
        raise error

    status, out, err = piped("a\n", message_filter(refuse, WebSocketConnectFilter))
    assert (status, out) == (1, "")
    assert err.endswith("pipe: the connect chain refused the connection\n")


def test_a_closing_filter_ends_the_run():
    def end(web_socket_instance, data):
        if data == b"x":
            raise Close(4000, "enough")

    status, out, err = piped("a\nx\nb\n", message_filter(end))
    assert (status, out, err) == (0, "a\n", "pipe: closed with 4000 'enough'\n")


def test_what_a_connection_does_is_printed_or_counted():
    async def work(web_socket_instance, data):
        assert list(web_socket_instance.users.values()) == [web_socket_instance]
        await web_socket_instance.join("g")
        await web_socket_instance.leave("g")
        web_socket_instance.publish(data)
        await web_socket_instance.apublish(data, "g")
        web_socket_instance.queue.put(1)
        web_socket_instance.storage_object.add("k", "v")
        await web_socket_instance.send("sent")
        web_socket_instance.close(4000)
        assert web_socket_instance.closing
        web_socket_instance.push("too late")

    status, out, err = piped("a\n", message_filter(work))
    assert (status, out) == (0, "sent\na\n")
    assert err == "pipe: 2 published\npipe: 1 groups joined\npipe: closed with 4000 ''\n"


def test_open_tokens_are_taken_and_their_groups_counted(settings):
    settings.FILTERED_WEBSOCKET = {"TOKENS": "open"}
    by_token = "filtered_websocket.filters.broadcast_messages_by_token"
    status, out, err = piped("x\ntoken:abc\ny\n", by_token)
    assert status == 0 and err == "pipe: 1 published\npipe: 1 groups joined\n"
    assert out == (
        "Error: No token has been set\nx\n"
        "Successfully registered with broadcast group: abc\ntoken:abc\ny\n"
    )


def test_bytes_pass_as_they_are():
    assert piped("\udcff\n", "tests.examples.Shout") == (0, "\udcff\n", "")


def pipe(*filters, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "filtered_websocket.pipe", *filters],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


@pytest.mark.repeats
def test_the_command_line_streams_and_ends_quietly_on_a_closed_pipe():
    with pipe("tests.examples.Shout") as process:
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"A\n"  # before the input has ended
        process.stdout.close()
        for _ in range(3):
            try:
                process.stdin.write(b"b\n")
                process.stdin.flush()
            except BrokenPipeError:
                break
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.repeats
def test_a_printing_filter_ends_quietly_on_a_closed_pipe_too():
    with pipe("filtered_websocket.filters.stdout_messages") as process:
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"--MESSAGE--\n"
        process.stdout.close()
        try:
            for _ in range(200_000):
                process.stdin.write(b"b\n")
        except BrokenPipeError:
            pass
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        ([], {}, b"pipe: error: the following arguments are required: FILTER"),
        (["x"], {"DJANGO_SETTINGS_MODULE": "nosuch"}, b"No module named 'nosuch'"),
        (["tests.examples.Shout"], {"STORAGE_OBJECT_MODULE": "nosuch"}, b"storage object 'nosuch'"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(arguments, env, words):
    with pipe(*arguments, env={**os.environ, **env}) as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert words in err and err.count(b"\n") == 1


def test_a_closed_standard_input_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["tests.examples.Shout"]) == 2
    assert "must be open" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_line(standard_input, capsys):
    standard_input("a\n", OSError(28, "No space left on device"))
    assert main(["tests.examples.Shout"]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_settings_that_fail_are_one_line(monkeypatch, capsys):
    def fail():
        raise RuntimeError("oh\nno")

    monkeypatch.setattr(pipe_module, "set_up", fail)
    assert main(["x"]) == 2
    assert capsys.readouterr().err == "pipe: error: RuntimeError: oh no\n"


@pytest.mark.repeats
def test_the_command_line_says_what_is_wrong_in_one_line():
    with pipe("nowhere") as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert err.startswith(b"pipe: error: filter 'nowhere': there is no") and err.count(b"\n") == 1


@pytest.fixture
def standard_input(monkeypatch):
    """Standard input and output that ``main`` may have in this process."""

    def give(text, fail=None):
        class Output:
            buffer = io.BytesIO()

            def fileno(self):
                return os.open(os.devnull, os.O_WRONLY)

        output = Output()
        output.buffer = io.BytesIO()
        if fail is not None:

            def broken(data):
                raise fail

            output.buffer = type("Broken", (), {"write": staticmethod(broken)})()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        monkeypatch.setattr(sys, "stdout", output)
        return output

    return give


def test_main_pipes_standard_input(standard_input):
    output = standard_input("a\n")
    assert main(["tests.examples.Shout"]) == 0
    assert output.buffer.getvalue() == b"A\n"


def test_a_protocol_is_chosen_on_the_command_line(standard_input):
    output = standard_input(CONNECT.decode())
    assert main(["--protocol", "centrifuge", "tests.examples.Shout"]) == 0
    assert b'"connect":{"client"' in output.buffer.getvalue()
    assert main(["--protocol", "centrifuge", "nowhere"]) == 2


def test_main_ends_quietly_when_nobody_reads(standard_input):
    standard_input("a\n", BrokenPipeError())
    assert main(["tests.examples.Shout"]) == 0


def test_there_is_no_history_to_recover():
    async def recovers(web_socket_instance, message):
        answer = await web_socket_instance.recover("room", ("e", 1))
        return f"{answer.recovered} {answer.position} {sorted(web_socket_instance.groups)}"

    assert piped("a\n", message_filter(recovers)) == (
        *(0, "False None ['room']\n"),
        "pipe: 1 groups joined\n",
    )


class PrintsForNobody(WebSocketMessageFilter):
    @classmethod
    def filter(cls, connection, message):
        raise BrokenPipeError


def test_main_ends_quietly_when_a_filter_finds_that_nobody_reads(standard_input, capsys):
    standard_input("a\n")
    assert main(["tests.test_pipe.PrintsForNobody"]) == 0
    assert capsys.readouterr().err == ""


def test_main_refuses_what_is_no_filter(standard_input, capsys):
    standard_input("a\n")
    assert main(["nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_is_status_130(standard_input, monkeypatch):
    def interrupted(coroutine):
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(pipe_module.asyncio, "run", interrupted)
    assert main(["tests.examples.Shout"]) == 130


def test_manage_py_pipe_is_the_same(standard_input):
    from django.core.management import call_command

    output = standard_input("a\n")
    with pytest.raises(SystemExit) as caught:
        call_command("pipe", "tests.examples.Shout")
    assert caught.value.code == 0 and output.buffer.getvalue() == b"A\n"
