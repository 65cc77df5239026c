"""Metrics of the cache, and where they go."""

from zoocache.telemetry.adapters.logs import LogAdapter
from zoocache.telemetry.base import TelemetryAdapter, TimerContext
from zoocache.telemetry.eventlog import EventLog
from zoocache.telemetry.manager import TelemetryManager

__all__ = ["EventLog", "LogAdapter", "TelemetryAdapter", "TelemetryManager", "TimerContext"]
