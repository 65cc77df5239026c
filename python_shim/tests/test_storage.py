import datetime
import decimal
import functools
import gc
import importlib.util
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

import pytest
from servers import until
from shelf import evict

import zoocache
from zoocache import Cache, StorageIsFull, _ffi_shared, storage
from zoocache.storage import Storage, time_left
from zoocache.testing import FakeClock, StorageConformance

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "python" / "file_storage.py"


def example():
    if "file_storage" not in sys.modules:
        spec = importlib.util.spec_from_file_location("file_storage", EXAMPLE)
        sys.modules["file_storage"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["file_storage"])
    return sys.modules["file_storage"]


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="not in the checkout")
class TestFileStorage(StorageConformance):
    def open(self, path):
        return example().FileStorage(path)

    def test_a_torn_journal(self, tmp_path):
        storage = self.open(tmp_path)
        storage.tag_put([b"a"], 5)
        generation = storage.generation()[0]
        storage.close()
        with open(tmp_path / "journal", "ab") as fh:
            fh.write(b"torn")
        storage = self.open(tmp_path)
        assert (storage.generation(), storage.tag_get([b"a"])) == ((generation, 5), [5])
        storage.close()


class Shelf(Storage):
    """Records in a dict; fails as it is told."""

    def __init__(self):
        self.records = {}
        self.error = None
        self.closed = 0
        self.calls = []

    def work(self, name):
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def get(self, key):
        self.work("get")
        return self.records.get(key)

    def put(self, key, record, expires):
        self.work("put")
        self.records[key] = record

    def delete(self, key):
        self.work("delete")
        self.records.pop(key, None)

    def clear(self):
        self.work("clear")
        self.records.clear()

    def close(self):
        self.closed += 1


class TestShelf(StorageConformance):
    def open(self, path):
        return Shelf()


def test_closing_closes_it_once():
    shelf = Shelf()
    cache = Cache(storage=shelf)
    cache.set("k", 1, ["a"])
    cache.close()
    cache.close()
    assert shelf.closed == 1


def test_a_cache_that_is_dropped_closes_it():
    shelf = Shelf()
    cache = Cache(storage=shelf)
    cache.set("k", 1, ["a"])
    del cache
    gc.collect()
    end = time.monotonic() + 20
    while not shelf.closed and time.monotonic() < end:
        time.sleep(0.01)
    assert shelf.closed == 1


@pytest.mark.parametrize("error", [OSError("down"), StorageIsFull("full"), TimeoutError(), KeyboardInterrupt()])
def test_faults_do_not_reach_the_caller(error, caplog):
    caplog.set_level(logging.CRITICAL, "zoocache")
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        calls = []

        @cache.cacheable(namespace="n", deps=lambda x: [f"t:{x}"])
        def f(x):
            calls.append(x)
            return (x, len(calls))

        shelf.error = error
        first = f(1)
        assert f(1) == first
        if isinstance(error, StorageIsFull):
            with pytest.raises(StorageIsFull, match="The storage is full"):
                cache.set("k", 5)
        else:
            cache.set("k", 5)
        assert cache.get("k") == 5, "it is in memory"
        evict(cache)
        cache.get("k")
        cache.invalidate("t:1")
        assert f(1) > first
        cache.delete("k")
        cache.clear()
        assert f(1)[1] == len(calls)
        assert cache.stats().storage_errors > 0


@pytest.mark.parametrize(("options", "failures"), [({}, 3), ({"breaker_failures": 1}, 1), ({"breaker_failures": 5}, 5)])
def test_the_breaker_has_settings(options, failures):
    shelf = Shelf()
    with Cache(storage=shelf, breaker_pause=3600, **options) as cache:
        f = cache.cacheable(lambda x: x, namespace="f", cache_if=lambda x: False)
        shelf.error = OSError()
        for n in range(failures):
            assert cache.stats().storage_down == 0
            f(n)
        assert cache.stats().storage_down == 1
        shelf.calls.clear()
        shelf.error = None
        for n in range(10):
            f(n)
        assert shelf.calls == [], "for an hour"


