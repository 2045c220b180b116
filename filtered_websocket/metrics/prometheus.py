"""
The metrics as Prometheus reads them. Needs the extra ``[metrics]``.

::

    one process         Collector reads the counters when it is asked
    several processes   each writes its values into its own files of PROMETHEUS_MULTIPROC_DIR,
                        every 2 s; who is asked reads the files of all

The files are those of prometheus-client, whose own way of several processes this is: it knows
no collectors there, only values that are written.
"""

import os
import threading
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, multiprocess, values
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as CollectorBase
from prometheus_client.utils import INF, floatToGoString

from ..observe import BOUNDS, Times, on_tick
from .access import DIRECTORY
from .families import FAMILIES, Family

#: Every so many ticks the values are written, of which there are two in a second.
TICKS = 4
#: The upper bounds of histograms as Prometheus writes them.
BUCKETS = tuple(map(floatToGoString, (*BOUNDS, INF)))
PREFIX = "fws_"


class Collector(CollectorBase):
    """The metrics of this process, for a registry of the site."""

    def describe(self) -> Iterable[Metric]:
        """Their names: a registry that knows them refuses others of the same name."""
        return [_metric(family) for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """Their values now."""
        for family in FAMILIES:
            metric = _metric(family)
            for labels, value in family.read():
                if isinstance(value, Times):
                    buckets = list(zip(BUCKETS, accumulate(value.times), strict=True))
                    metric.add_metric(labels, buckets, value.seconds)
                else:
                    metric.add_metric(labels, value)
            yield metric


def _metric(family: Family) -> Any:
    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[family.kind](family.name, family.help, labels=family.labels)


class Files:
    """The values of this process in the files that others read."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        self._ticks = 0

    def tick(self, is_last: bool) -> None:
        """Write from time to time, and at the end of a hub."""
        self._ticks += 1
        if is_last or self._ticks % TICKS == 1:
            self.write()

    def write(self) -> None:
        """Write all values of now. Any thread."""
        with self._lock:
            gone = {key for key, (kind, _) in self._values.items() if kind == "gauge"}
            for family in FAMILIES:
                for labels, value in family.read():
                    if isinstance(value, Times):
                        self._write_times(family, labels, value)
                    else:
                        gone.discard(self._write(family, family.name, labels, value))
            for key in gone:
                self._values[key][1].set(0)

    def _write_times(self, family: Family, labels: tuple[str, ...], value: Times) -> None:
        # Each bucket by itself: who reads the files adds them up.
        for bound, count in zip(BUCKETS, value.times, strict=True):
            self._write(family, f"{family.name}_bucket", (*labels, bound), count, "le")
        self._write(family, f"{family.name}_sum", labels, value.seconds)

    def _write(
        self, family: Family, name: str, labels: tuple[str, ...], value: float, *more: str
    ) -> tuple[str, ...]:
        key = name, *labels
        if key not in self._values:
            written = values.ValueClass(
                family.kind,
                family.name.removesuffix("_total"),
                name,
                (*family.labels, *more),
                labels,
                family.help,
                multiprocess_mode=family.merge,
            )
            self._values[key] = family.kind, written
        self._values[key][1].set(value)
        return key


files = Files()


def is_shared() -> bool:
    """Whether several processes show their metrics together."""
    return bool(os.environ.get(DIRECTORY))


def share() -> None:
    """Have this process write its values, while it has connections."""
    if files.tick not in on_tick:
        on_tick.append(files.tick)


class Shared(CollectorBase):
    """The metrics of this package, of all processes that write theirs."""

    def collect(self) -> Iterable[Metric]:
        """Of this process as they are now, of others as they were within 2 seconds."""
        files.write()
        directory = os.environ[DIRECTORY]
        _forget_ended(Path(directory))
        whole = multiprocess.MultiProcessCollector(None, directory)  # type: ignore[no-untyped-call]
        found: Iterable[Metric] = whole.collect()  # type: ignore[no-untyped-call]
        return [metric for metric in found if metric.name.startswith(PREFIX)]


def _forget_ended(directory: Path) -> None:
    """A process that was killed has no connections any more. What it has counted stays."""
    for pid in {path.stem.rpartition("_")[2] for path in directory.glob("gauge_live*_*.db")}:
        if pid.isdecimal() and not _runs(int(pid)):
            multiprocess.mark_process_dead(int(pid), str(directory))  # type: ignore[no-untyped-call]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def expose(accepted: str) -> tuple[bytes, str]:
    """The metrics in a format of an ``Accept`` header, and the ``Content-Type``."""
    registry = CollectorRegistry()
    registry.register(Shared() if is_shared() else Collector())
    encode, content_type = choose_encoder(accepted)
    return encode(registry), content_type
