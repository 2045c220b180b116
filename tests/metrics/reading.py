"""Values of metrics, for tests."""

from filtered_websocket.metrics.families import FAMILIES
from filtered_websocket.observe import Times

BY_NAME = {family.name: family for family in FAMILIES}


def read(name):
    """Values of the labels -> the value; of a histogram, how often it was."""
    found = {}
    for labels, value in BY_NAME[name].read():
        assert labels not in found and len(labels) == len(BY_NAME[name].labels)
        found[labels] = value.runs if isinstance(value, Times) else value
    return found


class Change:
    """How much counters change: they are of the process, which runs other tests, too."""

    def __init__(self, *names):
        self._before = {name: read(name) for name in names}

    def of(self, name, *labels):
        return read(name).get(labels, 0) - self._before[name].get(labels, 0)

    def all_of(self, name):
        """Of each of its labels that has changed."""
        changed = {labels: self.of(name, *labels) for labels in read(name)}
        return {labels: count for labels, count in changed.items() if count}
