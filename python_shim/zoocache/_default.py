"""The default cache: made at its first use, as configure() has said until then."""

from __future__ import annotations

import os
import threading

from zoocache import _ffi
from zoocache._cache import Cache, CacheStats, Fill
from zoocache.context import CURRENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

    from zoocache.telemetry.manager import TelemetryManager

__all__ = [
    "cache",
    "clear",
    "clear_async",
    "configure",
    "delete",
    "get",
    "get_async",
    "get_tag_version",
    "invalidate",
    "invalidate_async",
    "no_store",
    "prune",
    "reset",
    "set",
    "set_async",
    "set_ttl",
    "stats",
    "version",
]

DEFAULTS: dict[str, Any] = {
    "storage_url": None,
    "bus_url": None,
    "prefix": None,
    "prune_after": None,
    "default_ttl": None,
    "read_extend_ttl": True,
    "max_entries": None,
    "lmdb_map_size": None,
    "flight_timeout": 60,
    "tti_flush_secs": 30,
    "auto_prune_secs": None,
    "auto_prune_interval": 3600,
    "lru_update_interval": 30,
    "channel_capacity": 1_000_000,
    "batch_size": 1000,
    "lru_cache_size": 10_000,
    "clock": None,
}


class State:
    """What configure() has said, and the cache that came of it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.config: dict[str, Any] = {}
        self.telemetry: TelemetryManager | None = None
        self.cache: Cache | None = None


state = State()

# Nobody holds the lock in the child. Registered after those of _cache: taken before theirs, as cache() does.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=state.lock.acquire, after_in_parent=state.lock.release, after_in_child=state.lock.release
    )


def cache() -> Cache:
    """The default cache, made if need be."""
    found = state.cache
    if found is None:
        with state.lock:
            found = state.cache
            if found is None:
                found = state.cache = Cache(telemetry=state.telemetry, **state.config)
                if state.telemetry is not None:
                    state.telemetry.bind_core(found)
    return found


def configure(
    storage_url: str | None = None,
    bus_url: str | None = None,
    prefix: str | None = None,
    prune_after: int | None = None,
    default_ttl: float | None = None,
    read_extend_ttl: bool = True,
    max_entries: int | None = None,
    lmdb_map_size: int | None = None,
    flight_timeout: float = 60,
    tti_flush_secs: int = 30,
    auto_prune_secs: int | None = None,
    auto_prune_interval: int = 3600,
    lru_update_interval: int = 30,
    channel_capacity: int = 1_000_000,
    batch_size: int = 1000,
    lru_cache_size: int = 10_000,
    telemetry: TelemetryManager | None = None,
    clock: Callable[[], float] | None = None,
) -> None:
    """Settings of the default cache, before it is used.

    A second call that says something else raises RuntimeError; what it leaves at its default is kept.
    The cache is made at its first use, or at once if telemetry is given: only then is a URL looked at.

    storage_url, bus_url: None is memory, in this process. prefix: of keys and channels in storages.
    default_ttl: the life of a value, in seconds, unless its function says otherwise.
    read_extend_ttl: a read begins that life anew.
    max_entries: the limit, over all functions; the least useful give way.
    flight_timeout: how long a call waits for another that computes the same.
    auto_prune_secs, auto_prune_interval: how idle a tag must be to be forgotten, how often that happens.
    clock: instead of time.monotonic, for deadlines; for tests.
    prune_after is accepted and has no effect; the rest is for storages.
    """
    given = dict(locals())
    del given["telemetry"]
    with state.lock:
        if state.config or state.cache is not None:
            old = state.config or DEFAULTS
            for name, value in given.items():
                if value == DEFAULTS[name]:
                    given[name] = old[name]
            if given != old:
                raise RuntimeError("zoocache already initialized with different settings")
        state.config = given
        if telemetry is not None and telemetry is not state.telemetry:
            previous, state.telemetry = state.telemetry, telemetry
            if previous is not None:
                previous.close()
            if state.cache is not None:
                raise RuntimeError("zoocache already initialized with different settings")
    if telemetry is not None:
        cache()


def reset() -> None:
    """Lets go of the default cache and its settings; for tests. Decorated functions find the next one."""
    with state.lock:
        old, state.cache = state.cache, None
        telemetry, state.telemetry = state.telemetry, None
        state.config = {}
    if old is not None:
        old.close()
    elif telemetry is not None:
        telemetry.close()


def get(key: str) -> Any:
    """The value under a key, or None. Takes what a decorated function's key() gives, too."""
    found = state.cache
    if found is None:
        found = cache()
    return found.get(key)


def set(key: str, value: Any, deps: Iterable[str] = (), ttl: float | None = None) -> None:
    """Stores a value under a key."""
    found = state.cache
    if found is None:
        found = cache()
    found.set(key, value, deps, ttl)


def delete(key: str) -> bool:
    """Removes a key. Returns whether it was there."""
    return cache().delete(key)


async def get_async(key: str) -> Any:
    """As get()."""
    return cache().get(key)


async def set_async(key: str, value: Any, deps: Iterable[str] = (), ttl: float | None = None) -> None:
    """As set()."""
    cache().set(key, value, deps, ttl)


def invalidate(tag: str, *more: str) -> None:
    """Whatever depends on the tag, or on a tag below it, is gone; several tags are gone in one step."""
    found = state.cache
    if found is None:
        found = cache()
    if more or found.telemetry_enabled:
        found.invalidate(tag, *more)
    else:
        found.invalidate_one(tag)


def invalidate_async(tag: str, *more: str) -> Awaitable[None]:
    """As invalidate()."""
    return cache().invalidate_async(tag, *more)


def clear() -> None:
    """Removes everything."""
    cache().clear()


async def clear_async() -> None:
    """As clear()."""
    cache().clear()


def prune(max_age_secs: float = 3600) -> None:
    """Forgets tags that nothing has depended on for so long; nothing stale comes back by it."""
    cache().prune(max_age_secs)


def get_tag_version(tag: str) -> int:
    """The version of the tag's last invalidation; 0: never."""
    return cache().tag_version(tag)


def stats() -> CacheStats:
    """The statistics of the default cache."""
    return cache().stats()


def version() -> str:
    """The version of the library inside."""
    return _ffi.library_version()


def set_ttl(ttl: float | None) -> None:
    """From inside a cached function: how long its value will live. Outside of one, does nothing."""
    from zoocache._cache import seconds

    fill = CURRENT.get()
    if isinstance(fill, Fill):
        fill.ttl = seconds("ttl", ttl)
        fill.table.ticks_for(fill.ttl)


def no_store() -> None:
    """From inside a cached function: its value is returned, not stored. Outside of one, does nothing."""
    fill = CURRENT.get()
    if isinstance(fill, Fill):
        fill.store = False
