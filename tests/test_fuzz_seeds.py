"""The fuzzer's seeds and its findings, without the fuzzer."""

import signal
from pathlib import Path

import pytest

from filtered_websocket.hub.drain import SIGNALS, Drain

from .fuzz import targets

SEEDS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())


@pytest.fixture(autouse=True, scope="module")
def bench():
    yield
    targets.bench.close()
    left = [getattr(signal.getsignal(number), "__func__", None) for number in SIGNALS]
    assert Drain._on_signal not in left


@pytest.fixture(autouse=True)
def no_signal_handler_is_left_behind():
    """The hub of this module installs signal handlers; after the module there are none."""


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_a_seed_breaks_no_promise(seed):
    targets.one_input(seed.read_bytes())


def test_every_target_has_seeds():
    chosen = {seed.read_bytes()[0] % len(targets.TARGETS) for seed in SEEDS}
    assert chosen == set(range(len(targets.TARGETS)))
