"""The interface of a telemetry adapter."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from zoocache.telemetry.manager import TelemetryManager

Labels = dict[str, str]

LABELS = 100  # values of a label; what comes then is
OTHER = "other"


class TelemetryAdapter(ABC):
    """Where metrics go. What an adapter raises is logged once, and never reaches a cached call.

    One that has a method ``collect`` is expected to ask the cache itself, when its metrics are wanted.
    """

    @abstractmethod
    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""

    @abstractmethod
    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Adds a sample to a histogram."""

    @abstractmethod
    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Sets a gauge."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of whatever it holds."""

    @abstractmethod
    def bind_core(self, core: Any) -> None:
        """Is told which cache it reports on."""


class AskingAdapter(TelemetryAdapter):
    """One that asks its caches when its metrics are wanted, so that a call costs what it costs without it.

    Several caches with one adapter are summed. It is told of computations alone.
    """

    LEVELS = ("entries", "flights", "tags", "tag_bytes", "bytes", "holds", "bus_pending", "storage_down")
    REASONS = ("absent", "expired", "invalidated")  # of misses
    _TOLD = frozenset(f"cache_{name}_total" for name in ("hits", "misses", "errors", "invalidations"))

    def __init__(self) -> None:
        self._caches: WeakSet[Any] = WeakSet()

    @abstractmethod
    def collect(self) -> Any:
        """What the caches have counted until now, in the form that is wanted."""

    @abstractmethod
    def filled(self, elapsed: float) -> None:
        """A computation took so many seconds."""

    def bind_core(self, core: Any) -> None:
        """Reports on this cache, too."""
        if core not in self._caches:
            self._caches.add(core)
            core.listen(self._heard)

    def _heard(self, event: Any) -> None:
        if event.elapsed is not None:
            self.filled(event.elapsed)

    def totals(self) -> dict[str, int]:
        """Each statistic, summed over the caches; nothing without any."""
        snapshots = [cache.stats() for cache in list(self._caches)]
        names = snapshots[0]._fields if snapshots else ()
        return {name: sum(getattr(each, name) for each in snapshots) for name in names}

    def _counted(self, name: str) -> bool:
        """Whether it asks for that itself, and is told by a cache that has another adapter, too."""
        return name in self._TOLD and len(self._caches) > 0


class TimerContext:
    """Observes how long its block took, in seconds."""

    __slots__ = ("_labels", "_manager", "_name", "_start")

    def __init__(self, manager: TelemetryManager, name: str, labels: Labels | None = None) -> None:
        self._manager = manager
        self._name = name
        self._labels = labels
        self._start: float | None = None

    def __enter__(self) -> TimerContext:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._start is not None:
            self._manager.observe(self._name, time.perf_counter() - self._start, self._labels)
