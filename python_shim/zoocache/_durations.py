"""Durations that a user gives: what makes no sense is refused when it is given, a long one is a long one."""

from __future__ import annotations

from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

__all__ = ["check", "duration", "seconds", "shown"]

# Options of a cache that are one.
OPTIONS: Final = (
    "default_ttl", "flight_timeout", "auto_prune_secs", "auto_prune_interval", "prune_after",
    "timeout", "storage_ttl", "max_staleness", "max_stale", "bus_pause",
    "breaker_pause",
)  # fmt: skip


def seconds(name: str, value: float | None) -> float | None:
    """A duration, or none."""
    return None if value is None else duration(name, value)


def duration(name: str, value: float) -> float:
    """A duration."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more seconds, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return inf


def check(options: Mapping[str, Any]) -> None:
    """Refuses durations among the options of a cache that make no sense."""
    for name in OPTIONS:
        seconds(name, options.get(name))
    bound = options.get("max_staleness", 1)
    if bound is None or not 0.1 <= bound <= 3600:
        raise ValueError(f"max_staleness must be from 0.1 to 3600 seconds, not {shown(bound)}")


def shown(value: object) -> str:
    """As repr(), also of a number that has none."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"
