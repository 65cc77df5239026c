"""The face of cachekit: its names, and what they promise."""

import asyncio
import importlib
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from servers import Redis

from zoocache import Cache, _ffi, add_deps
from zoocache.compat import cachekit
from zoocache.compat.cachekit import (
    BackpressureConfig,
    CacheInfo,
    CircuitBreakerConfig,
    ConfigurationError,
    DecoratorConfig,
    FileBackend,
    FileBackendConfig,
    HealthStatus,
    InvalidationOutcome,
    L1CacheConfig,
    MemcachedBackendConfig,
    MonitoringConfig,
    RedisBackend,
    cache,
    engine,
    reset_settings,
    set_default_backend,
)
from zoocache.testing import FakeClock

PARTS = _ffi.parts()
KEY = "ab" * 32
VARIABLES = [
    *("CACHEKIT_REDIS_URL", "REDIS_URL", "CACHEKIT_FILE_CACHE_DIR", "CACHEKIT_MASTER_KEY", "CACHEKIT_API_KEY"),
    *("CACHEKIT_DEFAULT_TTL", "CACHEKIT_MAX_CHUNK_SIZE_MB", "CACHEKIT_ENABLE_COMPRESSION", "CACHEKIT_L1_MAX_SIZE_MB"),
    *("CACHEKIT_MEMCACHED_SERVERS", "CACHEKIT_PREVIOUS_MASTER_KEYS", "CACHEKIT_ENCRYPTION_FAIL_CLOSED"),
]


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    reset_settings()
    yield
    set_default_backend(None)
    reset_settings()
    for each in cachekit._engines.values():
        each.close()
    cachekit._engines.clear()


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(cachekit, "Engine", partial(Cache, clock=clock))
    return clock


class Shelf:
    """A backend of one's own."""

    def __init__(self):
        self.records, self.calls, self.broken = {}, [], False

    def _called(self, *call):
        self.calls.append(call)
        if self.broken:
            raise cachekit.BackendError("broken")

    def get(self, key):
        self._called("get", key)
        return self.records.get(key)

    def set(self, key, value, ttl=None):
        self._called("set", key, ttl)
        self.records[key] = value

    def delete(self, key):
        self._called("delete", key)
        return self.records.pop(key, None) is not None

    def exists(self, key):
        return key in self.records

    def health_check(self):
        return True, {}


def counted(decorate):
    calls = []

    @decorate
    def load(uid=0, *, name=""):
        calls.append((uid, name))
        return {"uid": uid, "name": name, "call": len(calls)}

    return load, calls


def acounted(decorate):
    calls = []

    @decorate
    async def load(uid=0):
        calls.append(uid)
        return {"uid": uid, "call": len(calls)}

    return load, calls


# ---- functions ---------------------------------------------------------------------------------------

FORMS = {
    "bare": cache,
    "called": cache(),
    "memory": cache(backend=None),
    "config": cache(config=DecoratorConfig(ttl=60, namespace="x")),
    "override": cache(config=DecoratorConfig.minimal(), ttl=60, l1_enabled=True),
    "minimal": cache.minimal,
    "production": cache.production(ttl=60),
    "dev": cache.dev,
    "test": cache.test(backend=None),
    "local": cache.local,
    "local called": cache.local(ttl=60, max_entries=100),
}


@pytest.mark.parametrize("decorate", FORMS.values(), ids=FORMS)
def test_a_call_is_computed_once(decorate):
    load, calls = counted(decorate)
    first = load(1, name="a")
    assert first == {"uid": 1, "name": "a", "call": 1}
    assert load(uid=1, name="a") is first
    assert load({"a": [1]}) == load({"a": [1]})
    assert calls == [(1, "a"), ({"a": [1]}, "")]
    assert load.__name__ == "load"
    assert list(inspect.signature(load).parameters) == ["uid", "name"]
    assert load.__wrapped__(1)["call"] == 3


