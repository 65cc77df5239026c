"""Metrics into Redis: a node with a Redis bus tells about itself every second anyway; this adds how long loads take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoocache import _ffi
from zoocache._errors import BuiltWithout
from zoocache.telemetry.base import TelemetryAdapter


class RedisTelemetryAdapter(TelemetryAdapter):
    """What the node tells about itself has the latencies of computations, too: see zoocache.monitor.

    core: a cache to report on, if it is not given to one. flush_interval: accepted; it is a second. Hits cost nothing.
    """

    def __init__(self, core: Any = None, flush_interval: float = 1.0) -> None:
        if not _ffi.parts()["redis"]:
            raise BuiltWithout("zoocache was built without Redis support: RedisTelemetryAdapter is not available")
        self.core: Any = None
        if core is not None:
            self.bind_core(core)

    def increment(self, name: str, value: float = 1.0, labels: dict[str, str] | None = None) -> None:
        """The cache counts."""

    def observe(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """The cache counts."""

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """The cache counts."""

    def collect(self) -> Iterable[Any]:
        """It need not be told of calls."""
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
