"""Metrics into Redis: what the bus does by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoocache import _ffi
from zoocache._errors import BuiltWithout
from zoocache.telemetry.base import TelemetryAdapter


class RedisTelemetryAdapter(TelemetryAdapter):
    """Known by name, for code that installs it; a node with a Redis bus tells about itself every second anyway."""

    def __init__(self, core: Any = None, flush_interval: float = 1.0) -> None:
        if not _ffi.parts()["redis"]:
            raise BuiltWithout("zoocache was built without Redis support: RedisTelemetryAdapter is not available")

    def increment(self, name: str, value: float = 1.0, labels: dict[str, str] | None = None) -> None:
        """The bus counts."""

    def observe(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """The bus counts."""

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None) -> None:
        """The bus counts."""

    def collect(self) -> Iterable[Any]:
        """It need not be told of calls."""
        return ()

    def close(self) -> None:
        """Nothing is held."""

    def bind_core(self, core: Any) -> None:
        """Nothing to know about the cache."""
