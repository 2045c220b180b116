"""What the fuzzer starts from, and what it has found, without the fuzzer."""

from pathlib import Path

import pytest

from .fuzz import targets

SEEDS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())


@pytest.fixture(autouse=True, scope="module")
def house():
    yield
    targets.house.close()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_a_seed_breaks_no_promise(seed):
    targets.one_input(seed.read_bytes())


def test_every_target_has_seeds():
    chosen = {seed.read_bytes()[0] % len(targets.TARGETS) for seed in SEEDS}
    assert chosen == set(range(len(targets.TARGETS)))
