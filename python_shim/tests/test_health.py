"""health(): what is amiss, told without asking who may not answer."""

import json
import threading

import pytest
from servers import Redis, until
from shelf import Shelf

import zoocache
from zoocache import Cache, _default, _ffi

PARTS = _ffi.parts()
needs_lmdb = pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
needs_redis = pytest.mark.skipif(not PARTS["redis"] or not Redis.there(), reason="without Redis")


class Stopping(Shelf):
    def __init__(self):
        super().__init__()
        self.error = None
        self.closed = threading.Event()  # until it is set, a call does not return
        self.closed.set()
        self.inside = threading.Event()

    def get(self, key):
        self.inside.set()
        self.closed.wait()
        if self.error:
            raise self.error
        return super().get(key)


def test_in_memory():
    with Cache(max_entries=10) as cache:
        f = cache.cacheable(lambda x: x, deps=["t"])
        f(1)
        health = cache.health()
        assert health.status == "ok"
        assert set(health.checks) == {"flights", "memory"}
        memory = health.checks["memory"]
        assert (memory.status, memory.entries, memory.max_entries) == ("ok", 1, 10)
        assert memory.tag_bytes > 0
        assert health.checks["flights"] == ("ok", 0, 0.0, None)
        page = json.loads(json.dumps(health.as_dict()))
        assert page["status"] == "ok"
        assert page["checks"]["memory"]["entries"] == 1
    assert cache.health() == ("down", {})
    assert isinstance(health, zoocache.Health)


def test_bytes_if_they_are_counted():
    with Cache() as plain, Cache(max_bytes=10**6, weigh=len) as limited, Cache(max_entry_bytes=10, weigh=len) as each:
        for cache in (plain, limited, each):
            cache.set("k", b"12345")
        assert plain.health().checks["memory"][3:5] == (None, None)
        weight = limited.health().checks["memory"].bytes
        assert limited.health().checks["memory"].max_bytes == 10**6
        assert weight >= 5
        limited.set("l", b"1234567")
        assert limited.health().checks["memory"].bytes == 2 * weight + 2
        assert each.health().checks["memory"].max_bytes is None


def test_of_the_default_cache():
    """It is not made to be asked; not even its lock is waited for."""
    assert zoocache.health() == ("ok", {})
    assert _default.state.cache is None
    with _default.state.lock:
        found = []
        thread = threading.Thread(target=lambda: found.append(zoocache.health().status))
        thread.start()
        thread.join(30)
        assert found == ["ok"]
    zoocache.set("k", 1)
    assert zoocache.health().checks["memory"].entries == 1


def test_a_storage_that_fails_and_is_well_again():
    shelf = Stopping()
    with Cache(storage=shelf) as cache:
        f = cache.cacheable(lambda x: x, namespace="f")
        health = cache.health()
        assert health.status == "ok"
        assert health.checks["storage"] == ("ok", "closed", False, None, None, 0, 0)
        f(1)
        assert cache.health().checks["storage"].latency > 0
        shelf.error = OSError("password")
        f(2)
        health = cache.health()
        assert (health.status, health.checks["storage"].errors) == ("ok", 1), "once is not down"
        assert "storage" in health.checks["storage"].last_error
        shelf.error = TimeoutError()
        f(3)
        health = cache.health()
        assert health.status == health.checks["storage"].status == "degraded"
        assert health.checks["storage"].breaker == "open"
        assert health.checks["storage"].last_error == _ffi.error_text(_ffi.E_TIMEOUT)
        latency = health.checks["storage"].latency
        f(4)
        assert cache.health().checks["storage"].latency == latency, "nobody was asked"
        assert cache.health().checks["storage"].skipped > 0
        assert cache.stats().storage_down == 1
        shelf.error = None
        until(lambda: cache.health().status == "ok")
        assert cache.health().checks["storage"].breaker == "closed"


def test_a_storage_that_does_not_answer_is_not_waited_for():
    """Another call is inside, and so are a computation and its flight."""
    shelf = Stopping()
    cache = Cache(storage=shelf, flight_timeout=60)
    f = cache.cacheable(lambda x: x, namespace="f")
    shelf.closed.clear()
    thread = threading.Thread(target=f, args=(1,))
    thread.start()
    assert shelf.inside.wait(30)
    try:
        health = cache.health()
        assert health.status == "ok"
        flights = health.checks["flights"]
        assert (flights.running, flights.function) == (1, "<lambda>")
        assert flights.oldest >= 0
        cache.flight_timeout = 0
        assert cache.health().status == cache.health().checks["flights"].status == "degraded"
        cache.flight_timeout = 60
    finally:
        shelf.closed.set()
        thread.join()
        cache.close()


@needs_lmdb
def test_a_storage_that_could_not_be_opened(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 9999)
    with Cache(storage_url=f"lmdb://{tmp_path}") as cache:
        health = cache.health()
        assert health.status == "degraded"
        assert health.checks["storage"].lost
        assert "bus" not in health.checks
        assert cache.cacheable(lambda: 1)() == 1


@needs_lmdb
def test_lmdb(tmp_path):
    with Cache(storage_url=f"lmdb://{tmp_path}") as cache:
        cache.set("k", 1)
        health = cache.health()
        assert health.status == "ok", health
        assert health.checks["bus"].age == 0
        assert health.checks["bus"].pending == 0


@needs_redis
@pytest.mark.parametrize(("silence", "status"), [("bypass", "degraded"), ("error", "down")])
def test_a_bus_that_is_silent(tmp_path, silence, status):
    redis = Redis(tmp_path)
    try:
        with Cache(storage_url=redis.url, silence=silence, timeout=0.2) as cache:
            f = cache.cacheable(lambda x: x, namespace="f", silence="bypass")
            f(1)
            seen = []
            until(lambda: seen.append(cache.health()) or seen[-1].status == "ok")
            bus = seen[-1].checks["bus"]
            assert bus.max_staleness == 1.0
            assert bus.age <= 1.0
            redis.stop()
            until(lambda: f(2) == 2 and cache.health().checks["bus"].status == status)
            health = cache.health()
            assert health.status == status
            assert health.checks["bus"].age is None or health.checks["bus"].age > 1.0
            assert f(1) == 1
    finally:
        redis.stop()


@needs_redis
def test_a_bus_that_was_never_heard():
    with Cache(bus_url="redis://127.0.0.1:1") as cache:
        health = cache.health()
        assert health.status == "degraded"
        assert health.checks["bus"].age is None
        assert "storage" not in health.checks