@pytest.mark.parametrize("decorate", FORMS.values(), ids=FORMS)
def test_a_coroutine_function_is_one(decorate):
    load, calls = acounted(decorate)

    async def main():
        assert await load(1) is await load(uid=1)
        assert await load(1, _bypass_cache=True) == {"uid": 1, "call": 2}
        assert await load.ainvalidate_cache(1) is InvalidationOutcome.NO_L2
        assert (await load(1))["call"] == 3
        assert await load.invalidate_cache() is None
        assert (await load(1))["call"] == 4

    asyncio.run(main())
    assert inspect.iscoroutinefunction(load)
    load.cache_clear()
    assert load.cache_info().currsize == 0


@pytest.mark.parametrize("decorate", FORMS.values(), ids=FORMS)
def test_what_is_invalidated(decorate):
    load, calls = counted(decorate)
    other, others = counted(decorate)
    load(1), load(2), other(1)
    assert load.invalidate_cache(1) is InvalidationOutcome.NO_L2
    load(1), load(2)
    assert len(calls) == 3
    assert load.invalidate_cache() is None
    load(1), load(2)
    assert len(calls) == 5
    assert load.cache_info().misses == 5
    load.cache_clear()
    assert load.cache_info()[:6] == (0, 0, 0, 0, load.cache_info().maxsize, 0)
    load(1), load(2), other(1)
    assert (len(calls), len(others)) == (7, 1)
    assert asyncio.run(load.ainvalidate_cache(2)) is InvalidationOutcome.NO_L2
    load(1), load(2)
    assert len(calls) == 8


def test_without_parameters_the_one_entry_is_invalidated():
    runs = []

    @cache
    def one():
        return runs.append(1) or len(runs)

    assert [one(), one()] == [1, 1]
    assert one.invalidate_cache() is InvalidationOutcome.NO_L2
    assert one() == 2


@pytest.mark.parametrize(
    "text", ["x", "x=0", "x, *rest", "x, *, y=1", "x, **more", "*rest, **more", "x, /, z=1, **more"]
)
def test_the_cache_is_bypassed(text):
    runs = []
    space = {"runs": runs}
    exec(f"def f({text}):\n    runs.append(1)\n    return len(runs)", space)
    f = cache(space["f"])
    assert [f(1), f(1), f(1, _bypass_cache=True), f(1, _bypass_cache=False)] == [1, 1, 2, 1]
    assert f.cache_info().hits == 2


def test_too_many_arguments_are_refused():
    load = cache(lambda x: x)
    for wrong in (lambda: load(1, 2), lambda: load(1, None), lambda: load(1, 2, 3), lambda: load()):
        with pytest.raises(TypeError):
            wrong()


def test_methods():
    class Shop:
        runs = 0

        @cache
        def stock(self, item):
            Shop.runs += 1
            return item

        @staticmethod
        @cache(ttl=60)
        def static(item):
            Shop.runs += 1
            return item

        @cache.local
        @classmethod
        def klass(cls, item):
            Shop.runs += 1
            return item

    one, two = Shop(), Shop()
    assert [one.stock(1), one.stock(1), two.stock(1), one.static(2), Shop.static(2)] == [1, 1, 1, 2, 2]
    assert [one.klass(3), Shop.klass(3)] == [3, 3]
    assert Shop.runs == 4


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match="generator"):

        @cache
        def numbers():
            yield 1

    with pytest.raises(TypeError, match="functions, not int"):
        cache(5)
    with pytest.raises(TypeError, match="DecoratorConfig"):
        cache(config={"ttl": 60})


def test_one_call_computes():
    began, go = threading.Event(), threading.Event()
    runs = []

    @cache.production
    def slow(x):
        runs.append(x)
        began.set()
        assert go.wait(60)
        return object()

    with ThreadPoolExecutor(8) as pool:
        values = [pool.submit(slow, 1) for _ in range(8)]
        assert began.wait(60)
        go.set()
        assert len({id(each.result()) for each in values}) == 1
    assert runs == [1]


