"""Metrics into Redis: part of the Redis bus."""

from __future__ import annotations

from typing import Any

from zoocache._errors import BuiltWithout


class RedisTelemetryAdapter:
    """Known by name; the Redis bus that it reports through is not part of this build."""

    def __init__(self, core: Any = None, flush_interval: float = 1.0) -> None:
        raise BuiltWithout("zoocache was built without Redis support: RedisTelemetryAdapter is not available")
