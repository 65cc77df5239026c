"""Two tiers, over a redis-server and an LMDB file of the tests' own."""

import asyncio
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest
from servers import Redis, certificate, free_port, until
from shelf import evict
from test_process import in_child

import zoocache
from zoocache import BuiltWithout, BusSilent, Cache, StorageIsFull, _ffi, _shared
from zoocache._ffi import CHANGES, words

PARTS = _ffi.parts()
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not PARTS["redis"] or not Redis.there():
        pytest.skip("without Redis")
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def own(tmp_path):
    """A server that a test may hurt."""
    if not PARTS["redis"] or not Redis.there():
        pytest.skip("without Redis")
    redis = Redis(tmp_path)
    yield redis
    redis.stop()


@pytest.fixture(params=["redis", "shards", "lmdb"])
def place(request, tmp_path):
    """The URL of a storage, with a prefix of the test's own."""
    if request.param == "lmdb":
        if not PARTS["lmdb"]:
            pytest.skip("without LMDB")
        return {"storage_url": f"lmdb://{tmp_path}/cache"}
    server = request.getfixturevalue("server")
    return {"storage_url": server.url, "prefix": tmp_path.name, "log_shards": 3 if request.param == "shards" else 1}


@pytest.fixture
def nodes(server, tmp_path):
    """Makes caches of one fleet."""
    made = []

    def make(**options):
        made.append(Cache(**{"storage_url": server.url, "prefix": tmp_path.name, **options}))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def loader(cache, calls, **options):
    """The same function in every cache that is given."""
    options = {"namespace": "loader", "deps": lambda x: [f"item:{x}"], **options}

    @cache.cacheable(**options)
    def load(x):
        calls.append(x)
        return x, len(calls)

    return load


# ---- both storages -----------------------------------------------------------------------------------


def test_the_tiers(place):
    calls = []
    with Cache(**place) as cache:
        load = loader(cache, calls)
        assert load(1) == load(1) == (1, 1)
        evict(cache)
        assert load(1) == (1, 1)
        assert cache.stats().hits_storage == 1
        cache.invalidate("item:1")
        assert load(1) == (1, 2)
        cache.set("k", ("v", 1.5), ["item"], ttl=100)
        evict(cache)
        assert cache.get_many(["k", "none"]) == {"k": ("v", 1.5)}
        cache.invalidate("item")
        assert cache.get("k") is None
        cache.set("k", 2)
        cache.clear()
        assert cache.get("k") is None
        assert cache.stats().storage_errors == 0


def test_a_restart_is_warm_and_never_stale(place):
    calls = []
    for life in range(3):
        with Cache(**place) as cache:
            load = loader(cache, calls)
            first, second = load(1), load(2)
            assert second == (2, 2), "computed in the first life alone"
            assert first[1] == (1 if not life else life + 2)
            cache.invalidate("item:1")


@pytest.mark.plain
def test_fork(place):
    calls = []
    with Cache(**place) as cache:
        load = loader(cache, calls)
        load(1)

        def child():
            assert load(1) == (1, 1), "from the storage: its memory is its own"
            assert cache.stats().hits_storage == 1
            cache.invalidate("item:1")
            assert load(1) == (1, 2)
            cache.close()

        in_child(child)
        until(lambda: load(1) != (1, 1))
        assert load(1) == (1, 2), "computed by the child"


@pytest.mark.plain
def test_fork_inside_a_fill(place):
    with Cache(**place) as cache:

        @cache.cacheable(namespace="forks")
        def f(x):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                in_child(lambda: (cache.set("child", 1), cache.close()))
            return x

        assert f(1) == 1


async def test_async(place):
    with Cache(**place) as cache:
        calls = []

        @cache.cacheable(namespace="async", deps=lambda x: [f"a:{x}"])
        async def f(x):
            calls.append(x)
            return [x]

        assert await asyncio.gather(*[f(1) for _ in range(20)]) == [[1]] * 20
        evict(cache)
        assert await asyncio.gather(*[f(x) for x in range(20)]) == [[x] for x in range(20)]
        assert sorted(calls) == sorted(set(calls))
        await cache.invalidate_async("a:1")
        assert await f(1) == [1]
        assert calls.count(1) == 2


