"""max_bytes, max_entry_bytes and weigh, which hold at every instant; max_loads, which lets so many load at once."""

import array
import asyncio
import random
import sys
import threading
from collections import deque
from dataclasses import dataclass

import pytest
from test_flights import Herd, until

import zoocache
from zoocache import Cache, Overloaded, disabled
from zoocache._limits import ByWeight, size_of
from zoocache.context import DepsTracker
from zoocache.testing import FakeClock


def weight_of(cache):
    """What it holds weighs, counted anew."""
    return sum(entry.weight for table in cache.tables() for entry in table.entries.values())


# ---- bytes -------------------------------------------------------------------------------------------


def test_bytes_hold_at_every_step():
    rand = random.Random(7)
    with Cache(max_bytes=1000, weigh=len) as cache:
        f = cache.cacheable(lambda n: "x" * n)
        for _ in range(3000):
            what = rand.random()
            if what < 0.6:
                f(rand.randint(0, 300))
            elif what < 0.8:
                cache.set(str(rand.randint(0, 20)), "y" * rand.randint(0, 1000))
            elif what < 0.9:
                cache.delete(str(rand.randint(0, 20)))
            else:
                f.invalidate(rand.randint(0, 300))
            assert weight_of(cache) == cache.stats().bytes <= 1000
        assert cache.stats().evictions > 100
        assert len(cache) == len(cache.policy)
        cache.clear()
        assert (cache.stats().bytes, len(cache)) == (0, 0)


def test_bytes_hold_in_threads():
    over = []
    with Cache(max_bytes=500, weigh=len) as cache:
        f = cache.cacheable(lambda n: "x" * (n % 200))

        def work(seed):
            rand = random.Random(seed)
            for _ in range(400):
                f(rand.randint(0, 400))
                with cache.lock:
                    if cache.policy.weight > 500 or weight_of(cache) != cache.policy.weight:
                        over.append(cache.policy.weight)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not over


def test_both_limits():
    with Cache(max_bytes=100, max_entries=3, weigh=len) as cache:
        for n in range(10):
            cache.set(str(n), "x")
        assert (len(cache), cache.stats().bytes) == (3, 3)
        cache.set("large", "x" * 99)
        assert (len(cache), cache.stats().bytes, cache.get("large")) == (2, 100, "x" * 99)


def test_what_is_read_again_stays():
    with Cache(max_bytes=100, weigh=lambda value: 10) as cache:
        f = cache.cacheable(lambda x: x)
        for x in range(5):
            f(x), f(x)
        for x in range(100, 200):
            f(x)
        assert sum(f.explain(x).there for x in range(5)) == 5, "those that were asked for once gave way"
        assert len(cache) == 10


def test_those_that_left_are_not_remembered_for_ever():
    with Cache(max_bytes=100, weigh=lambda value: 10) as cache:
        f = cache.cacheable(lambda x: x)
        for x in range(1000):
            f(x)
        assert len(cache.policy.ghosts) <= 10


def test_too_large_is_returned_not_stored():
    with Cache(max_entry_bytes=5, weigh=len) as cache:
        f = cache.cacheable(lambda n: "x" * n)
        assert [f(6), f(6), f(5), f(5)] == ["x" * 6, "x" * 6, "x" * 5, "x" * 5]
        assert f.cache_info()[:2] == (1, 3)
        cache.set("k", "small")
        cache.set("k", "larger")
        assert cache.get("k") is None, "and what was there before is not what it was to be"
        assert cache.stats().refused == 2
    with Cache(max_bytes=5, weigh=len) as cache:
        cache.set("k", "larger")
        assert (cache.get("k"), len(cache)) == (None, 0)
    with Cache(max_bytes=5, max_entry_bytes=50, weigh=len) as cache:
        cache.set("k", "larger")
        assert cache.get("k") is None


def test_an_estimate():
    with Cache(max_bytes=100_000) as cache:
        for n in range(100):
            cache.set(str(n), ["x" * 1000, {"n": n}])
        assert 30 <= len(cache) <= 90
        assert 90_000 < cache.stats().bytes <= 100_000


@dataclass
class Plain:
    text: str


class Slotted:
    __slots__ = ("__dict__", "text")

    def __init__(self, text):
        self.text = text


class Hostile:
    def __getattr__(self, name):
        raise AssertionError(name)


BIG = "x" * 100_000


@pytest.mark.parametrize(
    "value",
    [BIG, [BIG], (BIG,), {BIG}, frozenset([BIG]), {BIG: 1}, {1: BIG}, deque([BIG]), Plain(BIG), Slotted(BIG)]
    + [[[{"a": (BIG,)}]], bytearray(100_000), array.array("b", bytes(100_000)), memoryview(bytes(100_000))],
)
def test_what_is_in_a_value_counts_once(value):
    size = size_of(value)
    assert 100_000 <= size <= 110_000
    assert size_of([value, value]) < size + 200