class Gate(Shelf):
    """Whose calls do not end before they are let."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.inside = self.most = 0
        self.open = threading.Event()
        self.open.set()

    def work(self, name):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.open.wait(60)
        with self.lock:
            self.inside -= 1


def test_so_many_calls_at_once():
    gate = Gate()
    with Cache(storage=gate, connections=2, timeout=60) as cache:
        f = cache.cacheable(lambda x: x, namespace="f")
        gate.open.clear()
        with ThreadPoolExecutor(6) as pool:
            results = [pool.submit(f, n) for n in range(6)]
            until(lambda: gate.inside == 2 and cache.stats().flights == 6)
            gate.open.set()
            assert [result.result() for result in results] == list(range(6))
        assert gate.most == 2
        assert cache.stats().storage_errors == 0
        evict(cache)
        assert [f(n) for n in range(6)] == list(range(6))
        assert cache.stats().hits_storage == 6, "each was written when there was room"


def test_who_finds_no_room_in_time_is_no_failure_of_the_storage():
    gate = Gate()
    with Cache(storage=gate, connections=1, timeout=0.01, breaker_failures=1) as cache:
        f = cache.cacheable(lambda x: x, namespace="f")
        gate.open.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(cache.set, "k", 1)
            until(lambda: gate.inside == 1)
            assert f(2) == 2
            gate.open.set()
            first.result()
        assert gate.most == 1
        assert cache.stats().storage_down == 0
        assert cache.stats().storage_errors > 0
        f(3)
        evict(cache)
        assert f(3) == 3
        assert cache.stats().hits_storage == 1


def test_a_call_out_of_a_call_has_its_place():
    """A storage may use the cache that uses it."""

    class Inward(Shelf):
        def get(self, key):
            if key and not self.calls:
                self.calls.append("in")
                assert f(2) == 2
            return super().get(key)

    shelf = Inward()
    with Cache(storage=shelf, connections=1, timeout=60) as cache:
        f = cache.cacheable(lambda x: x, namespace="f")
        shelf.calls.clear()
        assert f(1) == 1
        assert shelf.calls.count("in") == 1
        assert cache.stats().storage_errors == 0


def test_the_deadline_follows_the_latency(monkeypatch):
    now, takes, seen = [1000.0], [0.1], []
    for module in (storage, _ffi_shared):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

    class Slow(Shelf):
        def get(self, key):
            seen.append(time_left())
            now[0] += takes[0]
            assert time_left() == pytest.approx(max(0, seen[-1] - takes[0]))

    with Cache(storage=Slow(), timeout=8) as cache:
        f = cache.cacheable(lambda x: x, namespace="f", cache_if=lambda x: False)
        assert time_left() == inf
        for n in range(100):
            f(n)
        assert seen[0] == 8, "nothing is known yet"
        assert seen[-1] == 2, "a quarter, and not less"
        assert sorted(seen, reverse=True) == seen
        takes[0] = 0.3
        for n in range(100):
            f(n)
        assert seen[-1] == pytest.approx(16 * 0.3, rel=0.01)
        takes[0] = 3
        for n in range(20):
            f(n)
        assert seen[-1] == 8


@pytest.mark.parametrize(("timeout", "down"), [(None, 0), (2, 1), (3, 0)])
def test_an_answer_that_comes_after_the_time_out_is_none(monkeypatch, timeout, down):
    """Else a storage that hangs, and knows no time-outs, would be waited for at each call."""
    now = [1000.0]
    monkeypatch.setattr(_ffi_shared, "monotonic", lambda: now[0])

    class Hanging(Shelf):
        def get(self, key):
            now[0] += 3
            return super().get(key)

    shelf = Hanging()
    with Cache(storage=shelf, timeout=timeout, breaker_pause=3600) as cache:
        f = cache.cacheable(lambda x: x, namespace="f")
        assert [f(1), f(2), f(3)] == [1, 2, 3]
        assert shelf.calls.count("get") == (1 if down else 3)
        assert cache.stats().storage_down == down


def test_the_breaker_spares_it(caplog):
    caplog.set_level(logging.CRITICAL, "zoocache")
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        shelf.error = TimeoutError()
        f = cache.cacheable(namespace="n")(lambda x: x)
        f(0)
        before = len(shelf.calls)
        for x in range(50):
            f(x + 1)
        assert len(shelf.calls) - before <= 5
        assert cache.stats().storage_skipped >= 50
        shelf.error = None
        end = time.monotonic() + 20
        while not shelf.records and time.monotonic() < end:
            x += 1
            f(x + 1)
            time.sleep(0.02)
        assert shelf.records, "it is tried again"


def test_bad_storages(caplog):
    caplog.set_level(logging.CRITICAL, "zoocache")

    class Bad(Shelf):
        def get(self, key):
            return "text"

    with Cache(storage=Bad()) as cache:
        f = cache.cacheable(namespace="n")(lambda x: [x])
        assert f(1) == [1]
        assert cache.stats().storage_errors > 0

    class Broken(Shelf):
        def clear(self):
            raise OSError

    with Cache(storage=Broken()) as cache:
        assert cache.stats().storage_down == 1
        cache.set("k", 1)
        assert cache.get("k") == 1, "kept in memory alone"
    with pytest.raises(TypeError):
        Storage()
    with pytest.raises(ValueError, match="not both"):
        Cache(storage=Shelf(), storage_url="lmdb:///x")


def test_hostile_records():
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        f = cache.cacheable(namespace="n")(lambda x: [x, "value"])
        f(1)
        record = next(iter(shelf.records.values()))
        key = next(iter(shelf.records))
        for n in range(len(record)):
            evict(cache)
            for fill in range(70):  # the library's own small table has forgotten it
                cache.set(f"other{fill}", fill) if n == 0 else None
            shelf.records[key] = record[:n] + bytes([record[n] ^ 0x55]) + record[n + 1 :]
            assert f(1) == [1, "value"]


def test_values_that_cannot_be_stored(caplog):
    shelf = Shelf()

    class Thing:
        pass

    with Cache(storage=shelf) as cache:
        calls = []

        @cache.cacheable(namespace="n")
        def f(x):
            calls.append(x)
            return Thing()

        first = f(1)
        assert f(1) is first, "it is kept in memory all the same"
        f(2)
        assert cache.stats().unserializable == 2
        assert [r.getMessage() for r in caplog.records if "Thing" in r.getMessage()] != []
        assert len(caplog.records) == 1, "said once"
        assert not shelf.records
        cache.set("k", 1)
        cache.set("k", Thing())
        evict(cache)
        assert cache.get("k") is None, "the value before must not come back"


def test_serializers_do_not_read_each_other():
    shelf = Shelf()
    with Cache(storage=shelf, serializer="pickle") as cache:
        cache.set("k", {1: Shelf})
        evict(cache)
        assert cache.get("k") == {1: Shelf}
        cache.shared.codec.magic ^= 1
        evict(cache)
        assert cache.get("k") is None
    with pytest.raises(ValueError, match="serializer"):
        Cache(storage=Shelf(), serializer="yaml")


def test_times():
    shelf, clock = Shelf(), FakeClock()
    with Cache(storage=shelf, clock=clock, read_extend_ttl=False) as cache:
        calls = []

        @cache.cacheable(namespace="n", ttl=100)
        def f(x):
            calls.append(x)
            return len(calls)

        @cache.cacheable(namespace="t", ttl=100, tti=10)
        def g(x):
            calls.append(x)
            return len(calls)

        f(1), g(1)
        evict(cache)
        assert (f(1), g(1)) == (1, 2)
        clock.advance(9)
        assert (f(1), g(1)) == (1, 2)
        entry = next(iter(g.__wrapped__ and cache.tables()[2].entries.values()))
        assert entry.tti == pytest.approx(10)
        assert entry.more.hard <= 1100
        clock.advance(92)
        evicted = cache.tables()[1].entries
        assert next(iter(evicted.values())).deadline <= 1100
        f.refresh(1)
        assert f(1) == len(calls)


def test_clear_one_function():
    with Cache(storage=Shelf()) as cache:
        calls = []
        f = cache.cacheable(namespace="f")(lambda x: calls.append(x) or len(calls))
        g = cache.cacheable(namespace="g")(lambda x: calls.append(x) or len(calls))
        f(1), g(1)
        f.cache_clear()
        evict(cache)
        assert g(1) == 2
        assert f(1) == 3
        f.invalidate(1)
        evict(cache)
        assert f(1) == 4
        assert cache.get(f.key(1)) == 4


@pytest.mark.parametrize("key", [5, None, b"a", ("a", 1), 1.5, True])
@pytest.mark.parametrize("deps", [(), ["a"]])
def test_a_key_that_is_no_text_stays_in_this_process(key, deps):
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        cache.set(key, 1, deps)
        assert cache.get(key) == 1
        assert cache.get_many([key]) == {key: 1}
        cache.invalidate("a")
        assert cache.get(key) == (None if deps else 1)
        assert cache.delete(key) is not bool(deps)
        assert not shelf.records


def test_a_value_that_is_set_under_the_key_of_a_call():
    with Cache(storage=Shelf()) as cache:
        calls = []
        f = cache.cacheable(namespace="f")(lambda x: calls.append(x) or len(calls))
        for undo in (f.cache_clear, lambda: f.invalidate(1), lambda: cache.invalidate("a")):
            f(1)
            cache.set(f.key(1), "set", ["a"])
            assert f(1) == cache.get(f.key(1)) == "set"
            evict(cache)
            assert f(1) == "set", "out of the storage"
            undo()
            evict(cache)
            assert f(1) == len(calls)


def test_what_stays_in_this_process():
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        lock = threading.Lock()

        @cache.cacheable
        def closes(x):
            with lock:
                return x

        with pytest.warns(RuntimeWarning, match="stays? in this process"):
            assert closes(1) == 1
        assert closes(2) == 2

        class Shop:
            @cache.cacheable
            def price(self, x):
                return x

        shop = Shop()
        assert (shop.price(1), shop.price(1)) == (1, 1)
        closes.cache_clear()
        assert not shelf.records

        base = 10

        @cache.cacheable
        def sums(x):
            return x + base

        assert sums(1) == 11
        assert len(shelf.records) == 1, "what it closes over has a text"
        assert cache.tables()[-1].shared_name("x" * 1000) is not None
        assert len(cache.tables()[-1].shared_name("x" * 1000)) <= 200


def test_which_arguments_are_shared():
    class Zone(datetime.tzinfo):
        def utcoffset(self, when):
            return datetime.timedelta(hours=1)

    shelf = Shelf()
    with Cache(storage=shelf) as cache:

        def name(x):
            return str(x)

        one, two = cache.cacheable(name), cache.cacheable(name)
        when = datetime.datetime(2026, 1, 1, 12)
        shared = [Path("/a"), decimal.Decimal(1), when.replace(tzinfo=datetime.timezone.utc), (1.5, {"a": [1]})]
        for n, value in enumerate(shared):
            one(value)
            assert len(shelf.records) == n + 1
            assert two(value) == one(value)
        assert cache.stats().hits_storage == len(shared)
        for value in (when.replace(tzinfo=Zone()), datetime.time(1, tzinfo=Zone()), Zone(), len):
            one(value)
        assert len(shelf.records) == len(shared)


class Rate:
    def __init__(self, n):
        self.n = n

    def __zoocache_key__(self):
        return self.n

    def times(self, x):
        return self.n * x

    def __call__(self, x):
        return self.n + x


def test_functions_of_several_objects():
    """A storage that all write to: each finds its own."""
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        calls = [Rate(2).times, Rate(3).times, Rate(2), Rate(3), functools.partial(pow, 2), functools.partial(pow, 3)]
        for wanted in (6, 6):
            assert [cache.cacheable(call)(5) for call in calls] == [10, 15, 7, 8, 32, 243]
            assert len(shelf.records) == wanted
        assert cache.stats().hits_storage == 6


def test_nested_and_found():
    with Cache(storage=Shelf()) as cache:
        calls = []

        @cache.cacheable(namespace="inner", deps=lambda x: [f"i:{x}"])
        def inner(x):
            calls.append("inner")
            return x

        @cache.cacheable(namespace="outer")
        def outer(x):
            calls.append("outer")
            cache.get("raw")
            return inner(x)

        cache.set("raw", 1, ["raw"])
        inner(1)
        evict(cache)
        outer(1)
        assert calls == ["inner", "outer"]
        for tag in ("i:1", "raw"):
            cache.invalidate(tag)
            outer(1)
            assert calls.pop() in ("outer", "inner")
        evict(cache)
        size = len(calls)
        outer(1)
        assert len(calls) == size


async def test_async():
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        threads = set()
        get = shelf.get
        shelf.get = lambda key: threads.add(threading.current_thread().name) or get(key)
        calls = []

        @cache.cacheable(namespace="n", deps=lambda x: [f"t:{x}"])
        async def f(x):
            calls.append(x)
            if x == 13:
                raise KeyError(x)
            return x

        assert [await f(1), await f(1), await f(2)] == [1, 1, 2]
        evict(cache)
        assert await f(1) == 1
        assert calls == [1, 2]
        await cache.invalidate_async("t:1")
        assert await f(1) == 1
        assert calls == [1, 2, 1]
        await cache.set_async("k", 5, ["t:k"])
        assert await cache.get_async("k") == 5
        evict(cache)
        assert await cache.get_async("k") == 5
        assert await cache.get_many_async(["k", "none"]) == {"k": 5}
        with pytest.raises(KeyError):
            await f(13)
        assert await f.refresh(1) == 1
        await cache.clear_async()
        assert await cache.get_async("k") is None
        await cache.catch_up_async(cache.token())
        assert threading.main_thread().name not in threads or len(threads) > 1


def test_module_functions(tmp_path):
    shelf = Shelf()
    zoocache.configure(storage=shelf, default_ttl=100)
    zoocache.set("a", 1)
    assert zoocache.get_many(["a", "b"]) == {"a": 1}
    assert zoocache.token() == 0
    zoocache.catch_up(0)
    zoocache.reset()
    assert shelf.closed == 1


def test_options_are_checked():
    for bad in ({"silence": "x"}, {"ack": "x"}, {"max_staleness": 0}, {"serializer": "x"}):
        with pytest.raises(ValueError):
            Cache(storage=Shelf(), **bad)
    with pytest.raises(ValueError):
        zoocache.cacheable(silence="maybe")(lambda: 1)
    with pytest.raises(TypeError, match="unknown option"):
        Cache(storage=Shelf(), colour=1)