def test_threads(place):
    with Cache(**place) as cache:
        truth, pending = dict.fromkeys(range(4), 0), {}
        load = cache.cacheable(namespace="threads", deps=lambda x: [f"n:{x}"])(lambda x: pending.get(x, 0))
        wrong, stop = [], threading.Event()

        def read():  # what is being written may be seen; what was before the last finished write may not
            while not stop.is_set():
                for x in truth:
                    low = truth[x]
                    if load(x) < low:
                        wrong.append(x)

        def write():
            for turn in range(150):
                x = turn % 4
                pending[x] = truth[x] + 1
                cache.invalidate(f"n:{x}")
                truth[x] = pending[x]

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        write()
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_fleet(place):
    if "lmdb" in place["storage_url"]:
        pytest.skip("one process may open a file once")
    with Cache(**place) as one, Cache(**place) as two:
        calls = []
        inside, go = threading.Event(), threading.Event()

        def slow(x):
            calls.append(x)
            inside.set()
            assert go.wait(30)
            if x == 3:
                raise KeyError(x)
            return x

        f = one.cacheable(namespace="fleet", fleet=True)(slow)
        g = two.cacheable(namespace="fleet", fleet=True)(slow)
        got = []
        a = threading.Thread(target=lambda: got.append(f(1)))
        a.start()
        assert inside.wait(30)
        b = threading.Thread(target=lambda: got.append(g(1)))
        b.start()
        time.sleep(0.1)
        go.set()
        a.join(), b.join()
        assert (calls, got) == ([1], [1, 1])
        with pytest.raises(KeyError):
            f(3)
        with pytest.raises(KeyError):
            g(3)


async def test_fleet_async(nodes):
    one, two = nodes(), nodes()
    calls = []

    async def slow(x):
        calls.append(x)
        await asyncio.sleep(0.1)
        if x == 3:
            raise KeyError(x)
        return x

    f = one.cacheable(namespace="fleet", fleet=True)(slow)
    g = two.cacheable(namespace="fleet", fleet=True)(slow)
    assert await asyncio.gather(f(1), g(1)) == [1, 1]
    assert calls == [1]
    for h in (f, g):
        with pytest.raises(KeyError):
            await h(3)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lock_that_comes_after_its_task_was_cancelled_is_given_back(place, monkeypatch, when):
    asked, go = threading.Event(), threading.Event()
    lock = zoocache._ffi_shared.SharedCore.lock

    def slow(self, *args):
        code = lock(self, *args) if when == "before" else None
        asked.set()
        assert go.wait(30)
        return lock(self, *args) if code is None else code

    with Cache(**place) as cache:

        @cache.cacheable(namespace="cancelled", fleet=True)
        async def f(x):
            return x

        monkeypatch.setattr(zoocache._ffi_shared.SharedCore, "lock", slow)
        task = asyncio.create_task(f(0))
        while not asked.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await cache.shared.run([(cache.tables()[1], 0)], int)  # what was asked for before is done
        monkeypatch.undo()
        fill = zoocache._table.Fill(cache.tables()[1], 0)
        cache.shared.look_up(fill)
        assert cache.shared.lock(fill)
        assert fill.token, "nobody has it any more"
        cache.shared.keep_fill(fill)
        assert cache.stats().flights == 0


def test_who_waits_for_the_fleet_gives_up(nodes):
    one, two = nodes(), nodes(flight_timeout=0.2)
    f = one.cacheable(namespace="fleet", fleet=True)(lambda x: x)
    g = two.cacheable(namespace="fleet", fleet=True)(lambda x: x + 1)
    assert f(0) == 0
    fill = zoocache._table.Fill(one.tables()[1], 1)
    one.shared.look_up(fill)
    assert one.shared.lock(fill)
    assert g(1) == 2
    one.shared.core.unlock(fill.name, fill.token)


