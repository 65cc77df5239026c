"""What happens in a cache, as lines of JSON that can be followed: ``Cache(on_event=EventLog())``.

A line has no argument, key or tag in it, as any of them may be a secret: in their places are the hash that key()
ends with, and hashes of the same kind.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from zoocache import _ffi

_BAD = ("failed", "fault", "breaker")


def _digest(text: str) -> str:
    return f"{_ffi.hash_bytes(text.encode('utf-8', 'surrogatepass')):016x}"


def blinded(tag: str) -> str:
    """A tag: what it is about, and a hash of all of it."""
    first, rest, _ = tag.removeprefix("|scope:").partition(":")
    return f"{first}:{_digest(tag)}" if rest else _digest(tag)


class EventLog:
    """A listener that writes each event to a logger, as a JSON object: event, function, key, tags, reason, elapsed
    (in seconds), count, time (since 1970), and correlation: what ``zoocache.correlation`` holds where it happened, or
    the running span of OpenTelemetry. What an event does not have is left out.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logger or logging.getLogger("zoocache.events")
        self._level = level

    def __call__(self, event: Any) -> None:
        """Writes a line; of what has gone wrong, as a warning."""
        level = max(self._level, logging.WARNING) if event.kind in _BAD else self._level
        if not self._logger.isEnabledFor(level):
            return
        key = event.key
        line = {
            "event": event.kind,
            "function": event.function,
            "key": key if key is None or event.function is not None else _digest(key),
            "tags": [blinded(tag) for tag in event.tags] or None,
            "reason": event.reason,
            "elapsed": event.elapsed,
            "count": event.count if event.count != 1 else None,
            "correlation": event.correlation,
            "time": time.time(),
        }
        self._logger.log(
            level, "%s", json.dumps({name: value for name, value in line.items() if value is not None}, default=str)
        )