def test_tags_work_through_it():
    runs = []

    @cache
    def profile(uid):
        add_deps([f"user:{uid}"])
        return runs.append(uid)

    profile(1), profile(2), profile(1)
    engine().invalidate("user:1")
    profile(1), profile(2)
    assert runs == [1, 2, 1]


def test_the_end_is_fixed(clock):
    load, calls = counted(cache(ttl=60, l1=L1CacheConfig(swr_enabled=False)))
    for _ in range(3):
        load(1)
        clock.advance(25)
    load(1)
    assert len(calls) == 2


def test_a_read_extends_a_life_that_says_so(clock):
    load, calls = counted(cache(ttl=60, refresh_ttl_on_get=True))
    for _ in range(5):
        load(1)
        clock.advance(50)
    assert len(calls) == 1
    clock.advance(11)
    load(1)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "fresh"),
    [
        ({"ttl": 100}, 50),
        ({"ttl": 100, "l1": L1CacheConfig(swr_threshold_ratio=0.2)}, 20),
        ({"ttl": 100, "stale_ttl": 100}, 100),
        ({"ttl": 100, "swr_by_default": True}, 100),
    ],
)
def test_what_is_stale_is_refreshed_beside(clock, options, fresh):
    load, calls = counted(cache(**options))
    load(1)
    clock.advance(fresh - 1)
    assert load(1)["call"] == 1
    assert len(calls) == 1
    clock.advance(2)
    assert load(1)["call"] == 1
    while load(1)["call"] == 1:
        threading.Event().wait(0.001)
    assert len(calls) == 2


def test_without_a_ttl_nothing_is_stale(clock):
    load, calls = counted(cache)
    load(1)
    clock.advance(1e9)
    load(1)
    assert len(calls) == 1


def test_no_memory_and_no_backend_is_no_cache():
    load, calls = counted(cache(ttl=60, backend=None, l1_enabled=False))
    assert [load(1)["call"], load(1)["call"]] == [1, 2]


def test_a_key_of_ones_own():
    load, calls = counted(cache(key=lambda uid, name="": "same"))
    assert load(1) is load(2)
    local, calls = counted(cache.local(key=lambda *args, **more: "same", namespace="n"))
    assert local(1) is local(2)


