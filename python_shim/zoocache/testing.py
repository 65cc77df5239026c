"""For tests of code that uses the cache: a clock to turn by hand, and a cache that nobody else sees.

With pytest, the fixture ``zoocache_isolated`` (see _pytest) is there by itself:

    def test_expiry(zoocache_isolated):
        assert price(7) == 10
        zoocache_isolated.clock.advance(3600)
        assert price(7) == 11
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoocache._cache import Cache, CacheStats

__all__ = ["FakeClock", "Isolated", "isolated"]


class FakeClock:
    """A clock for Cache(clock=...) and configure(clock=...): it stands until it is advanced."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Lets time pass: the very next call sees it."""
        from zoocache import _ffi

        if seconds < 0:
            raise ValueError("time does not step back")
        self.now += seconds
        _ffi.change()


class Isolated:
    """What a test needs: the clock, and the default cache as it is for this test."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    @property
    def cache(self) -> Cache:
        """The default cache."""
        from zoocache import _default

        return _default.cache()

    @property
    def stats(self) -> CacheStats:
        """Its statistics."""
        return self.cache.stats()


@contextmanager
def isolated(**settings: Any) -> Iterator[Isolated]:
    """A fresh default cache with a fake clock, and with these settings. Afterwards the settings from before
    are in place again; the values from before are gone.
    """
    from zoocache import _default

    before = dict(_default.state.config)
    _default.reset()
    clock = settings.pop("clock", None) or FakeClock()
    _default.configure(clock=clock, **settings)
    try:
        yield Isolated(clock)
    finally:
        _default.reset()
        if before:
            _default.configure(**before)
