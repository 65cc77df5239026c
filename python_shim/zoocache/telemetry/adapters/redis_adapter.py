"""Metrics into Redis: a node with a Redis bus tells about itself every second anyway; this adds how long loads take,
and what the program counts by its TelemetryManager.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from zoocache import _ffi
from zoocache._errors import BuiltWithout
from zoocache.telemetry.base import OTHER, TelemetryAdapter

_NAMES = 200  # that are told; what comes then is OTHER


class RedisTelemetryAdapter(TelemetryAdapter):
    """What the node tells about itself has the latencies of computations, too: see zoocache.monitor.

    And under "metrics" what was given to increment(), observe() (a sum and a count) and set_gauge(), in any thread.

    core: a cache to report on, if it is not given to one. flush_interval: accepted; it is a second. Hits cost nothing.
    """

    def __init__(self, core: Any = None, flush_interval: float = 1.0) -> None:
        if not _ffi.parts()["redis"]:
            raise BuiltWithout("zoocache was built without Redis support: RedisTelemetryAdapter is not available")
        self._lock = Lock()
        self._counters: defaultdict[str, float] = defaultdict(float)
        self.core: Any = None
        if core is not None:
            self.bind_core(core)

    def _build_metric_name(self, name: str, labels: dict[str, str] | None) -> str:
        """The name, and each label with its value, in the order of their names."""
        full = "_".join([name, *(f"{label}={value}" for label, value in sorted((labels or {}).items()))])
        return full if full in self._counters or len(self._counters) < _NAMES else OTHER

    def increment(self, name: str, value: float = 1.0, labels: dict[str, str] | None = None) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counters[self._build_metric_name(name, labels)] += value

    def observe(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """Adds a sample: to the sum of them, and to their number."""
        self.increment(f"{name}_sum", value, labels)
        self.increment(f"{name}_count", 1.0, labels)

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """Sets a gauge."""
        with self._lock:
            self._counters[self._build_metric_name(name, labels)] = value

    def collect(self) -> Iterable[Any]:
        """The cache counts: it need not be told of calls."""
        return ()

    def close(self) -> None:
        """Nothing is held."""

    def bind_core(self, core: Any) -> None:
        """Listens to the computations of this cache."""
        self.core = core
        from zoocache._fill_times import FILLS, Fills

        if core not in FILLS:
            FILLS[core] = Fills()
            core.listen(FILLS[core].heard)
        FILLS[core].metrics = self._counters
