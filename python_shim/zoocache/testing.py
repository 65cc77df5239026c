"""For tests of code that uses the cache: a clock to turn by hand, and a cache that nobody else sees; and the
tests that a storage of your own has to pass (StorageConformance).

With pytest, the fixture ``zoocache_isolated`` (see _pytest) is there by itself:

    def test_expiry(zoocache_isolated):
        assert price(7) == 10
        zoocache_isolated.clock.advance(3600)
        assert price(7) == 11
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from zoocache import _default, _ffi, _options
from zoocache._cache import Cache
from zoocache._errors import StorageIsFull
from zoocache.storage import SharedStorage, VersionedStorage

if TYPE_CHECKING:
    from pathlib import Path

    from zoocache._cache import CacheStats
    from zoocache.storage import Storage

__all__ = ["FakeClock", "Isolated", "StorageConformance", "isolated"]


class FakeClock:
    """A clock for Cache(clock=...) and configure(clock=...): it stands until it is advanced."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Lets time pass: the very next call sees it."""
        if not seconds >= 0:
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
        return _default.cache()

    @property
    def stats(self) -> CacheStats:
        """Its statistics."""
        return self.cache.stats()


@contextmanager
def isolated(**settings: Any) -> Iterator[Isolated]:
    """A fresh default cache with a fake clock, and with these settings. Afterwards the settings from before
    are in place again; the values from before are gone. Of the environment, ZOOCACHE_DISABLED alone has a say.
    """
    before = _default.state.config, _default.state.variables
    _default.reset()
    clock = settings.pop("clock", None) or FakeClock()
    _default.configure(**{**_options.DEFAULTS, "clock": clock, **settings})
    try:
        yield Isolated(clock)
    finally:
        _default.reset()
        _default.state.config, _default.state.variables = before


def skip(storage: Storage, reason: str) -> NoReturn:
    """Closes a storage that a test is not for."""
    import pytest

    storage.close()
    pytest.skip(reason)