# ---- LMDB --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
def test_processes_share_a_file(tmp_path):
    code = textwrap.dedent(
        f"""
        import sys
        from zoocache import Cache
        cache = Cache(storage_url="lmdb://{tmp_path}/cache")
        load = cache.cacheable(namespace="n", deps=["a"])(lambda x: "other")
        print(load(1), flush=True)
        for line in sys.stdin:
            if line == "invalidate\\n":
                cache.invalidate("a")
                print("done", flush=True)
            else:
                print(load(1), flush=True)
        cache.close()
        """
    )
    with Cache(storage_url=f"lmdb://{tmp_path}/cache") as cache:
        value = ["mine"]
        load = cache.cacheable(namespace="n", deps=["a"])(lambda x: value[0])
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout.readline() == "other\n"
        assert load(1) == "mine"
        for turn in range(20):
            value[0] = f"mine {turn}"
            process.stdin.write("invalidate\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            assert load(1) == value[0], "the very next call"
        process.stdin.close()
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
def test_lmdb_limits(tmp_path):
    with Cache(storage_url=f"lmdb://{tmp_path}/c", lmdb_map_size=4 * 2**20) as cache:
        for n in range(200):
            cache.set(f"k{n}", os.urandom(50_000))
        assert cache.get("k199") is not None, "a full file makes room"
        with pytest.raises(StorageIsFull, match="LMDB storage is full"):
            cache.set("huge", os.urandom(9 * 2**20))
        assert len(cache.get("huge")) == 9 * 2**20
        huge = cache.cacheable(namespace="huge")(lambda: os.urandom(9 * 2**20))
        assert huge() is huge()
        (tmp_path / "link").symlink_to(tmp_path / "c")
        for name in ("c", "link", "c/../c"):
            with pytest.raises(ValueError, match="open in this process already"):
                Cache(storage_url=f"lmdb://{tmp_path}/{name}")


@pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
def test_a_limit_is_of_all_processes(tmp_path):
    url = f"lmdb://{tmp_path}/c"
    code = """
    import sys, zoocache
    url, me = sys.argv[1:]
    zoocache.configure(storage_url=url, max_entries=100)
    for n in range(400):
        zoocache.set(f"{me}:{n}", n)
    """
    both = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), url, str(me)], cwd=ROOT) for me in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    with Cache(storage_url=url) as cache:
        live = cache.get_many([f"{me}:{n}" for me in range(2) for n in range(400)])
        assert len(live) == 100
        assert all(int(key.partition(":")[2]) == value for key, value in live.items())
    with Cache(storage_url=url, max_entries=10) as cache:
        for n in range(50):
            cache.set(f"k{n}", n)
    with Cache(storage_url=url) as cache:
        assert sorted(cache.get_many([f"k{n}" for n in range(50)]).values()) == list(range(40, 50))


# ---- Redis: several nodes ----------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_nodes_hear_of_each_other(nodes, shards):
    one, two = nodes(log_shards=shards), nodes(log_shards=shards)
    calls = []
    f, g = loader(one, calls), loader(two, calls)
    assert f(1) == g(1) == (1, 1)
    one.invalidate("item:1")
    two.catch_up(one.token())
    assert g(1) == (1, 2)
    assert f(1) == (1, 2)
    two.set("k", "before")
    one.catch_up(two.token())
    assert one.get("k") == "before"
    two.set("k", "after")
    one.catch_up(two.token())
    assert one.get("k") == "after"
    two.delete("k")
    one.catch_up(two.token())
    assert one.get("k") is None
    f.cache_clear()
    two.catch_up(one.token())
    assert g(1) == (1, 3)
    f.invalidate(1)
    two.catch_up(one.token())
    assert g(1) == (1, 4)
    one.clear()
    two.catch_up(one.token())
    assert g(1) == (1, 5)
    assert two.stats().bus_heard >= 5
    until(lambda: f(1) == (1, 5))


def test_without_a_token_within_the_bound(nodes):
    one, two = nodes(max_staleness=1.0), nodes(max_staleness=1.0)
    calls = []
    f, g = loader(one, calls), loader(two, calls)
    f(1), g(1)
    for _ in range(5):
        one.invalidate("item:1")
        start = time.monotonic()
        fresh = f(1)
        while g(1) != fresh:
            assert time.monotonic() - start < 1.0
            time.sleep(0.001)


def test_hits_make_no_call(nodes):
    cache = nodes()
    load = loader(cache, [])
    until(lambda: load(1) and next(iter(cache.tables()[1].entries.values())).word == words[CHANGES])


def test_a_bus_without_a_storage(server, tmp_path):
    options = {"bus_url": server.url, "prefix": tmp_path.name}
    with Cache(**options) as one, Cache(**options) as two:
        f, g = loader(one, []), loader(two, [])
        assert f(1) == g(1) == (1, 1)
        two.set("k", 1)
        assert one.get("k") is None
        one.invalidate("item")
        two.catch_up(one.token())
        assert g(1) == (1, 2)
        assert one.get_many(["k"]) == {}


