"""Hands metrics to adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zoocache.telemetry.base import LABELS, OTHER, Labels, TelemetryAdapter, TimerContext


class TelemetryManager:
    """Hands every metric to every adapter.

    An adapter that has ``collect()`` is asked for what the cache counts anyway. If all of them have, the manager is
    not enabled: no call is told of, and a hit costs what it costs without telemetry.
    """

    __slots__ = ("_adapters", "_enabled", "_failed", "_prefixes")

    def __init__(self, adapters: Sequence[TelemetryAdapter] | None = None) -> None:
        self._adapters = list(adapters or ())
        self._enabled = any(not hasattr(adapter, "collect") for adapter in self._adapters)
        self._failed: set[int] = set()
        self._prefixes: set[str] = set()

    @property
    def enabled(self) -> bool:
        """Whether there is an adapter that is to be told of each call."""
        return self._enabled

    def prefix(self, tag: str) -> str:
        """A tag as the value of a label: its first segment, of as many as a label may have."""
        first = tag.partition(":")[0]
        if len(self._prefixes) < LABELS:
            self._prefixes.add(first)
        return first if first in self._prefixes else OTHER

    def _each(self, call: Callable[[TelemetryAdapter], None]) -> None:
        for adapter in self._adapters:
            try:
                call(adapter)
            except Exception as error:
                if id(adapter) not in self._failed:
                    import logging

                    self._failed.add(id(adapter))
                    logging.getLogger("zoocache.telemetry").warning(
                        "%s has failed; this is said once: %r", type(adapter).__name__, error
                    )

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""
        self._each(lambda adapter: adapter.increment(name, value, labels))

    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Adds a sample to a histogram."""
        self._each(lambda adapter: adapter.observe(name, value, labels))

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Sets a gauge."""
        self._each(lambda adapter: adapter.set_gauge(name, value, labels))

    def time_operation(self, name: str, labels: Labels | None = None) -> TimerContext:
        """Observes how long a block takes."""
        return TimerContext(self, name, labels)

    def close(self) -> None:
        """Closes the adapters."""
        self._each(lambda adapter: adapter.close())

    def bind_core(self, core: Any) -> None:
        """Tells the adapters which cache they report on."""
        self._each(lambda adapter: adapter.bind_core(core))
