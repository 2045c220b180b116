"""
Processes, clients and faults in a world of their own clock: what every client gets has no hole,
no repetition and no other order, or the client is told; and what is told as lost is lost.
"""

import os

import pytest

from filtered_websocket.history import follower, lines

from .simulation import simulate

#: "make stress" runs thousands.
SCHEDULES = 400 if os.environ.get("FWS_STRESS") == "full" else 20
STEPS = 100
#: Settings, and limits that are reached with few messages.
KINDS = {
    "plain": ("plain", {}, {}),
    "def": ("def", {}, {}),
    "async": ("async", {}, {}),
    "send": ("send", {}, {}),
    "async and send": ("async and send", {}, {}),
    "async send": ("async send", {}, {}),
    "crowded": ("async", {"PUBLISH_QUEUE": 4}, {}),
    "tight": ("def", {}, {"MAX_BUFFER": 5, "MAX_HELD": 4}),
}
#: Coverage needs what happens in crowded ones; the others repeat it, and what tests of modules run.
MARKED = [
    pytest.param(kind, marks=() if kind == "crowded" else pytest.mark.repeats) for kind in KINDS
]


@pytest.mark.parametrize("publishes", [True, False], ids=["by the store", "by the publisher"])
@pytest.mark.parametrize("kind", MARKED)
def test_all_get_everything_in_order_once_or_are_told(settings, monkeypatch, kind, publishes):
    kind, settings.FILTERED_WEBSOCKET, limits = KINDS[kind]
    for name, value in limits.items():
        monkeypatch.setattr(lines if hasattr(lines, name) else follower, name, value)
    worlds = []
    for seed in range(SCHEDULES):
        try:
            worlds.append(simulate(seed, STEPS, publishes, kind))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    kinds = ["heard", "recovered", "told", "latest"]
    if worlds[0].sends:
        # What one client gets and another one does not.
        kinds.append("hidden")
    for happened in kinds:
        assert sum(getattr(world, happened) for world in worlds) > 0, happened


@pytest.mark.repeats
@pytest.mark.parametrize("publishes", [True, False], ids=["by the store", "by the publisher"])
def test_what_is_missing_is_asked_for_once_per_process(settings, publishes):
    """However many clients miss it; and each who comes back costs one question."""
    settings.FILTERED_WEBSOCKET = {}
    for seed in range(SCHEDULES):
        world = simulate(seed, STEPS, publishes, "def", faults=False)
        asked = sum(process.store.reads for process in world.processes)
        assert asked <= world.returns and world.gaps == 0, f"seed {seed}"