def test_unix_socket(server):
    with Cache(storage_url=f"unix://{server.directory}/s", prefix="unix") as cache:
        cache.set("k", 1)
        evict(cache)
        assert cache.get("k") == 1


@pytest.mark.slow
def test_faults_never_reach_the_caller(own):
    with Cache(storage_url=own.url, timeout=0.1, max_staleness=0.5) as cache:
        calls = []
        load = loader(cache, calls)
        load(1)
        for fault, end in ((own.pause, own.go_on), (own.stop, own.start)):
            fault()
            start = time.monotonic()
            n = 0
            while time.monotonic() - start < 1.2:
                n += 1
                load(n % 7)
                cache.set("k", n)
                cache.get("k")
                cache.invalidate("item:3")
            before = time.perf_counter()
            for n in range(100):
                load(1000 + n)
            assert (time.perf_counter() - before) / 100 < 0.05, "it is spared while it is down"
            end()
            assert cache.stats().storage_errors > 0
            before = cache.stats().hits_storage

            def found():
                load(5)
                evict(cache)
                time.sleep(0.02)
                load(5)
                return cache.stats().hits_storage > before

            until(found)


def test_silence(own):
    with Cache(storage_url=own.url, timeout=0.1, max_staleness=0.3, max_stale=60) as cache:
        calls = []
        bypass = loader(cache, calls, namespace="bypass")
        serve = loader(cache, calls, namespace="serve", silence="serve", stale_if_error=100)
        error = loader(cache, calls, namespace="error", silence="error")
        method = cache.cacheable(silence="error")(lambda lock=threading: 1)
        first = [f(1) for f in (bypass, serve, error)]
        own.stop()
        until(lambda: cache.core.gate(1) != 0)
        assert bypass(1) != first[0], "computed, as nobody knows"
        assert serve(1) == first[1]
        assert cache.stats().hits_stale > 0
        with pytest.raises(BusSilent):
            error(1)
        with pytest.raises(BusSilent):
            error(2)
        own.start()
        until(lambda: cache.core.gate(1) == 0)
        assert error(1)
        assert method() == 1


@pytest.mark.slow
def test_a_loud_writer(own):
    with (
        Cache(storage_url=own.url, timeout=0.1, ack="strict") as cache,
        Cache(storage_url=own.url, timeout=0.1) as quiet,
    ):
        cache.invalidate("a")
        own.stop()
        with pytest.raises(BusSilent):
            cache.invalidate("a")
        quiet.invalidate("b")
        assert quiet.stats().bus_pending > 0
        with pytest.raises(TimeoutError):
            quiet.catch_up(quiet.token() + 1, 0.05)
        own.start()
        until(lambda: quiet.stats().bus_pending == 0)


def test_flushed(own):
    with Cache(storage_url=own.url, max_staleness=0.5) as one, Cache(storage_url=own.url, max_staleness=0.5) as two:
        calls = []
        f, g = loader(one, calls), loader(two, calls)
        f(1), g(1)
        until(lambda: one.core.gate(1) == two.core.gate(1) == 0)
        own.stop()
        own.start()  # empty, and with another identity
        until(lambda: one.stats().bus_breaks and two.stats().bus_breaks)
        one.invalidate("item:1")
        assert f(1)[1] > 1
        until(lambda: g(1) == f(1))


def test_get_many_asks_once(nodes):
    one, two = nodes(), nodes()
    for n in range(30):
        one.set(f"k{n}", n)
    until(lambda: two.stats().bus_heard == 30)  # heard later, they would end what was read before
    assert two.get_many(f"k{n}" for n in range(31)) == {f"k{n}": n for n in range(30)}
    assert two.stats().hits_storage == 30
    assert two.get_many(["k1", "k2"]) == {"k1": 1, "k2": 2}
    assert two.stats().hits_storage == 30


def test_write_behind(nodes):
    one, two = nodes(write_behind=True, storage_ttl=100), nodes()
    one.set("k", 1)
    until(lambda: two.get("k") == 1)


def test_refresh_beside(nodes):
    cache = nodes()
    calls = []
    load = loader(cache, calls, soft_ttl=0.05)
    assert load(1) == (1, 1)
    time.sleep(0.1)
    until(lambda: load(1)[1] > 1)
    value = load.refresh(1)
    assert value[1] == len(calls)