class StorageConformance:
    """The tests that a storage has to pass. With pytest, make a subclass that says how one is opened:

        class TestShelf(StorageConformance):
            def open(self, path):
                return Shelf(path)

    ``path`` is an empty directory of the test's own; opening the same one again, after close(), is the next
    life of the storage.
    """

    ROUNDS = 60  # of eight threads; fewer where a call is slow

    def open(self, path: Path) -> Storage:
        """A storage in this directory."""
        raise NotImplementedError

    # ---- by itself -------------------------------------------------------------------------------

    def test_a_record_comes_back_as_it_was(self, tmp_path: Path) -> None:
        storage = self.open(tmp_path)
        keys = [b"", b"a", b"\0", b"a\0", b"A", b"../a", bytes(range(256)), b"k" * 511, b"k" * 65535]
        for n, key in enumerate(keys):
            assert storage.get(key) is None
            record = bytes([n]) * (n * 1000)
            storage.put(key, record, None)
            assert storage.get(key) == record
        for n, key in enumerate(keys):
            found = storage.get(key)
            assert found == bytes([n]) * (n * 1000), "keys that differ must not meet"
            assert type(found) is bytes
        large = bytes(range(256)) * 8192
        try:
            storage.put(b"a", large, None)
            assert storage.get(b"a") == large
        except StorageIsFull:  # it is too large
            assert storage.get(b"a") is None, "nor is there the one before"
        storage.close()

    def test_put_replaces_and_delete_removes(self, tmp_path: Path) -> None:
        storage = self.open(tmp_path)
        storage.put(b"k", b"long before", None)
        storage.put(b"k", b"now", 4e9)
        storage.put(b"other", b"stays", None)
        assert storage.get(b"k") == b"now"
        storage.touch(b"k", 4.1e9)
        storage.touch(b"nothing", 4e9)
        assert storage.get(b"nothing") is None, "touch() must not make a record"
        storage.delete(b"k")
        storage.delete(b"k")
        assert storage.get(b"k") is None
        assert storage.get(b"other") == b"stays"
        assert list(storage.get_many([b"k", b"other", b"nothing", b"other"])) == [None, b"stays", None, b"stays"]
        storage.close()

    def test_clear_removes_everything(self, tmp_path: Path) -> None:
        storage = self.open(tmp_path)
        if isinstance(storage, SharedStorage):
            skip(storage, "the log says what is fresh there")
        for n in range(50):
            storage.put(b"%d" % n, b"x", None)
        storage.clear()
        assert all(storage.get(b"%d" % n) is None for n in range(50))
        storage.put(b"1", b"y", None)
        assert storage.get(b"1") == b"y"
        storage.close()

    def test_many_threads(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        storage = self.open(tmp_path)
        whole = {bytes([n]) * 5000 for n in range(8)}

        def work(n: int) -> None:
            for turn in range(self.ROUNDS):
                storage.put(b"shared", bytes([n]) * 5000, None)
                found = storage.get(b"shared")
                assert found is None or found in whole, "a record is never torn"
                key = b"%d:%d" % (n, turn)
                storage.put(key, key, None)
                assert storage.get(key) == key
                if turn % 7 == 0:
                    storage.delete(b"shared")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        storage.close()

    def test_versions(self, tmp_path: Path) -> None:
        storage = self._versioned(tmp_path)
        generation, latest = storage.generation()
        assert 1 <= generation < 2**64
        assert latest == 0
        storage.tag_put([b"", b"a", b"a:b"], 2**63 + 5)
        storage.tag_put([b"a"], 7)
        assert list(storage.tag_get([b"a:b", b"none", b"", b"a"])) == [2**63 + 5, 0, 2**63 + 5, 2**63 + 5]
        storage.clear()
        assert list(storage.tag_get([b"a"])) == [2**63 + 5], "clear() removes records, and keeps versions"
        assert storage.generation() == (generation, 2**63 + 5)
        storage.close()

    def test_another_life(self, tmp_path: Path) -> None:
        storage = self._versioned(tmp_path)
        generation, _ = storage.generation()
        storage.put(b"k", b"v", None)
        storage.tag_put([b"t"], 9)
        storage.close()
        storage = self._versioned(tmp_path)
        if storage.generation()[0] == generation:
            assert list(storage.tag_get([b"t"])) == [9], "versions that were lost need another generation"
            assert storage.get(b"k") == b"v"
        storage.close()

    # ---- of a SharedStorage ----------------------------------------------------------------------

    def test_one_of_two_swaps_wins(self, tmp_path: Path) -> None:
        storage, other = self._two(tmp_path)
        value, nothing = storage.read(b"log")
        assert value is None
        assert storage.swap(b"log", b"\0first", nothing)
        assert not other.swap(b"log", b"second", nothing), "it was there already"
        value, first = other.read(b"log")
        assert (value, type(value), type(first)) == (b"\0first", bytes, bytes)
        _, own = storage.read(b"log")
        assert other.swap(b"log", b"x" * 70_000, first)
        assert not storage.swap(b"log", b"third", own), "it was changed since"
        assert not other.swap(b"log", b"third", first), "a token is good for one"
        assert storage.read(b"log")[0] == b"x" * 70_000
        assert storage.read(b"other")[0] is None
        other.delete(b"log")
        assert storage.read(b"log")[0] is None
        storage.close()
        other.close()

    def test_no_swap_is_lost(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        storages = self._two(tmp_path)

        def add(n: int) -> None:
            storage, done = storages[n % 2], 0
            while done < 10:
                value, token = storage.read(b"log")
                done += storage.swap(b"log", (value or b"") + b"%d," % (100 * n + done), token)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(1, 5)))
        value, _ = storages[0].read(b"log")
        numbers = [int(number) for number in (value or b"").split(b",")[:-1]]
        assert sorted(numbers) == [100 * n + i for n in range(1, 5) for i in range(10)]
        assert [n for n in numbers if n < 200] == list(range(100, 110)), "of one writer, in its order"
        for storage in storages:
            storage.close()

    # ---- under a cache ---------------------------------------------------------------------------

    def test_under_a_cache(self, tmp_path: Path) -> None:
        calls = []
        for life in range(3):
            with self._cache(tmp_path) as cache:

                @cache.cacheable(namespace="conformance", deps=lambda x: [f"item:{x}"])
                def load(x: int) -> tuple[int, int]:
                    calls.append(x)
                    return x, len(calls)

                before = [load(n) for n in range(20)]
                assert [load(n) for n in range(20)] == before
                cache.invalidate("item:3")
                again = load(3)
                assert again > before[3], "an invalidated value must not be served"
                assert load(4) == before[4]
                cache.invalidate("item:5")
                known = len(calls)
                if life:
                    assert before[5][1] > 21, "what was invalidated in an earlier life stays so"
        with self._cache(tmp_path) as cache:
            cache.clear()
            assert cache.get("k") is None
        assert len(calls) == known

    def test_values_are_found_again(self, tmp_path: Path) -> None:
        with self._cache(tmp_path) as cache:
            cache.set("k", ("v", 1), deps=["t"])
            cache.tables()[0].entries.clear()  # as if another process asked
            assert cache.get("k") == ("v", 1)
            cache.invalidate("t")
            assert cache.get("k") is None
            cache.set("k", 2)
            cache.delete("k")
            assert cache.get("k") is None
            assert cache.stats().storage_errors == 0

    def _versioned(self, path: Path) -> VersionedStorage:
        storage = self.open(path)
        if not isinstance(storage, VersionedStorage):
            skip(storage, "it keeps no versions")
        return storage

    def _two(self, path: Path) -> tuple[SharedStorage, SharedStorage]:
        """Two processes' views of one place."""
        storage = self.open(path)
        if not isinstance(storage, SharedStorage):
            skip(storage, "nobody shares it")
        other = self.open(path)
        assert isinstance(other, SharedStorage)
        return storage, other

    def _cache(self, path: Path) -> Cache:
        return Cache(storage=self.open(path))
