"""disabled() and ZOOCACHE_DISABLED: functions compute, nothing is stored or served, and it ends when it is over."""

import asyncio
import gc
import os
import subprocess
import sys
import threading

import pytest
from shelf import Shelf

import zoocache
from zoocache import Cache, _default, add_deps, cacheable, disabled, invalidate
from zoocache._ffi import words
from zoocache.context import OFF
from zoocache.scopes import Scope


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    monkeypatch.delenv("ZOOCACHE_DISABLED", raising=False)
    yield
    zoocache.reset()
    gc.collect()
    assert not OFF


@pytest.fixture(params=["sync", "async"])
def counted(request):
    """Makes a function that counts: how it is decorated, and called, is to be the same for both kinds."""

    def make(cache=None, body=lambda x: None, **options):
        calls = []

        def work(x):
            calls.append(x)
            body(x)
            return x, len(calls)

        async def awork(x):
            return work(x)

        own = work if request.param == "sync" else awork
        cached = cacheable(cache=cache, **options)(own)

        def call(x):
            return cached(x) if request.param == "sync" else asyncio.run(cached(x))

        call.cached, call.calls = cached, calls
        return call

    return make


class Kept(Shelf):
    """A storage that says what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def get(self, key):
        self.asked.append("get")
        return super().get(key)

    def put(self, key, record, expires):
        self.asked.append("put")
        super().put(key, record, expires)


# ---- functions ---------------------------------------------------------------------------------------


def test_functions_compute_and_nothing_is_stored_or_served(counted):
    f = counted()
    assert f(1) == f(1) == (1, 1)
    with disabled():
        assert [f(1), f(1), f(2)] == [(1, 2), (1, 3), (2, 4)]
    assert f(1) == (1, 1), "what there was before is still there"
    assert f(2) == (2, 5), "nothing was stored"
    assert f.cached.cache_info().misses == 2
    assert zoocache.stats().flights == 0


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 60},
        {"copy": "copy"},
        {"key": lambda x: x},
        {"soft_ttl": 1e-9, "ttl": 60},
        {"stale_if_error": 60, "ttl": 60},
        {"early_refresh": 1.0, "ttl": 60},
        {"cache_if": lambda value: True, "negative_ttl": 5},
        {"on_error": "retry", "fleet": True, "deps": ["t"]},
    ],
)
def test_whatever_the_rules_are(counted, options):
    with Cache() as cache:
        f = counted(cache, **options)
        f(1)
        before = len(f.calls)
        with disabled():
            assert [f(1)[1], f(1)[1]] == [before + 1, before + 2]
        assert len(cache) == 1


def test_with_telemetry(counted):
    from zoocache.telemetry.manager import TelemetryManager

    with Cache(telemetry=TelemetryManager()) as cache:
        f = counted(cache)
        f(1)
        with disabled():
            assert f(1) == (1, 2)
        assert f(1) == (1, 1)


def test_any_signature():
    with Cache() as cache:

        @cache.cacheable
        def open_one(*args, **kwargs):
            return object()

        class Shop:
            @cache.cacheable
            def price(self, x, *, y=1):
                return object()

        shop = Shop()
        for call in (lambda: open_one(1, [2], z=3), lambda: shop.price(1), lambda: shop.price((1, 2), y=[])):
            first = call()
            assert call() is first
            with disabled():
                assert call() is not first
            assert call() is first


def test_errors_that_are_cached_are_not_served_and_nothing_stands_in(counted):
    fail = []

    def body(x):
        if fail:
            raise KeyError(x)

    with Cache(default_ttl=0.0) as cache, Cache() as other:
        f = counted(other, body, stale_if_error=1000.0, ttl=1000.0)
        f(1)
        fail.append(1)
        with disabled(), pytest.raises(KeyError):
            f(1)
        g = counted(cache, body, cache_errors=KeyError, error_ttl=1000.0)
        for _ in range(2):
            with pytest.raises(KeyError):
                g(1)
        assert len(g.calls) == 1
        fail.clear()
        with disabled():
            assert g(1) == (1, 2)
            fail.append(1)
            with pytest.raises(KeyError):
                g(2)
        fail.clear()
        assert g(2) == (2, 4), "an error is not stored either"


def test_refresh_computes_and_does_not_store(counted):
    f = counted()
    f(1)
    with disabled():
        again = f.cached.refresh(1)
        assert (asyncio.run(again) if asyncio.iscoroutine(again) else again) == (1, 2)
    assert f(1) == (1, 1)


def test_invalidations_are_done(counted):
    f = counted(deps=lambda x: [f"item:{x}"])
    f(1), f(2)
    with disabled():
        invalidate("item:1")
        f.cached.invalidate(2)
    assert f(1) == (1, 3)
    assert f(2) == (2, 4)


def test_who_is_cached_depends_on_what_was_computed_within():
    rows = {1: "a"}

    @cacheable(deps=lambda x: [f"row:{x}"])
    def row(x):
        add_deps(["table"])
        return rows[x]

    @cacheable
    def page():
        with disabled():
            return row(1)

    for tag in ("row:1", "table"):
        assert page() == rows[1]
        rows[1] += "a"
        assert page() != rows[1]
        invalidate(tag)
        assert page() == rows[1]


# ---- by key ------------------------------------------------------------------------------------------


def test_by_key():
    @cacheable
    def f(x):
        return x

    f(1)
    zoocache.set("old", 1)
    zoocache.set("kept", 1)
    with disabled():
        assert zoocache.get("kept") is None
        assert zoocache.get(f.key(1)) is None
        assert zoocache.get_many(["kept", "old"]) == {}
        zoocache.set("old", 2)
        zoocache.set("new", 2)
        with pytest.raises(zoocache.InvalidTag):
            zoocache.set("k", 1, deps=["a b"])
    assert zoocache.get("old") is None, "neither the old value nor the new one"
    assert zoocache.get("new") is None
    assert zoocache.get("kept") == 1
    assert zoocache.get(f.key(1)) == 1
    with disabled():
        assert zoocache.delete("kept")
    assert zoocache.get("kept") is None


@pytest.mark.parametrize("storage", [None, Kept])
async def test_by_key_async(storage):
    with Cache(storage=storage and storage()) as cache:
        await cache.set_async("a", 1)
        await cache.set_async("b", 1)
        with disabled():
            assert await cache.get_async("a") is None
            assert await cache.get_many_async(["a"]) == {}
            await cache.set_async("b", 2)
            assert not await cache.delete_async("b")
        assert await cache.get_many_async(["a", "b"]) == {"a": 1}
        assert await cache.delete_async("a")
        assert not await cache.delete_async("a")
        assert await cache.get_async("a") is None


async def test_delete_async_of_the_default_cache():
    zoocache.set("a", 1)
    assert await zoocache.delete_async("a")
    assert zoocache.get("a") is None


# ---- a storage ---------------------------------------------------------------------------------------


def test_a_storage_is_neither_asked_nor_written(counted):
    storage = Kept()
    with Cache(storage=storage) as cache:
        f = counted(cache, fleet=True, namespace="off")
        f(1)
        assert storage.records
        storage.asked.clear()
        before = dict(storage.records)
        with disabled():
            assert f(1) == (1, 2)
            assert f(2) == (2, 3)
            assert cache.get("k") is None
            again = f.cached.refresh(1)
            if asyncio.iscoroutine(again):
                asyncio.run(again)
        assert storage.asked == []
        assert storage.records == before
        assert f(1) == (1, 1)


@pytest.mark.parametrize("here", [False, True])
def test_in_scopes(counted, here):
    scopes = Scope("org", "org_id", Scope("user", "user_id"))
    with Cache(scopes=scopes) as cache, cache.scope(org_id="acme", user_id=1):
        f = counted(cache, scope="user" if here else None)
        cache.set("k", 1, scope="org")
        f(1)
        with disabled():
            assert f(1) == (1, 2)
            assert cache.get("k", scope="org") is None
            cache.set("k", 2, scope="user")
        assert f(1) == (1, 1)
        assert cache.get("k", scope="org") == 1
        assert cache.get("k", scope="user") is None
        assert cache.evict_scope("org") == 1 + here, "nothing was counted that was not stored"


# ---- where it holds ----------------------------------------------------------------------------------


def test_others_are_served_meanwhile_and_do_not_undo_it():
    """A thread that is not off looks at the entry while another is off: it is served, and the other is not."""
    calls = []

    @cacheable
    def f(x):
        calls.append(x)
        return len(calls)

    assert f(1) == 1
    inside, done = threading.Event(), threading.Event()
    found = []

    def work():
        with disabled():
            inside.set()
            done.wait()
            found.append(f(1))

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert [f(1) for _ in range(3)] == [1, 1, 1]
    done.set()
    thread.join()
    assert found == [2]
    assert f(1) == 1


def test_the_quick_way_is_back_when_it_is_over():
    @cacheable
    def f(x):
        return x

    f(1)
    f(1)
    (entry,) = [e for table in _default.cache().tables() for e in table.entries.values()]
    assert entry.word == words[0]
    with disabled():
        assert entry.word != words[0]
        f(1)
        assert entry.word != words[0]
        threads = [threading.Thread(target=f, args=(1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        assert entry.word != words[0], "nobody gives the word meanwhile"
    f(1)
    assert entry.word == words[0]


def test_nobody_waits():
    """Each call computes for itself: two that meet inside of the function, and one beside a flight."""
    meet = threading.Barrier(3)

    @cacheable
    def f():
        meet.wait()
        return object()

    found = []

    def off():
        with disabled():
            found.append(f())

    threads = [threading.Thread(target=off) for _ in range(2)] + [threading.Thread(target=lambda: found.append(f()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 3
    assert f() in found, "the flight of who was not off has stored its value"


async def test_in_tasks_and_coroutines():
    calls = []

    @cacheable
    async def f():
        calls.append(1)
        await asyncio.sleep(0)
        return len(calls)

    assert await f() == 1
    over = asyncio.Event()

    async def twice():
        first = await f()
        await over.wait()
        return first, await f()

    async def aside():
        return await f()

    beside = asyncio.create_task(aside())
    with disabled():
        task = asyncio.create_task(twice())
        assert await beside == 1, "a task that was begun before is not off"
        await asyncio.sleep(0)
        assert await f() > 1
    over.set()
    assert (await task)[0] > 1
    assert (await task)[1] == 1, "with its block it is over, for all that was begun there"


def test_blocks_in_blocks():
    @cacheable
    def f():
        return object()

    first = f()
    with disabled():
        with disabled():
            assert f() is not first
        assert f() is not first
        with pytest.raises(KeyError), disabled():
            raise KeyError
        assert f() is not first
    assert f() is first


async def test_a_task_of_an_inner_block_is_off_until_the_outer_one_ends():
    @cacheable
    def f():
        return object()

    first = f()
    steps = asyncio.Queue()

    async def work():
        found = []
        for _ in range(2):
            await steps.get()
            found.append(f() is first)
        return found

    with disabled():
        with disabled():
            task = asyncio.create_task(work())
        steps.put_nowait(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    steps.put_nowait(2)
    assert await task == [False, True]


def test_one_object_is_good_for_one_block_at_a_time():
    off = disabled()
    with off:
        with pytest.raises(RuntimeError, match="one block at a time"):
            off.__enter__()
        assert OFF
    with off:
        assert OFF


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.plain
def test_blocks_of_other_threads_are_over_in_the_child_of_a_fork():
    code = (
        "import os, threading, zoocache\n"
        "from zoocache.context import OFF\n"
        "inside, done = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    with zoocache.disabled():\n"
        "        inside.set(); done.wait()\n"
        "thread = threading.Thread(target=work); thread.start(); inside.wait()\n"
        "def forked(expected):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(len(OFF) != expected)\n"
        "    return os.waitpid(pid, 0)[1]\n"
        "zoocache.set('k', 1)\n"
        "print(forked(0))\n"
        "with zoocache.disabled():\n"
        "    print(len(OFF), forked(1))\n"
        "done.set(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n2 0\n", done.stderr


# ---- the environment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_the_environment_switches_every_cache_off(counted, own, monkeypatch):
    monkeypatch.setenv("ZOOCACHE_DISABLED", "1")
    cache = Cache() if own else None
    f = counted(cache, deps=["t"])
    assert [f(1), f(1)] == [(1, 1), (1, 2)]
    user = cache or zoocache
    user.set("k", 1)
    assert user.get("k") is None
    user.invalidate("t")
    assert user.stats().entries == 0
    if cache is not None:
        cache.close()
        with pytest.raises(RuntimeError, match="closed"):
            f(1)


def test_it_is_read_when_a_cache_is_made_not_before():
    code = (
        "import os, zoocache\n"
        "first = zoocache.Cache()\n"
        "os.environ['ZOOCACHE_DISABLED'] = 'yes'\n"
        "second = zoocache.Cache()\n"
        "os.environ['ZOOCACHE_DISABLED'] = 'nonsense'\n"
        "for cache in (first, second):\n"
        "    cache.set('k', 1); print(cache.get('k'))\n"
        "try:\n"
        "    zoocache.get('k')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "1\nNone\nZOOCACHE_DISABLED must be 1, true, yes or on, or 0, false, no or off\n"
    assert done.stdout == expected, done.stderr


@pytest.mark.parametrize("text", ["", " ", "0", "off", "False", "no"])
def test_it_says_no(text, monkeypatch):
    monkeypatch.setenv("ZOOCACHE_DISABLED", text)
    zoocache.set("k", 1)
    assert zoocache.get("k") == 1
    assert not OFF


def test_what_was_made_off_leaves_nothing_behind(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_DISABLED", "1")
    cache = Cache()
    assert len(OFF) == 1
    del cache
    gc.collect()
    assert not OFF
