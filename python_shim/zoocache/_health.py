"""How a cache does. Only what is known in this process is looked at, so nothing waits for what does not answer."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache import _ffi

if TYPE_CHECKING:
    from zoocache._cache import Cache
    from zoocache._shared import Shared

__all__ = ["Health", "health_of"]

OK, DEGRADED, DOWN = "ok", "degraded", "down"


class Storage(NamedTuple):
    """Of the storage."""

    status: str
    breaker: str  # closed; open: it is not asked, and tried again now and then
    lost: bool  # it could not be opened
    latency: float | None  # of a look-up there, lately, in seconds
    last_error: str | None  # whatever has come since
    errors: int
    skipped: int  # calls that the breaker has spared


class Bus(NamedTuple):
    """Of the bus."""

    status: str
    age: float | None  # seconds since all was heard that had been said; None: that was never so
    max_staleness: float
    pending: int  # tags of invalidations that are still to be sent
    errors: int


class Flights(NamedTuple):
    """Of the computations that run."""

    status: str
    running: int
    oldest: float  # seconds; beyond flight_timeout another may have taken over
    function: str | None  # of the oldest


class Memory(NamedTuple):
    """Of this process."""

    status: str
    entries: int
    max_entries: int | None
    bytes: int | None  # as max_bytes counts them; None: they are not counted
    max_bytes: int | None
    tags: int
    tag_bytes: int


class Health(NamedTuple):
    """ok; degraded: something is amiss, and calls go on without it; down: calls, or invalidations, raise."""

    status: str
    checks: dict[str, Any]  # storage, bus, flights, memory: those that the cache has

    def as_dict(self) -> dict[str, Any]:
        """As a page of JSON would have it."""
        return {"status": self.status, "checks": {name: each._asdict() for name, each in self.checks.items()}}


def health_of(cache: Cache | None) -> Health:
    """How it does. None: it was not used yet, so nothing can be amiss."""
    if cache is None:
        return Health(OK, {})
    if cache.closed:
        return Health(DOWN, {})
    checks: dict[str, Any] = {}
    shared = cache.shared
    if cache.lost or (shared is not None and shared.stores):
        checks["storage"] = _storage(cache, shared)
    if shared is not None and shared.bus:
        checks["bus"] = _bus(shared)
    checks["flights"] = _flights(cache)
    _, tags, _, tag_bytes, _ = cache.core.stats()
    weight, most = getattr(cache.policy, "weight", None), getattr(cache.policy, "most", inf)
    checks["memory"] = Memory(
        OK, len(cache), cache.max_entries, weight, None if most == inf else int(most), tags, tag_bytes
    )
    worst = max((each.status for each in checks.values()), key=(OK, DEGRADED, DOWN).index)
    return Health(worst, checks)


def _storage(cache: Cache, shared: Shared | None) -> Storage:
    if shared is None or not shared.stores:
        return Storage(DEGRADED, "closed", True, None, None, 0, 0)
    found = shared.core.shared_stats()
    code, latency, is_open = found.fault, found.latency, found.epoch & 1
    return Storage(
        DEGRADED if is_open else OK,
        "open" if is_open else "closed",
        cache.lost,
        latency / 1e9 if latency else None,
        _ffi.error_text(code) if code else None,
        found.errors + found.corrupt + found.forged + found.unkeyed,
        found.skipped,
    )


def _bus(shared: Shared) -> Bus:
    from zoocache._shared import NEVER, SILENCES

    found = shared.core.shared_stats()
    age = None if found.age == NEVER else found.age / 1e9
    bound = shared.settings.max_staleness
    status = DEGRADED if found.pending and shared.troubles.met else OK
    if age is None or age > bound:
        status = DOWN if shared.settings.options["silence"] == SILENCES["error"] else DEGRADED
    return Bus(status, age, bound, found.pending, found.bus_errors)


def _flights(cache: Cache) -> Flights:
    running = [fill for table in cache.tables() for fill in list(table.flights.values())]
    if not running:
        return Flights(OK, 0, 0.0, None)
    oldest = min(running, key=lambda fill: fill.started)
    age = time.monotonic() - oldest.started
    return Flights(DEGRADED if age > cache.flight_timeout else OK, len(running), age, oldest.table.name)