def test_what_does_not_count():
    assert size_of(sys) == size_of(int) == size_of(len) == 0
    assert size_of(Hostile()) < 600
    ring = []
    ring.append(ring)
    assert size_of(ring) < 200


def test_arrays_and_their_views():
    numpy = pytest.importorskip("numpy")
    whole = numpy.zeros(100_000, dtype="u1")
    assert 100_000 <= size_of(whole) < 101_000
    assert 100_000 <= size_of(whole[:]) < 101_000


def test_errors_and_none_are_not_weighed_by_the_user():
    with Cache(max_bytes=10_000, weigh=len) as cache:
        f = cache.cacheable(cache_errors=LookupError)(lambda x: {}[x] if x else None)
        for x in (0, 1, 0, 1):
            if x:
                with pytest.raises(KeyError):
                    f(x)
            else:
                assert f(x) is None
        assert f.cache_info()[:2] == (2, 2)
        assert cache.stats().bytes > 400


@pytest.mark.parametrize("weigh", [lambda value: -1, lambda value: 1.5, lambda value: None, lambda value: 1 / 0])
def test_a_weigher_that_fails(weigh):
    with Cache(max_bytes=10, weigh=weigh) as cache:
        f = cache.cacheable(lambda: "x")
        for _ in range(2):
            with pytest.raises((ValueError, ZeroDivisionError)):
                f()
        assert (len(cache), cache.stats().bytes, cache.stats().flights) == (0, 0, 0)


@pytest.mark.parametrize("name", ["max_entries", "max_bytes", "max_entry_bytes", "max_loads"])
def test_no_room_at_all(name):
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be >= 1"):
            Cache(**{name: number})
    with pytest.raises(TypeError):
        Cache(max_bytes=5, weigh=3)


def test_the_weigher_is_called_without_a_lock():
    with Cache(max_bytes=100, weigh=lambda value: held.append(cache.lock._is_owned()) or 1) as cache:
        held = []
        cache.cacheable(lambda: 1)()
        cache.set("a", 1)
        assert held == [False, False]


def test_a_policy_alone():
    policy = ByWeight(10, 100)
    assert (len(policy), policy.weight) == (0, 0)


# ---- loaders -----------------------------------------------------------------------------------------


class Loaders:
    """A cached function, whose runs wait inside; how many there were at once."""

    def __init__(self, cache, **options):
        self.now = self.most = 0
        self.order = []
        self.lock = threading.Lock()
        self.go = threading.Semaphore(0)

        @cache.cacheable(**options)
        def f(x):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
                self.order.append(x)
            assert self.go.acquire(timeout=30)
            with self.lock:
                self.now -= 1
            return x

        self.f = f


def test_so_many_at_once():
    with Cache(max_loads=2) as cache:
        loaders = Loaders(cache)
        herds = []
        for x in range(6):
            herds.append(Herd(loaders.f, 1, x))
            until(lambda n=x: len(loaders.order) + len(cache.loads.line) == n + 1)
        assert (loaders.now, len(cache.loads.line)) == (2, 4)
        for _ in range(6):
            loaders.go.release()
        assert [herd.join() for herd in herds] == [[x] for x in range(6)]
        assert loaders.most == 2
        assert (len(cache.loads.inside), len(cache.loads.line)) == (0, 0)


def test_in_the_order_they_came():
    with Cache(max_loads=1) as cache:
        loaders = Loaders(cache)
        herds = []
        for x in range(5):
            herds.append(Herd(loaders.f, 1, x))
            until(lambda n=x: len(loaders.order) + len(cache.loads.line) == n + 1)
        for _ in range(5):
            loaders.go.release()
        for herd in herds:
            herd.join()
        assert loaders.order == [0, 1, 2, 3, 4]


def test_hits_and_who_waits_for_the_same_need_no_place():
    with Cache(max_loads=1) as cache:
        loaders = Loaders(cache)
        loaders.go.release()
        loaders.f(0)
        herd = Herd(loaders.f, 3, 1)
        until(lambda: cache.stats().waits == 2)
        assert loaders.f(0) == 0
        assert len(cache.loads.line) == 0
        loaders.go.release()
        assert herd.join() == [1, 1, 1]


def test_what_a_loader_calls_is_a_part_of_it():
    with Cache(max_loads=1, flight_timeout=0.1) as cache:
        inner = cache.cacheable(lambda x: x + 1)

        @cache.cacheable
        def outer(x):
            with DepsTracker():
                return inner(x) + inner(x + 5)

        assert outer(1) == 9


