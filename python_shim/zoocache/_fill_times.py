"""What a cache tells about itself beside its statistics, if a RedisTelemetryAdapter wants it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from zoocache._cache import Cache
    from zoocache.events import Event

__all__ = ["FILLS", "Fills"]


class Fills:
    """How long computations take: all of them, and the last ones apart; and the adapter's metrics."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}  # what the program counts itself
        self._last: deque[float] = deque(maxlen=256)

    def heard(self, event: Event) -> None:
        """A listener of a cache's events."""
        if event.elapsed is not None:
            self.count += 1
            self.seconds += event.elapsed
            self._last.append(event.elapsed)

    def as_dict(self) -> dict[str, float | None]:
        """For the facts."""
        last = sorted(self._last)
        at = [last[int(len(last) * part)] if last else None for part in (0.5, 0.99)]
        return {"count": self.count, "seconds": self.seconds, "p50": at[0], "p99": at[1]}


FILLS: WeakKeyDictionary[Cache, Fills] = WeakKeyDictionary()  # of caches that are listened to for that