def test_local_has_a_limit_and_says_what_it_takes():
    load, calls = counted(cache.local(max_entries=2))
    for uid in range(10):
        load(uid)
    assert load.cache_info() == CacheInfo(0, 10, 0, 0, 2, 2, 0.0, None, None)
    for options in ({"backend": None}, {"serializer": "std"}, {"master_key": KEY}, {"config": DecoratorConfig()}):
        with pytest.raises(TypeError, match=r"@cache\.local\(\) takes ttl"):
            cache.local(**options)
    for options in ({"ttl": 0}, {"ttl": -5}, {"max_entries": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            cache.local(**options)
    for options in ({"ttl": 0.5}, {"max_entries": "5"}):
        with pytest.raises(TypeError, match="must be an int"):
            cache.local(**options)


# ---- configurations ----------------------------------------------------------------------------------


def test_the_presets():
    production, minimal, dev, test = (
        getattr(DecoratorConfig, name)() for name in ("production", "minimal", "dev", "test")
    )
    assert [x.ttl for x in (production, minimal, dev, test)] == [600, 300, 300, 300]
    assert [x.circuit_breaker.enabled for x in (production, minimal, dev, test)] == [True, False, True, False]
    assert [x.monitoring.enable_prometheus_metrics for x in (production, dev)] == [True, False]
    assert [x.l1.swr_enabled for x in (production, minimal)] == [True, False]
    assert [x.backpressure.enabled for x in (minimal, test)] == [True, False]
    assert minimal.integrity_checking is False
    assert DecoratorConfig.minimal(ttl=None, integrity_checking=True).integrity_checking
    assert DecoratorConfig.dev() == DecoratorConfig.dev()
    flat = DecoratorConfig(ttl=5, encryption=False).to_dict()
    assert (flat["ttl"], flat["l1_enabled"], flat["failure_threshold"], flat["backend"]) == (5, True, 5, None)
    with pytest.raises(AttributeError):
        production.ttl = 5
    for name in ("fast", "safe"):
        assert not hasattr(cache, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L1CacheConfig(max_size_mb=0),
        lambda: L1CacheConfig(swr_threshold_ratio=0),
        lambda: L1CacheConfig(swr_retry_interval=-1),
        lambda: CircuitBreakerConfig(failure_threshold=0),
        lambda: CircuitBreakerConfig(success_threshold=4),
        lambda: CircuitBreakerConfig(recovery_timeout=0),
        lambda: BackpressureConfig(max_concurrent_requests=0),
        lambda: BackpressureConfig(timeout=0),
    ],
)
def test_bad_parts_are_refused(make):
    part = make()
    names = {L1CacheConfig: "l1", CircuitBreakerConfig: "circuit_breaker", BackpressureConfig: "backpressure"}
    with pytest.raises(ConfigurationError):
        cache(**{names[type(part)]: part})


@pytest.mark.parametrize("ttl", [-1, float("inf"), float("nan")])
def test_a_ttl_that_makes_no_sense_is_refused(ttl):
    for form in (cache, cache.production):
        with pytest.raises(ValueError, match="ttl must be finite"):
            form(ttl=ttl)


def test_wrong_options_are_refused():
    for options in (
        {"ttl": None, "stale_ttl": 5},
        {"ttl": 5, "stale_ttl": -1},
        {"ttl": 5, "stale_ttl": 0.5},
        {"tll": 5},
        {"ttl_refresh_threshold": 2},
        {"integrity_checking": 1},
    ):
        for form in (cache, cache.minimal, partial(cache, config=DecoratorConfig())):
            with pytest.raises(ConfigurationError):
                form(**options)
    with pytest.raises(TypeError, match="circuit_breaker must be"):
        cache(circuit_breaker=MonitoringConfig())
    with pytest.raises(ValueError, match="Unknown serializer: 'yaml'"):
        cache(serializer="yaml")(len)


def test_what_has_no_counterpart_says_what_to_use(monkeypatch):
    def refused(kind, match, call):
        with pytest.raises(kind, match=match) as caught:
            call()
        assert KEY not in str(caught.value)

    def load():
        return 1

    refused(ConfigurationError, "requires a master_key", lambda: cache.secure(load))
    for form in (cache, cache.production, cache.secure):
        refused(ConfigurationError, "scopes", lambda f=form: f(master_key=KEY, tenant_extractor=len))
    for bad in (KEY[2:], "x" * 64, KEY + "00"):
        refused(
            ConfigurationError,
            "master_key, or CACHEKIT_MASTER_KEY: .*32 bytes",
            lambda k=bad: cache.secure(master_key=k),
        )
    refused(ConfigurationError, "nothing to seal in memory", cache.secure(master_key=KEY)(load))
    refused(ConfigurationError, "nothing to seal in memory", lambda: cache.secure(master_key=KEY, backend=None)(load))
    refused(ConfigurationError, "requires encryption.master_key", lambda: cache(encryption=True))
    refused(ConfigurationError, "no option master_keey", lambda: cache(master_keey=KEY))
    refused(ConfigurationError, "no keys in common", lambda: cache(interop="op", namespace="n"))
    refused(NotImplementedError, "use RedisBackend", lambda: cache.io(api_key=KEY))
    refused(ConfigurationError, "one alone", lambda: cachekit.MemcachedBackend(MemcachedBackendConfig(["a:1", "b:1"])))
    refused(NotImplementedError, "use RedisBackend", lambda: cachekit.CachekitIOBackend(api_key=KEY))
    refused(NotImplementedError, "cache.secure", lambda: cachekit.EncryptionWrapper(serializer=None, master_key=KEY))
    refused(NotImplementedError, "redis_url", lambda: RedisBackend(client_provider=object()))
    refused(NotImplementedError, "zoocache.Cache", lambda: RedisBackend().get("k"))


secrets = []  # that were computed


def secret(x):
    secrets.append(x)
    return f"secret-{x}"


def plain(x):
    return f"plain-{x}"


@pytest.mark.skipif(not PARTS["seal"], reason="built without sealing")
def test_what_is_secure_is_sealed(monkeypatch, tmp_path):
    secrets.clear()
    shelf = Shelf()
    sealed = cache.secure(master_key=KEY, backend=shelf)(secret)
    opened = cache(backend=shelf)(plain)
    assert [sealed(1), sealed(1), opened(1), opened(1), *secrets] == ["secret-1"] * 2 + ["plain-1"] * 2 + [1]
    kept = b"".join(value for value in shelf.records.values())
    assert (b"secret-" in kept, b"plain-" in kept) == (False, True)
    for config in (DecoratorConfig.secure(KEY), DecoratorConfig(encryption=cachekit.EncryptionConfig(True, KEY))):
        assert KEY not in repr(config)
        assert config.to_dict()["master_key"] == "[REDACTED]"
        assert engine(shelf, config).sealed
    assert engine(shelf, DecoratorConfig.secure(KEY)) is not engine(shelf)

    monkeypatch.setenv("CACHEKIT_MASTER_KEY", KEY)
    assert engine(shelf, DecoratorConfig.secure()) is engine(shelf, DecoratorConfig()), "what has a key is sealed"
    assert engine(shelf, DecoratorConfig.secure("cd" * 32)) is not engine(shelf)
    assert not engine(shelf, DecoratorConfig(encryption=False)).sealed
    assert not engine(None).sealed, "in memory nothing is"

    if PARTS["lmdb"]:  # beside each other, and by the key before
        files = FileBackend(FileBackendConfig(tmp_path / "cache", max_size_mb=4))
        assert cache.secure(backend=files)(secret)(2) == cache(backend=files, encryption=False)(secret)(2) == "secret-2"
        assert engine(files, DecoratorConfig.secure()).sealed
        secrets.clear()
        for each in cachekit._engines.values():
            each.close()
        cachekit._engines.clear()
        monkeypatch.setenv("CACHEKIT_PREVIOUS_MASTER_KEYS", KEY)
        monkeypatch.setenv("CACHEKIT_MASTER_KEY", "cd" * 32)
        assert (cache.secure(backend=files)(secret)(2), secrets) == ("secret-2", [])


@pytest.mark.plain
def test_memcached(monkeypatch, tmp_path):
    from servers import Memcached

    server = Memcached(tmp_path)
    address = server.url.removeprefix("memcached://")
    monkeypatch.setenv("CACHEKIT_MEMCACHED_SERVERS", f'["{address}"]')
    backend = cachekit.MemcachedBackend()
    assert backend == cachekit.MemcachedBackend(MemcachedBackendConfig([address]))
    load, calls = counted(cache(ttl=60))
    assert [load(1), load(1), len(calls)] == [load(1), load(1), 1]
    assert engine().shared is not None
    assert engine() is engine(backend)
    for text, match in (("[1]", "list of host:port"), ("", None), ("a:1,b:1", "one alone")):
        monkeypatch.setenv("CACHEKIT_MEMCACHED_SERVERS", text)
        reset_settings()
        if match:
            with pytest.raises(ConfigurationError, match=match):
                engine()
        else:
            assert engine().shared is None
    monkeypatch.setenv("CACHEKIT_MEMCACHED_SERVERS", address)
    monkeypatch.setenv("CACHEKIT_FILE_CACHE_DIR", str(tmp_path))
    reset_settings()
    with pytest.raises(ConfigurationError, match=r"FILE_CACHE_DIR and .*MEMCACHED_SERVERS: which of both"):
        engine()
    server.stop()


# ---- the environment ---------------------------------------------------------------------------------


def test_the_environment_is_read_at_the_first_call(monkeypatch, clock):
    load, calls = counted(cache)
    monkeypatch.setenv("CACHEKIT_DEFAULT_TTL", "100")
    load(1)
    clock.advance(99)
    load(1)
    clock.advance(2)
    load(1)
    assert len(calls) == 2
    code = "import zoocache.compat.cachekit as k; k.cache(len); k.cache.production(lambda: 1); k.DecoratorConfig()"
    bad = {"CACHEKIT_DEFAULT_TTL": "never", "CACHEKIT_API_KEY": "x", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=bad, check=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CACHEKIT_DEFAULT_TTL", "soon"),
        ("CACHEKIT_DEFAULT_TTL", "0"),
        ("CACHEKIT_MAX_CHUNK_SIZE_MB", "-1"),
        ("CACHEKIT_ENABLE_COMPRESSION", "maybe"),
        ("CACHEKIT_L1_MAX_SIZE_MB", ""),
        ("CACHEKIT_API_KEY", "k"),
        ("CACHEKIT_MEMCACHED_SERVERS", "[1]"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    load, calls = counted(cache)
    with pytest.raises(ConfigurationError, match=name):
        load(1)


def test_which_backend_the_environment_names(monkeypatch, tmp_path):
    def named():
        reset_settings()
        backend = cachekit.get_settings().backend()
        return None if backend is None else backend.options["storage_url"]

    assert named() is None
    monkeypatch.setenv("REDIS_URL", "redis://second")
    assert named() == "redis://second"
    monkeypatch.setenv("CACHEKIT_REDIS_URL", "redis://first")
    assert named() == "redis://first"
    assert RedisBackend().options["storage_url"] == "redis://first"
    monkeypatch.setenv("CACHEKIT_FILE_CACHE_DIR", str(tmp_path / "files"))
    with pytest.raises(ConfigurationError, match="which of both"):
        named()
    monkeypatch.delenv("CACHEKIT_REDIS_URL")
    assert named() == f"lmdb://{tmp_path}/files"
    assert "first" not in repr(cachekit.get_settings())


def test_the_default_backend_is_looked_up_at_the_first_call():
    load, calls = counted(cache(ttl=60))
    memory, _ = counted(cache(ttl=60, backend=None))
    shelf = Shelf()
    set_default_backend(shelf)
    assert cachekit.get_default_backend() is shelf
    load(1), memory(1)
    assert len(shelf.records) == 1


@pytest.mark.parametrize("backend", [None, Shelf()], ids=["memory", "backend"])
def test_what_is_larger_than_a_chunk_is_not_stored(monkeypatch, backend):
    monkeypatch.setenv("CACHEKIT_MAX_CHUNK_SIZE_MB", "1")
    runs = []

    @cache(backend=backend, ttl=60)
    def load(size):
        runs.append(size)
        return "x" * size

    for size in (10, 10, 2**21, 2**21):
        assert len(load(size)) == size
    assert runs == [10, 2**21, 2**21]
    if backend is not None:
        assert all(len(record) < 2**20 for record in backend.records.values())


def test_the_memory_has_a_size(monkeypatch):
    runs = []

    @cache(backend=None, ttl=60, l1=L1CacheConfig(max_size_mb=1, swr_enabled=False))
    def load(n):
        runs.append(n)
        return "x" * (700 * 1024)

    for n in (1, 2, 2, 1):
        load(n)
    assert runs == [1, 2, 1]
    monkeypatch.setenv("CACHEKIT_L1_MAX_SIZE_MB", "2")
    reset_settings()
    assert cachekit.engine(None) is not cachekit.engine(None, DecoratorConfig(l1=L1CacheConfig(max_size_mb=1)))


# ---- backends ----------------------------------------------------------------------------------------


def test_a_backend_of_ones_own_is_asked():
    shelf = Shelf()
    load, calls = counted(cache(backend=shelf, ttl=60))
    first = load(1)
    assert load(1) == first
    assert load(1) is not first  # made of bytes, there and here: nobody shares it
    ((_, key, ttl),) = [call for call in shelf.calls if call[0] == "set"]
    assert ttl in (60, 61)
    assert isinstance(shelf.records[key], bytes)
    assert load.invalidate_cache(1) is InvalidationOutcome.SUCCEEDED
    assert shelf.records == {}
    load(1), load(2)
    load.invalidate_cache()
    load(1)
    assert len(calls) == 4


def test_its_hits_are_told_apart():
    shelf = Shelf()
    load, calls = counted(cache(backend=shelf, ttl=60))
    for n in range(100):
        load(n)
    table = next(t for t in engine(shelf).tables() if t.name == "load")
    table.entries.clear()  # as if this process had just begun
    for n in range(100):
        load(n)
    load(1)
    info = load.cache_info()
    assert (info.hits, info.misses, info.l1_hits, info.l2_hits, info.currsize) == (101, 100, 1, 100, 100)
    assert info.l2_avg_latency_ms > 0
    assert len(calls) == 100


def test_a_broken_backend_costs_nobody_a_result():
    shelf = Shelf()
    shelf.broken = True
    load, calls = counted(cache(backend=shelf, ttl=60))
    assert load(1)["uid"] == 1
    for uid in range(2, 9):
        assert load(uid)["uid"] == uid
    assert load.get_health_status()["status"] == "degraded"
    assert load.invalidate_cache(1) is InvalidationOutcome.FAILED


def test_a_coroutine_function_with_a_backend():
    shelf = Shelf()
    load, calls = acounted(cache(backend=shelf, ttl=60))

    async def main():
        assert await load(1) == await load(1)
        assert await load.ainvalidate_cache(1) is InvalidationOutcome.SUCCEEDED
        assert (await load(1))["call"] == 2
        assert await load.ainvalidate_cache() is None
        assert (await load(1))["call"] == 3

    asyncio.run(main())
    with pytest.raises(TypeError, match="await ainvalidate_cache"):
        load.cache_clear()


def test_backends_that_are_the_same_are_one(tmp_path):
    assert RedisBackend("redis://h") == RedisBackend("redis://h")
    assert RedisBackend("redis://h") != RedisBackend("redis://g")
    config = FileBackendConfig(tmp_path, max_size_mb=32)
    assert FileBackend(config) == FileBackend(config)
    assert FileBackend(config).options["lmdb_map_size"] == 32 * 2**20


@pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
def test_files(tmp_path):
    backend = FileBackend(FileBackendConfig(cache_dir=tmp_path / "cache", max_size_mb=32))
    load, calls = counted(cache(backend=backend, ttl=60))
    again, _ = counted(cache(backend=FileBackend(FileBackendConfig(tmp_path / "cache", max_size_mb=32))))
    load(1), load(2), again(1)
    engine(backend).close()
    cachekit._engines.clear()
    anew, others = counted(cache(backend=backend, ttl=60))
    assert anew(1) == load.__wrapped__(1) | {"call": 1}
    assert others == []
    assert anew.cache_info().l2_hits == 1
    assert anew.invalidate_cache() is None
    anew(1)
    assert len(others) == 1


@pytest.mark.skipif(not PARTS["redis"] or not Redis.there(), reason="without Redis")
def test_redis(tmp_path, monkeypatch):
    server = Redis(tmp_path)
    try:
        monkeypatch.setenv("CACHEKIT_REDIS_URL", server.url)
        load, calls = counted(cache.production)
        first = load(1)
        assert load(1) == first
        assert engine() is engine(RedisBackend(server.url))
        with Cache(storage_url=server.url, read_extend_ttl=False) as other:  # another process
            same, others = counted(other.cacheable(ttl=600))
            other.catch_up(engine().token())
            assert same(1) == first
            load.invalidate_cache(1)
            other.catch_up(engine().token())
            assert same(1)["call"] == 1
        assert load.check_health()["status"] == "healthy"
        checker = cachekit.get_health_checker(timeout_seconds=1)
        assert checker.check_health().status is HealthStatus.HEALTHY
        assert {each["name"] for each in checker.check_health().components} >= {"storage", "bus", "memory"}
    finally:
        for each in cachekit._engines.values():
            each.close()
        server.stop()


FORK = """
import os, signal, threading, time
from zoocache import Cache
from zoocache.compat import cachekit

inside, go = threading.Event(), threading.Event()

def slow(**options):
    inside.set()
    assert go.wait(60)
    time.sleep(0.5)  # the fork would be done by now if it did not wait
    return Cache(**options)

os.register_at_fork(before=go.set)  # of such calls the last that was registered is the first
cachekit.Engine = slow
thread = threading.Thread(target=cachekit.engine)
thread.start()
assert inside.wait(60)
child = os.fork()
if child == 0:
    cachekit.Engine = Cache
    signal.alarm(20)  # it would wait for ever
    cachekit.engine()
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork")
@pytest.mark.plain
def test_a_fork_leaves_no_lock_behind():
    subprocess.run([sys.executable, "-c", FORK], check=True)


# ---- serializers, health, modules --------------------------------------------------------------------


def test_a_serializer_alone():
    for name in ("default", "std", "auto", "pythonic"):
        serializer = cachekit.get_serializer(name)
        data, about = serializer.serialize({"a": (1, 2)})
        assert isinstance(data, bytes)
        assert serializer.deserialize(data, about) == {"a": (1, 2)}
    with pytest.raises(NotImplementedError, match="cache.secure"):
        cachekit.get_serializer("encrypted")


class Own:
    """A serializer of one's own."""

    def serialize(self, obj):
        return b"own" + repr(obj).encode(), None

    def deserialize(self, data, metadata=None):
        return eval(data.removeprefix(b"own"))


@pytest.mark.parametrize(
    ("given", "mark"),
    [(cachekit.OrjsonSerializer(), b'{"a":[1,2]}'), ("orjson", b'{"a":[1,2]}'), (Own(), b"own{'a': [1, 2]}")],
)
def test_a_serializer_of_a_function(given, mark):
    shelf = Shelf()
    runs = []

    @cache.production(backend=shelf, serializer=given)
    def load(x):
        return runs.append(x) or {"a": [1, 2]}

    assert load(1) == {"a": [1, 2]}
    (record,) = shelf.records.values()
    assert mark in record
    next(t for t in engine(shelf).tables() if t.name == "load").entries.clear()
    assert load(1) == {"a": [1, 2]}
    assert runs == [1]


def test_a_table_by_arrow():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    shelf = Shelf()
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})

    @cache(backend=shelf, serializer=cachekit.ArrowSerializer(), namespace="frames")
    def load(x):
        return frame

    assert load(1).equals(frame)
    next(t for t in engine(shelf).tables() if t.name == "load").entries.clear()
    assert load(1).equals(frame)
    assert load.cache_info().l2_hits == 1
    data, about = cachekit.get_serializer("arrow").serialize(frame)
    assert cachekit.ArrowSerializer().deserialize(data, about).equals(frame)


@pytest.mark.parametrize(("value", "small"), [("true", True), ("0", False)])
def test_compression_does_what_the_variable_says(monkeypatch, value, small):
    monkeypatch.setenv("CACHEKIT_ENABLE_COMPRESSION", value)
    shelf = Shelf()
    cache(backend=shelf)(lambda n: "x" * n)(9000)
    (record,) = shelf.records.values()
    assert (len(record) < 1000) is small


def test_health():
    async def main():
        return await cachekit.get_health_checker().check_health_async(), await cachekit.async_health_check_handler()

    result, page = asyncio.run(main())
    assert result.is_healthy
    assert page["status"] == cachekit.health_check_handler(force=True)["status"] == "healthy"
    assert page["healthy"] is True


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("config", "DecoratorConfig"),
        ("config.nested", "L1CacheConfig"),
        ("decorators", "cache"),
        ("backends", "RedisBackend"),
        ("backends.file", "FileBackendConfig"),
        ("serializers", "ArrowSerializer"),
    ],
)
def test_the_modules_there_are_one_here(module, name):
    found = importlib.import_module(f"zoocache.compat.cachekit.{module}")
    assert getattr(found, name) is getattr(cachekit, name)


def test_every_public_name_is_there():
    for name in cachekit.__all__:
        assert getattr(cachekit, name, None) is not None
