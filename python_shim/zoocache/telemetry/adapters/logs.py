"""Metrics into the log."""

from __future__ import annotations

import json
import logging
from typing import Any

from zoocache.telemetry.base import Labels, TelemetryAdapter


class LogAdapter(TelemetryAdapter):
    """Writes each metric as a line of text, or of JSON."""

    def __init__(
        self,
        logger: logging.Logger | None = None,
        name: str = "zoocache.telemetry",
        level: int | str = logging.INFO,
        format_json: bool = False,
    ) -> None:
        self._logger = logger or logging.getLogger(name)
        self._level = logging.getLevelName(level.upper()) if isinstance(level, str) else level
        self._format_json = format_json

    def _write(self, kind: str, name: str, value: float, labels: Labels | None) -> None:
        if not self._logger.isEnabledFor(self._level):
            return
        if self._format_json:
            record = {"telemetry_type": kind, "metric_name": name, "value": value, "labels": labels or {}}
            self._logger.log(self._level, json.dumps(record))
        else:
            self._logger.log(self._level, "[%s] %s: %s%s", kind.upper(), name, value, f" {labels}" if labels else "")

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Logs an addition to a counter."""
        self._write("increment", name, value, labels)

    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Logs a sample."""
        self._write("observe", name, value, labels)

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Logs a gauge."""
        self._write("gauge", name, value, labels)

    def close(self) -> None:
        """Nothing to let go of."""

    def bind_core(self, core: Any) -> None:
        """Logs need not know the cache."""