# ---- URLs, builds ------------------------------------------------------------------------------------


def test_built_without(monkeypatch):
    monkeypatch.setattr(
        _ffi, "parts", lambda: {"lmdb": False, "redis": False, "tls": False, "openssl": False, "seal": False}
    )
    for url, how in (("lmdb:///x", "liblmdb-dev"), ("redis://x", "libhiredis-dev"), ("rediss://x", "libhiredis-dev")):
        with pytest.raises(BuiltWithout, match=how):
            Cache(storage_url=url)
    monkeypatch.setattr(
        _ffi, "parts", lambda: {"lmdb": True, "redis": True, "tls": False, "openssl": False, "seal": False}
    )
    with pytest.raises(BuiltWithout, match="libssl-dev"):
        Cache(storage_url="rediss://x")
    monkeypatch.setattr(
        _ffi, "parts", lambda: {"lmdb": True, "redis": True, "tls": False, "openssl": True, "seal": False}
    )
    with pytest.raises(BuiltWithout, match="need OpenSSL.* apt install libssl3"):
        Cache(bus_url="rediss://x")
    explain = _shared.Settings.explain
    settings = _shared.Settings(
        storage_url="redis://x", bus_url=None, storage=None, prefix=None, lmdb_map_size=None, flight_timeout=1
    )
    assert isinstance(explain(settings, _ffi.E_BUILD), BuiltWithout)
    assert isinstance(explain(settings, _ffi.E_FULL), zoocache.StorageIsFull)


