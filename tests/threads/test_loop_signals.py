"""Signal handlers of event loops: threads.loop_signals."""

import asyncio
import signal
from types import SimpleNamespace

import pytest

from filtered_websocket.threads.loop_signals import LoopHandler, loop_handler


async def test_the_handler_of_a_loop_is_found_and_called_on_the_loop():
    loop, got = asyncio.get_running_loop(), []
    assert loop_handler(loop, signal.SIGUSR1) is None
    loop.add_signal_handler(signal.SIGUSR1, got.append, "called")
    try:
        found = loop_handler(loop, signal.SIGUSR1)
        assert found == LoopHandler(loop, got.append, ("called",))
        found(signal.SIGUSR1, None)
        assert got == []
        await asyncio.sleep(0)
        assert got == ["called"]
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize(
    "loop",
    [
        SimpleNamespace(),
        SimpleNamespace(_signal_handlers={1: SimpleNamespace(_callback=print)}),
        SimpleNamespace(_signal_handlers={1: SimpleNamespace(_args=())}),
    ],
)
def test_on_a_loop_of_another_kind_none_is_found(loop):
    assert loop_handler(loop, 1) is None