def test_overloaded():
    with Cache(max_loads=1, flight_timeout=0.05) as cache:
        loaders = Loaders(cache)
        herd = Herd(loaders.f, 1, 1)
        until(lambda: loaders.now == 1)
        with pytest.raises(Overloaded, match="max_loads"):
            loaders.f(2)
        assert loaders.order == [1]
        assert cache.stats().flights == 1, "no flight is left"
        loaders.go.release()
        assert herd.join() == [1]
        loaders.go.release()
        assert loaders.f(2) == 2


def test_what_is_stale_if_that_is_allowed():
    clock = FakeClock()
    with Cache(max_loads=1, clock=clock) as cache:
        loaders = Loaders(cache)
        runs = []

        @cache.cacheable(ttl=10, tti=10, stale_if_error=100, copy="copy")
        def old(x):
            runs.append(x)
            return [len(runs)]

        assert old(1) == [1]
        clock.advance(11)
        herd = Herd(loaders.f, 1, 1)
        until(lambda: loaders.now == 1)
        old(1).append(5)
        assert old(1) == [1], "at once, and a copy"
        loaders.go.release()
        herd.join()
        clock.advance(2)
        assert old(1) == [2]


def test_a_refresh_beside_waits_for_nobody():
    clock = FakeClock()
    with Cache(max_loads=1, clock=clock) as cache:
        loaders = Loaders(cache)
        runs = []
        soft = cache.cacheable(soft_ttl=5)(lambda: runs.append(1) or len(runs))
        soft()
        clock.advance(6)
        herd = Herd(loaders.f, 1, 1)
        until(lambda: loaders.now == 1)
        assert [soft(), soft()] == [1, 1]
        assert cache.stats().refreshes == 0
        loaders.go.release()
        herd.join()
        clock.advance(1)
        soft()
        until(lambda: soft() == 2)


def test_a_loader_that_fails_gives_its_place_back():
    with Cache(max_loads=1, flight_timeout=0.1) as cache:
        f = cache.cacheable(lambda x: 1 // x)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                f(0)
        assert f(1) == 1
        assert not cache.loads.inside


def test_while_disabled():
    with Cache(max_loads=1, flight_timeout=0.05) as cache:
        loaders = Loaders(cache)
        herd = Herd(loaders.f, 1, 1)
        until(lambda: loaders.now == 1)
        with disabled(), pytest.raises(Overloaded):
            loaders.f(1)
        loaders.go.release()
        herd.join()


def test_the_default_cache():
    zoocache.configure(max_loads=1, max_bytes=10_000)
    f = zoocache.cacheable(lambda x: x)
    assert [f(1), f(2), zoocache.stats().bytes > 0] == [1, 2, True]


def test_coroutines():
    with Cache(max_loads=2) as cache:
        now = most = 0
        go = asyncio.Semaphore(0)

        @cache.cacheable
        async def f(x):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await go.acquire()
            now -= 1
            return x

        async def main():
            tasks = [asyncio.ensure_future(f(x)) for x in range(6)]
            while len(cache.loads.line) < 4:
                await asyncio.sleep(0)
            tasks[5].cancel()
            await asyncio.wait([tasks[5]])
            assert len(cache.loads.line) == 3, "who is cancelled leaves the line"
            for _ in range(5):
                go.release()
            return await asyncio.gather(*tasks[:5])

        assert asyncio.run(main()) == [0, 1, 2, 3, 4]
        assert most == 2
        assert not cache.loads.inside


def test_a_coroutine_is_overloaded():
    with Cache(max_loads=1, flight_timeout=0.05) as cache:

        @cache.cacheable
        async def f(x):
            if x == 1:
                await go.wait()
            return x

        async def main():
            nonlocal go
            go = asyncio.Event()
            first = asyncio.ensure_future(f(1))
            while not cache.loads.inside:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await f(2)
            go.set()
            return await first, await f(2)

        go = None
        assert asyncio.run(main()) == (1, 2)


def test_the_place_of_a_closed_loop():
    with Cache(max_loads=1, flight_timeout=30) as cache:

        @cache.cacheable
        async def f(x):
            if x == 1:
                await asyncio.Event().wait()
            return x

        loop = asyncio.new_event_loop()
        kept = loop.create_task(f(1))
        kept._log_destroy_pending = False
        loop.run_until_complete(asyncio.sleep(0))
        assert cache.loads.inside
        loop.close()
        assert asyncio.run(f(2)) == 2
        kept.get_coro().close()