@pytest.mark.skipif(not PARTS["tls"] or not Redis.there(), reason="without Redis over TLS")
def test_over_tls(tmp_path):
    cert, key = certificate(tmp_path, "DNS:localhost")
    port = free_port()
    tls = ["--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert]
    redis = Redis(tmp_path, *map(str, tls))
    try:
        options = {"tls_ca": cert, "tls_cert": cert, "tls_key": key, "timeout": 10}
        url = f"rediss://localhost:{port}"
        with Cache(storage_url=url, **options) as one, Cache(storage_url=url, **options) as two:
            one.set("k", 1, deps=["t"])
            assert two.get("k") == 1 and two.stats().hits_storage == 1
            two.invalidate("t")
            until(lambda: one.get("k") is None)
        with Cache(storage_url=f"rediss://127.0.0.1:{port}", **options) as stranger:  # not its name
            until(lambda: stranger.stats().bus_errors)
            assert stranger.get("k") is None
        # It ends, whatever its threads are doing.
        code = f"import zoocache; zoocache.Cache(storage_url={url!r}, **{options!r}).set('k', 1)"
        subprocess.run([sys.executable, "-c", code], check=True)
    finally:
        redis.stop()
    with pytest.raises(ValueError, match="cannot open"):
        Cache(storage_url="rediss://localhost", tls_ca="/nowhere")


@pytest.mark.skipif(not PARTS["redis"], reason="without Redis")
def test_bad_urls():
    with pytest.raises(ValueError, match="scheme"):
        Cache(storage_url="gopher://x")
    with pytest.raises(ValueError, match="cannot open"):
        Cache(storage_url="redis://127.0.0.1:notaport")
    with pytest.raises(ValueError, match="cannot open"):
        Cache(storage_url="redis://127.0.0.1", log_shards=17)


def test_build_leaves_out():
    build = ROOT / "_build.py"
    code = "import _build; print(_build.parts(_build.compiler()))"
    environment = {**os.environ, "ZOOCACHE_WITHOUT": "lmdb redis seal"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=build.parent, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "([], [])", done.stderr


@pytest.mark.slow
def test_never_staler_than_the_bound(own):
    """Faults at random: what a node serves has everything that was acknowledged before the bound."""
    import random

    bound, seed = 0.5, random.randrange(2**32)
    chance = random.Random(seed)
    truth, acked, wrong = [0], [(0.0, 0)], []
    stop = threading.Event()
    options = {"storage_url": own.url, "max_staleness": bound, "timeout": 0.1}
    with Cache(**options) as one, Cache(**options) as two:
        loads = [c.cacheable(namespace="chaos", deps=["chaos"])(lambda: truth[0]) for c in (one, two)]

        def read(load):
            while not stop.is_set():
                due = time.monotonic() - bound
                least = max(n for at, n in acked if at <= due)
                value = load()
                if value < least:
                    wrong.append((seed, value, least, time.monotonic()))
                time.sleep(0.0005)

        def write():
            while not stop.is_set():
                truth[0] += 1
                value = truth[0]
                one.invalidate("chaos")
                if not one.stats().bus_pending:
                    acked.append((time.monotonic(), value))
                time.sleep(chance.random() / 20)

        acked[0] = (time.monotonic() - bound - 1, 0)
        threads = [threading.Thread(target=read, args=(load,)) for load in loads] + [threading.Thread(target=write)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(chance.random())
            if chance.random() < 0.5:
                own.pause()
                time.sleep(chance.random())
                own.go_on()
            else:
                own.stop()
                time.sleep(chance.random() / 2)
                own.start()
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert one.stats().hits + two.stats().hits > 0
        assert len(acked) > 5


# ---- who sleeps, who is cut off ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="needs signals, threads' priorities")
@pytest.mark.parametrize(
    ("place", "kind"),
    [("redis", kind) for kind in ("sync", "async", "serve", "error", "key", "many")] + [("lmdb", "sync")],
    indirect=["place"],
)
@pytest.mark.slow
def test_stopped_and_continued(place, tmp_path, kind):
    """A process that was stopped serves nothing that was invalidated longer than the bound before the call."""
    bound, stops, late = 0.1, 6, []
    path = tmp_path / "truth"
    path.write_bytes(struct.pack("ddd", 1, 0, 0))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 24) as memory, Cache(**place, max_staleness=bound) as one:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "sleeper.py", place["storage_url"], place.get("prefix", ""), str(bound),
             path, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

        def ready():
            process.stdin.write("\n")
            process.stdin.flush()
            while (line := process.stdout.readline()) != "ready\n":
                assert line, "it has ended"
                late.append(line)

        for truth in range(2, stops + 2):
            ready()
            time.sleep(0.05)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            struct.pack_into("d", memory, 0, truth)
            one.invalidate("n")
            # It may have been stopped while it had the file's lock: then nothing is acknowledged yet.
            if one.stats().bus_pending == 0:
                struct.pack_into("dd", memory, 8, truth, time.monotonic())
            time.sleep(2.5 * bound)
            process.send_signal(signal.SIGCONT)
        ready()
        out, _ = process.communicate()
    assert process.returncode == 0
    assert not late
    said, hits = out.split()
    assert (said, int(hits) > 100) == ("hits", True)


def in_flight(cache, invalidate):
    """What a caller gets who joins a computation that has read what was invalidated, elsewhere, before the call."""
    truth, inside, go, got = ["old"], threading.Event(), threading.Event(), []

    @cache.cacheable(deps=["n"], namespace="flight")
    def slow():
        value = truth[0]
        inside.set()
        assert go.wait(30)
        return value

    leader = threading.Thread(target=slow)
    leader.start()
    assert inside.wait(30)
    truth[0] = "new"
    invalidate()
    follower = threading.Thread(target=lambda: got.append(slow()))
    follower.start()
    until(lambda: cache.stats().waits == 1)
    go.set()
    leader.join(), follower.join()
    return got


def test_who_is_cut_off_joins_no_flight_of_before(own):
    def tell(*commands):
        with socket.create_connection(("127.0.0.1", own.port)) as redis:
            for command in commands:
                redis.sendall(command.encode() + b"\r\n")
                assert redis.recv(100)[:1] in b"+:", command

    tell("ACL SETUSER two on nopass ~* &* +@all")
    bound = 0.3
    url = own.url.replace("//", "//two:x@")
    with Cache(storage_url=url, max_staleness=bound, timeout=0.1) as two, Cache(storage_url=own.url) as one:

        def elsewhere():
            tell("ACL SETUSER two off", "CLIENT KILL USER two")
            one.invalidate("n")
            time.sleep(bound + 0.1)

        assert in_flight(two, elsewhere) == ["new"]


def test_the_very_next_call_joins_no_flight_of_before(tmp_path):
    if not PARTS["lmdb"]:
        pytest.skip("without LMDB")
    code = "import sys; from zoocache import Cache; Cache(storage_url=sys.argv[1]).invalidate('n')"
    url = f"lmdb://{tmp_path}/cache"
    with Cache(storage_url=url) as cache:

        def elsewhere():
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-c", code, url], check=True, env=environment)

        assert in_flight(cache, elsewhere) == ["new"]
