"""Every duration that can be given: a long one is a long one, nonsense is refused when it is given."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from math import inf, nan

import pytest
from shelf import Shelf

import zoocache
from zoocache import Cache, cacheable, configure
from zoocache.testing import FakeClock

HUGE = 10**400
LONG = [1e10, 1e308, inf, HUGE, 10**5000]
NONSENSE = [nan, -1, -0.001, -inf, -HUGE, -(10**5000)]
OTHER = ["5", Decimal(5), timedelta(seconds=5), True, [5], 5j]

RULES = ["ttl", "tti", "soft_ttl", "stale_if_error", "negative_ttl", "error_ttl", "early_refresh"]
OPTIONS = [
    "default_ttl", "flight_timeout", "auto_prune_secs", "auto_prune_interval", "prune_after", "timeout",
    "storage_ttl", "max_stale", "bus_pause",
]  # fmt: skip


class Dated(Shelf):
    """A storage that remembers until when it was to keep something."""

    def __init__(self):
        super().__init__()
        self.expires = {}

    def put(self, key, record, expires):
        super().put(key, record, expires)
        self.expires[key] = expires


def refused(call, name):
    for value in NONSENSE:
        with pytest.raises(ValueError, match=name):
            call(value)
    for value in OTHER:
        with pytest.raises(TypeError, match=name):
            call(value)


@pytest.mark.parametrize("name", RULES)
def test_rules(name, kit):
    refused(lambda value: cacheable(**{name: value}), name)
    for value in LONG:
        calls = []

        @cacheable(**{"cache_errors": KeyError, name: value})
        def f(x):
            calls.append(x)
            if x == 1:
                raise KeyError(x)
            return None if x == 2 else x

        for _ in range(3):
            assert (f(0), f(2)) == (0, None)
            with pytest.raises(KeyError):
                f(1)
            if name != "early_refresh":
                kit.clock.advance(1e9)
        if name != "early_refresh":  # that one refreshes at every hit
            assert len(calls) == 3


def test_jitter_of_a_long_life():
    refused(lambda value: cacheable(jitter=value), "jitter")
    for value in (1.5, HUGE, 10**5000):
        with pytest.raises(ValueError, match="jitter"):
            cacheable(jitter=value)
    f = cacheable(ttl=HUGE, jitter=1)(lambda x: [x])
    assert f(1) is f(1)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_cache(name):
    refused(lambda value: Cache(**{name: value}), name)
    refused(lambda value: Cache(storage=Dated(), **{name: value}), name)
    refused(lambda value: configure(**{name: value}), name)
    for value in LONG:
        for storage in (None, Dated()):
            with Cache(storage=storage, **{name: value}) as cache:
                f = cache.cacheable(lambda x: [x])
                assert f(1) is f(1)
                cache.prune(0)


def test_max_staleness():
    refused(lambda value: Cache(max_staleness=value), "max_staleness")
    refused(lambda value: configure(max_staleness=value), "max_staleness")
    for value in [None, 0, *LONG]:
        with pytest.raises((ValueError, TypeError), match="max_staleness"):
            Cache(max_staleness=value)


def test_lives_from_inside_and_by_key(kit):
    refused(lambda value: zoocache.set("k", 1, ttl=value), "ttl")
    refused(lambda value: asyncio.run(zoocache.set_async("k", 1, ttl=value)), "ttl")
    for value in LONG:
        zoocache.set("k", 1, ttl=value)

        @cacheable
        def f(x):
            zoocache.set_ttl(value)
            return [x]

        first = f(1)
        kit.clock.advance(1e9)
        assert zoocache.get("k") == 1
        assert f(1) is first

    @cacheable
    def g(x):
        zoocache.set_ttl(x)

    for value in (-1, -HUGE):
        with pytest.raises(ValueError, match="ttl"):
            g(value)


def test_waits():
    with Cache() as cache:
        refused(lambda value: cache.catch_up(0, value), "timeout")
        refused(cache.prune, "max_age_secs")
        for value in LONG:
            cache.catch_up(cache.token(), value)
            cache.prune(value)
        for call in (lambda: cache.catch_up(0, None), lambda: cache.prune(None)):
            with pytest.raises(TypeError, match="must be a number of seconds"):
                call()
    with pytest.raises(ValueError, match="step back"):
        FakeClock().advance(nan)


def test_what_cannot_be_is_refused_before_a_storage_is_opened():
    class Watched(Dated):
        def clear(self):
            raise AssertionError("opened")

    for name in OPTIONS:
        with pytest.raises(ValueError, match=name):
            Cache(storage=Watched(), **{name: -1})


@pytest.mark.parametrize("name", ["ttl", "tti"])
def test_a_long_life_in_a_storage(name):
    for value in LONG:
        shelf = Dated()
        with Cache(storage=shelf) as cache:
            f = cache.cacheable(namespace="long", **{name: value})(lambda x: 10**5000)
            assert f(1) == f(1) == 10**5000
            cache.set("k", 1, ttl=value)
        assert len(shelf.records) == 2
        assert all(end is None or end > 4e9 for end in shelf.expires.values())


def test_numbers_too_long_for_a_text():
    with Cache(storage=Dated()) as cache:
        f = cache.cacheable(namespace="digits")(lambda x: [x])
        huge = 10**5000
        assert f(huge) is f(huge)
        assert f(-huge) is not f(huge)
        assert f.key(huge) != f.key(huge + 1)
        assert cache.get(f.key(huge)) == [huge]
        assert f.invalidate(huge)
