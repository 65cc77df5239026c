"""The interface of a telemetry adapter."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

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
