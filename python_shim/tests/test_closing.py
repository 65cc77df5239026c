"""A cache that is closed is closed, whatever failed before; and what is called while the process ends."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from shelf import Shelf

import zoocache
from zoocache import Cache

ROOT = Path(zoocache.__file__).parent.parent
LMDB = pytest.mark.skipif(not zoocache._ffi.parts()["lmdb"], reason="without LMDB")


@pytest.fixture
def uncollected():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failing(cache, how):
    @cache.cacheable(deps=lambda x: ["bad tag"] if how == "deps" else [f"t:{x}"], cache_errors=LookupError)
    def f(x):
        if how == "nested":
            try:
                g(x)
            except LookupError as error:
                raise KeyError(x) from error
        if how == "hit":
            raise LookupError(x)
        if how == "closed":
            cache.close()
        raise OSError(x)

    @cache.cacheable
    def g(x):
        raise LookupError(x)

    if how == "hit":
        with pytest.raises(LookupError):
            f(1)
    if how == "set":
        cache.set("k", 1, deps=["bad tag"])
    f(1)


@LMDB
@pytest.mark.parametrize("how", ["function", "deps", "nested", "hit", "closed", "set"])
def test_an_exception_inside_does_not_keep_the_file_open(tmp_path, uncollected, how):
    url = f"lmdb://{tmp_path}/cache"
    kept = []
    for _ in range(3):
        try:
            with Cache(storage_url=url) as cache:
                assert not cache.lost
                f = cache.cacheable(namespace="n")(lambda x: [x])
                f(1)
                failing(cache, how)
        except Exception as error:
            kept.append(error)  # with its traceback, all frames, and all that is in them
    assert len(kept) == 3
    with Cache(storage_url=url) as cache:
        assert not cache.lost
        f = cache.cacheable(namespace="n")(lambda x: "anew")
        assert f(1) == [1], "the file is the same"


@LMDB
async def test_an_exception_out_of_a_coroutine_does_not_keep_the_file_open(tmp_path, uncollected):
    url = f"lmdb://{tmp_path}/cache"
    kept = []
    for _ in range(3):
        try:
            with Cache(storage_url=url) as cache:
                assert not cache.lost

                @cache.cacheable(fleet=True)
                async def f(x):
                    raise LookupError(x)

                await f(1)
        except LookupError as error:
            kept.append(error)
    assert len(kept) == 3


def test_a_constructor_that_fails_leaves_nothing_open():
    opened = []

    class Watched(Shelf):
        def clear(self):
            opened.append(self)

    class Telemetry:
        @property
        def enabled(self):
            raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        Cache(storage=Watched(), telemetry=Telemetry())
    with pytest.raises(ValueError, match="max_staleness"):
        Cache(storage=Watched(), max_staleness=-1)
    assert not opened


class Closing(Shelf):
    """A storage that says when it was closed."""

    def __init__(self):
        super().__init__()
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


def test_close_closes_whatever_fails_in_it(monkeypatch):
    class Lanes:
        def close(self):
            raise KeyboardInterrupt

    storage = Closing()
    cache = Cache(storage=storage)
    f = cache.cacheable(lambda x: [x])
    f(1)
    cache.shared._lanes = Lanes()
    with pytest.raises(KeyboardInterrupt):
        cache.close()
    assert storage.closed.is_set()
    cache.close()
    with pytest.raises(RuntimeError, match="closed"):
        f(1)


def test_a_call_that_is_inside_ends_before_its_storage_is_closed():
    inside, go = threading.Event(), threading.Event()

    class Slow(Closing):
        def get(self, key):
            inside.set()
            assert go.wait(30)
            assert not self.closed.is_set()

    storage = Slow()
    cache = Cache(storage=storage)
    f = cache.cacheable(deps=lambda x: [f"t:{x}"])(lambda x: [x])
    got = []
    thread = threading.Thread(target=lambda: got.append(f(1)))
    thread.start()
    assert inside.wait(30)
    cache.close()
    assert not storage.closed.is_set()
    go.set()
    thread.join(30)
    assert got == [[1]], "computed, all the same"
    assert storage.closed.wait(30)


def test_what_is_asked_of_a_closed_core():
    storage = Closing()
    cache = Cache(storage=storage)
    core = cache.shared.core
    deps = core.marked(b"a\0b")
    cache.close()
    assert storage.closed.is_set()
    assert core.find(b"k", 0) == (zoocache._ffi.MISS, None)
    assert core.find_many([b"k", b"l"]) == [(zoocache._ffi.MISS, None)] * 2
    token = zoocache._ffi_shared.Token()
    assert core.keep(b"k", [b"v"], deps, 0, 1.0, 1.0, False) == core.drop(b"k") == core.lock(b"k", 1.0, token) < 0
    assert core.clear() == core.invalidate(b"a") == core.invalidate_mark(b"|a") == core.catch_up(1, 0.0) < 0
    assert (core.token(), core.version(b"a"), core.prune(0.0), core.lease_end()) == (0, 0, 0, 0.0)
    assert core.gate(1) == zoocache._ffi.MISS
    assert set(core.shared_stats()) == set(core.stats()) == {0}
    core.unlock(b"k", token)
    core.poll()
    core.shut()
    assert deps.tags() == ("a", "b")
    assert deps.newest() == 0
    assert core.marked(b"c").tags() == ("c",)


# ---- while the process ends ----------------------------------------------------------------------------


def at_exit(code):
    text = textwrap.dedent(
        """
        import asyncio, atexit, sys
        calls = []

        def ends():
            assert asyncio.run(load(1)) == 1, "computed"
            assert asyncio.run(load(2)) == 2
            assert sync(3) == 3
            cache.invalidate("a")
            cache.set("k", 1)
            assert cache.get("k") in (1, None)
            assert asyncio.run(cache.get_async("other")) is None
            print("ended", flush=True)

        if "early" in sys.argv:
            atexit.register(ends)
        import zoocache
        from zoocache.storage import Storage
        if "early" not in sys.argv:
            atexit.register(ends)

        class Shelf(Storage):
            def __init__(self): self.records = {}
            def get(self, key): return self.records.get(key)
            def put(self, key, record, expires): self.records[key] = record
            def delete(self, key): self.records.pop(key, None)
            def clear(self): self.records.clear()

        def make(**more):
            global cache, load, sync
            cache = zoocache.Cache(**more)

            @cache.cacheable(namespace="load", deps=["a"], fleet=True)
            async def load(x):
                calls.append(x)
                await asyncio.sleep(0)
                return x

            sync = cache.cacheable(namespace="sync", deps=["a"], soft_ttl=0.01)(lambda x: x)
        """
    ) + textwrap.dedent(code)
    for when in ("early", "late"):
        done = subprocess.run(
            [sys.executable, "-c", text, when],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, ["ended"], ""), done.stderr


@pytest.mark.parametrize("used", [True, False])
def test_a_cached_coroutine_is_computed_at_exit(used):
    at_exit("make(storage=Shelf())\n" + ("asyncio.run(load(1))\nsync(3)\n" if used else ""))


@LMDB
@pytest.mark.parametrize("used", [True, False])
def test_a_cached_coroutine_with_lmdb_is_computed_at_exit(tmp_path, used):
    at_exit(f"make(storage_url='lmdb://{tmp_path}/cache')\n" + ("asyncio.run(load(1))\nsync(3)\n" if used else ""))


def test_a_cached_coroutine_whose_redis_is_down_is_computed_at_exit():
    if not zoocache._ffi.parts()["redis"]:
        pytest.skip("without Redis")
    at_exit("import logging; logging.disable()\nmake(storage_url='redis://127.0.0.1:1')\n")


def test_one_that_cannot_be_closed_does_not_keep_others_open():
    text = textwrap.dedent(
        """
        import zoocache, sys
        from zoocache.storage import Storage

        class Shelf(Storage):
            def get(self, key): pass
            def put(self, key, record, expires): pass
            def delete(self, key): pass
            def clear(self): pass
            def close(self): print("closed", flush=True)

        class Lanes:
            def close(self): raise RuntimeError("no")

        caches = [zoocache.Cache(storage=Shelf()) for _ in range(3)]
        for cache in caches:
            cache.shared._lanes = Lanes()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["closed"] * 3, "")
