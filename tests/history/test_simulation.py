"""
Processes, clients and faults in a world of their own clock: what every client gets has no hole,
no repetition and no other order, or the client is told; and what is told as lost is lost.
"""

import os

import pytest

from .simulation import simulate

#: "make stress" runs thousands.
SCHEDULES = 400 if os.environ.get("FWS_STRESS") == "full" else 12
STEPS = 120
KINDS = {"def": {}, "async": {}, "crowded": {"PUBLISH_QUEUE": 4}}


@pytest.mark.parametrize("publishes", [True, False], ids=["by the store", "by the publisher"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_get_everything_in_order_once_or_are_told(settings, kind, publishes):
    settings.FILTERED_WEBSOCKET = KINDS[kind]
    worlds = [simulate(seed, STEPS, publishes, kind) for seed in range(SCHEDULES)]
    for happened in ("heard", "recovered", "told"):
        assert sum(getattr(world, happened) for world in worlds) > 0, happened


def test_what_is_missing_is_asked_for_once_per_process(settings):
    """However many clients miss it; and each who comes back costs one question."""
    settings.FILTERED_WEBSOCKET = {}
    for seed in range(SCHEDULES):
        world = simulate(seed, STEPS, True, "def", faults=False)
        asked = sum(process.store.reads for process in world.processes)
        assert asked <= world.returns and world.gaps == 0
