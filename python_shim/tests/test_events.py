"""on_event: what happens, with its exact cause; log lines, and spans."""

import asyncio
import gc
import json
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import Redis, until
from shelf import Shelf

import zoocache
from zoocache import BusSilent, Cache, InvalidTag, Scope, correlation
from zoocache.events import Event
from zoocache.telemetry import EventLog
from zoocache.testing import FakeClock


class Heard(list):
    """A listener that keeps what it is told."""

    def __call__(self, event):
        self.append(event)

    def take(self, *kinds):
        """(kind, reason, key) of each, since the last time."""
        found = [(e.kind, e.reason, e.key) for e in self if not kinds or e.kind in kinds]
        self.clear()
        return found


@pytest.fixture
def heard():
    return Heard()


class Failing(Shelf):
    error = None

    def get(self, key):
        if self.error:
            raise self.error
        return super().get(key)


# ---- why an entry has left ---------------------------------------------------------------------------


def removed(cache, act, heard):
    heard.clear()
    act()
    return heard.take("removed")


@pytest.mark.parametrize("options", [{}, {"max_entries": 2}, {"storage": True}], ids=str)
def test_each_cause_by_key(options, heard):
    clock = FakeClock()
    options = {**options, "storage": Failing()} if "storage" in options else options
    with Cache(clock=clock, on_event=heard, read_extend_ttl=False, **options) as cache:
        cache.set("a", 1)
        assert heard.take() == []
        assert removed(cache, lambda: cache.set("a", 2), heard) == [("removed", "replaced", "a")]
        assert removed(cache, lambda: cache.delete("a"), heard) == [("removed", "deleted", "a")]
        assert removed(cache, lambda: cache.delete("a"), heard) == [], "it was not there"
        cache.set("b", 1, deps=["t:1"])
        assert removed(cache, lambda: cache.invalidate("t"), heard) == [], "it is removed when it is met"
        assert removed(cache, lambda: cache.get("b"), heard) == [("removed", "invalidated", "b")]
        cache.set("c", 1, ttl=5)
        clock.advance(6)
        assert removed(cache, lambda: cache.get("c"), heard) == [("removed", "expired", "c")]
        cache.delete("c")  # a storage has a clock of its own
        cache.set("d", 1, ttl=5)
        assert removed(cache, lambda: cache.set("d", 1, ttl=0), heard) == [("removed", "replaced", "d")]
        cache.set("e", 1)
        assert removed(cache, cache.clear, heard) == [("removed", "invalidated", "e")]
        cache.set("f", 1)
        heard.clear()
    assert heard.take("removed") == [("removed", "closed", "f")]


def test_each_cause_of_a_function(heard):
    clock = FakeClock()
    with Cache(clock=clock, on_event=heard, read_extend_ttl=False) as cache:
        f = cache.cacheable(lambda x: x, deps=lambda x: [f"t:{x}"], ttl=5)
        one, two = f.key(1), f.key(2)

        def call(*xs):
            for x in xs:
                f(x)

        call(1, 2)
        assert removed(cache, lambda: f.invalidate(1), heard) == [("removed", "deleted", one)]
        call(1)
        assert removed(cache, lambda: f.refresh(1), heard) == [("removed", "replaced", one)]
        cache.invalidate("t:1")
        assert removed(cache, lambda: call(1, 2), heard) == [("removed", "invalidated", one)]
        clock.advance(6)
        assert removed(cache, lambda: call(1), heard) == [("removed", "expired", one)]
        assert removed(cache, cache.sweep, heard) == [("removed", "expired", two)]
        call(2)
        cache.invalidate("t:2")
        assert removed(cache, cache.sweep, heard) == [("removed", "invalidated", two)]
        assert removed(cache, f.cache_clear, heard) == [("removed", "deleted", one)]


def test_who_gives_way(heard):
    clock = FakeClock()
    with Cache(clock=clock, on_event=heard, max_entries=3, read_extend_ttl=False) as cache:
        cache.set("lives", 1)
        cache.set("over", 1, ttl=5)
        cache.set("killed", 1, deps=["t"])
        clock.advance(5)
        cache.invalidate("t")
        heard.clear()
        for n in range(3):
            cache.set(f"new{n}", 1)
        assert heard.take() == [
            ("removed", "evicted", "lives"),
            ("removed", "expired", "over"),
            ("removed", "invalidated", "killed"),
        ]
        assert cache.stats().evictions == 3


def test_the_clock_is_read_with_no_lock_held():
    def clock():
        held.extend(each.lock._is_owned() for each in caches)
        return 0.0

    caches, held = [], []
    with Cache(clock=clock, on_event=lambda event: None, max_entries=1) as cache:
        caches.append(cache)
        cache.set("a", 1, ttl=5), cache.set("b", 1), cache.set("c", 1)
        assert cache.stats().evictions == 2
        assert held and not any(held)


def test_a_method_whose_object_is_gone(heard):
    class Shop:
        pass

    with Cache(on_event=heard) as cache:
        Shop.price = cache.cacheable(lambda self, x: x)
        shop = Shop()
        assert shop.price(1) == 1
        del shop
        gc.collect()
        assert [reason for _, reason, _ in removed(cache, cache.sweep, heard)] == ["collected"]


def test_a_value_that_stands_in_for_an_error_is_not_gone(heard):
    clock = FakeClock()
    down = []

    with Cache(clock=clock, on_event=heard, read_extend_ttl=False) as cache:

        @cache.cacheable(ttl=5, stale_if_error=60)
        def f(x):
            if down:
                raise OSError("down")
            return x

        f(1)
        clock.advance(6)
        down.append(1)
        heard.clear()
        assert f(1) == 1
        assert heard.take() == [("failed", "OSError", f.key(1))]
        down.clear()
        clock.advance(30)
        assert f(1) == 1
        assert heard.take() == [("removed", "replaced", f.key(1)), ("filled", "stored", f.key(1))]


def test_scopes(heard):
    with Cache(on_event=heard, scopes=Scope("org", "org_id")) as cache:
        f = cache.cacheable(lambda org_id: org_id, scope="org")
        f("acme")
        cache.set("theme", "dark", scope="org", org_id="acme")
        heard.clear()
        cache.evict_scope("org", org_id="acme")
        assert [(e.kind, e.tags) for e in heard] == [("invalidated", ("|scope:org:acme",))]
        f("acme"), cache.get("theme", scope="org", org_id="acme")
        assert [reason for _, reason, _ in heard.take("removed")] == ["invalidated", "invalidated"]


# ---- what computations come to -----------------------------------------------------------------------


def test_computations(heard):
    with Cache(on_event=heard) as cache:

        @cache.cacheable(deps=["t"], cache_if=bool)
        def f(x):
            if x == "invalidated meanwhile":
                cache.invalidate("t")
            return x if x != "raises" else 1 // 0

        for x in ("plain", "", "invalidated meanwhile", "plain"):
            f(x)
        with pytest.raises(ZeroDivisionError):
            f("raises")
        assert [(e.kind, e.reason, e.function, e.tags) for e in heard if e.kind != "removed"] == [
            ("filled", "stored", "f", ("t",)),
            ("filled", "refused", "f", ("t",)),
            ("invalidated", None, None, ("t",)),
            ("filled", "refused", "f", ("t",)),
            ("filled", "stored", "f", ("t",)),
            ("failed", "ZeroDivisionError", "f", ("t",)),
        ]
        assert all(e.elapsed >= 0 for e in heard if e.kind in ("filled", "failed"))
        heard.clear()
        cache.clear()
        assert ("invalidated", None, None) in heard.take()


async def test_async_computations(heard):
    with Cache(on_event=heard) as cache:

        @cache.cacheable
        async def f(x):
            await asyncio.sleep(0)
            return 1 // x

        assert await asyncio.gather(f(1), f(1)) == [1, 1]
        with pytest.raises(ZeroDivisionError):
            await f(0)
        assert [(kind, reason) for kind, reason, _ in heard.take()] == [
            ("filled", "stored"),
            ("failed", "ZeroDivisionError"),
        ]
        task = asyncio.ensure_future(f(2))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(kind, reason) for kind, reason, _ in heard.take()] == [("failed", "CancelledError")]


# ---- listeners ---------------------------------------------------------------------------------------


def test_a_listener_may_use_the_cache_for_the_same_key():
    """It is called when the flight is over, with no lock held; what it calls is no part of what is computed."""
    seen = []
    with Cache(max_entries=1, on_event=lambda event: listen(event)) as cache:

        @cache.cacheable(deps=lambda x: [f"f:{x}"])
        def f(x):
            if x == 0:
                raise ValueError
            return x

        @cache.cacheable(deps=["own"])
        def outer(x):
            return f(x) if x else 0

        def listen(event):
            if threading.current_thread() is not me or len(seen) > 20:
                return
            assert not cache.lock._is_owned()
            seen.append(event.kind)
            if event.kind == "failed" and len(seen) < 5:
                with pytest.raises(ValueError):
                    f(0)
            elif event.kind == "filled" and event.function == "outer":
                f(7)

        me = threading.current_thread()
        with pytest.raises(ValueError):
            f(0)
        assert seen == ["failed"] * 5
        seen.clear()
        with zoocache.context.DepsTracker() as tracker:
            outer(0)
        assert tracker.deps == {"own"}
        assert "removed" in seen


def test_in_the_listener_another_thread_can_use_the_cache():
    def listen(event):
        with ThreadPoolExecutor(1) as pool:
            results.append(pool.submit(cache.stats).result(timeout=30).entries)

    results = []
    with Cache(on_event=listen, max_entries=1) as cache:
        cache.set("a", 1), cache.set("b", 2), cache.set("b", 3), cache.delete("b")
        f = cache.cacheable(lambda x: x)
        f(1), f(2), cache.clear()
    assert len(results) == 8  # a, b, b, 1 have left, two computations, 2 has left, all is invalidated


def test_a_listener_that_raises_harms_nobody(heard, caplog):
    def broken(event):
        raise RuntimeError("secret")

    with Cache(on_event=[broken, heard]) as cache:
        f = cache.cacheable(lambda x: x)
        assert f(1) == 1
        cache.set("k", 1), cache.delete("k")
    assert len(heard.take()) >= 2
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["zoocache: a listener has failed; this is said once: RuntimeError"]


@pytest.mark.parametrize("at", ["begin", "end"])
def test_what_is_around_computations_may_raise_too(caplog, at):
    class Broken:
        def __call__(self, event):
            pass

        def around(self, function):
            def over(outcome, here):
                raise RuntimeError("secret")

            if at == "begin":
                raise RuntimeError("secret")
            return over

    with Cache(on_event=Broken()) as cache:
        f = cache.cacheable(lambda x: x)
        assert [f(n) for n in range(9)] == list(range(9))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["zoocache: a listener has failed; this is said once: RuntimeError"]


def test_who_may_listen():
    with pytest.raises(TypeError, match="on_event must be a callable, or several, not int"):
        Cache(on_event=[1])
    with Cache(on_event=[]) as cache:
        assert cache.events is None


def test_the_default_cache_has_listeners(heard):
    zoocache.configure(on_event=heard)
    zoocache.set("k", 1)
    zoocache.delete("k")
    zoocache.invalidate("t")
    assert heard.take() == [("removed", "deleted", "k"), ("invalidated", None, None)]


def test_nobody_listens_nothing_is_made(monkeypatch):
    monkeypatch.setattr(Event, "__init__", None)  # it would raise
    with Cache(max_entries=1) as cache:
        f = cache.cacheable(lambda x: x)
        assert [f(1), f(2), f(1)] == [1, 2, 1]
        cache.invalidate("t"), cache.clear()


# ---- the storage -------------------------------------------------------------------------------------


def test_faults_and_the_breaker(heard):
    shelf = Failing()
    with Cache(storage=shelf, on_event=heard) as cache:
        f = cache.cacheable(lambda x: x)
        shelf.error = TimeoutError()
        f(1)
        until(lambda: any(e.kind == "breaker" for e in heard))
        assert [(e.kind, e.reason) for e in heard if e.kind in ("fault", "breaker")][:2] == [
            ("fault", zoocache._ffi.error_text(zoocache._ffi.E_TIMEOUT)),
            ("breaker", "open"),
        ]
        assert cache.stats().breaker_openings == 1
        heard.clear()
        shelf.error = None
        until(lambda: any(e.kind == "breaker" for e in heard))
        assert heard.take("breaker") == [("breaker", "closed", None)]
        assert cache.stats().breaker_openings == 1


def test_the_breaker_opens_and_closes_between_two_looks(heard):
    """Nothing is left out: the library counts."""
    with Cache(storage=Failing(), on_event=heard) as cache:
        shared = cache.shared
        real = shared.core.shared_stats()
        shared._counted = real.errors + real.corrupt - 3, real.epoch - 4
        assert [(e.kind, e.reason, e.count) for e in shared._happened(shared.core)][1:] == [
            ("breaker", "open", 1), ("breaker", "closed", 1), ("breaker", "open", 1), ("breaker", "closed", 1),
        ]  # fmt: skip


# ---- log lines ---------------------------------------------------------------------------------------

SECRET = "hunter2"


def logged(caplog):
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "zoocache.events"]


def test_lines_can_be_followed_and_tell_no_secret(caplog):
    caplog.set_level(logging.INFO, "zoocache.events")
    with Cache(on_event=EventLog(), scopes=Scope("user", "user_id")) as cache:

        @cache.cacheable(deps=lambda user, password: [f"user:{user}", f"login:{password}", password])
        def login(user, password):
            if user == "eve":
                raise ValueError(f"{password} is wrong")

        @cache.cacheable(scope="user")
        def settings(user_id):
            return user_id

        token = correlation.set("request-7")  # back to nothing in any case: this context is that of all tests
        login("ann", SECRET), login("ann", password=SECRET)
        with pytest.raises(ValueError):
            login("eve", SECRET)
        correlation.reset(token)
        settings(SECRET)
        cache.evict_scope("user", user_id=SECRET)
        settings(SECRET)
        cache.set(f"session:{SECRET}", 1, deps=[f"user:{SECRET}"])
        cache.set(SECRET, 1, scope="user", user_id=SECRET), cache.delete(SECRET, scope="user", user_id=SECRET)
        cache.delete(f"session:{SECRET}")
        cache.invalidate(SECRET, f"user:{SECRET}")
    assert SECRET not in caplog.text
    lines = logged(caplog)
    first, second = lines[0], lines[1]
    assert (first["event"], first["function"], first["reason"]) == ("filled", "login", "stored")
    assert first["correlation"] == second["correlation"] == "request-7"
    assert "correlation" not in lines[2]
    assert (second["event"], second["reason"]) == ("failed", "ValueError")
    assert first["tags"][0].startswith("user:") and first["tags"][0] != second["tags"][0]
    assert first["key"].startswith("login:") and first["elapsed"] >= 0
    assert {line["event"] for line in lines} == {"filled", "failed", "removed", "invalidated"}
    levels = {record.levelno for record in caplog.records if '"failed"' in record.getMessage()}
    assert levels == {logging.WARNING}


def test_a_correlation_may_be_any_object(caplog, heard):
    caplog.set_level(logging.INFO, "zoocache.events")
    with Cache(on_event=[heard, EventLog()]) as cache:
        token = correlation.set(uuid.UUID(int=7))
        cache.set("k", 1), cache.delete("k")
        correlation.reset(token)
    assert [line["correlation"] for line in logged(caplog)] == [str(uuid.UUID(int=7))]
    assert heard[0].correlation == uuid.UUID(int=7)


def test_a_logger_of_ones_own(caplog):
    own = logging.getLogger("shop.cache")
    with caplog.at_level(logging.WARNING, "shop.cache"), Cache(on_event=EventLog(own)) as cache:
        cache.set("k", 1), cache.delete("k")
        assert caplog.records == [], "not asked for"
    with caplog.at_level(logging.DEBUG, "shop.cache"), Cache(on_event=EventLog(own, logging.DEBUG)) as cache:
        cache.set("k", 1), cache.delete("k")
        assert [(record.name, record.levelno) for record in caplog.records] == [("shop.cache", logging.DEBUG)]


def test_a_refresh_beside_bears_what_it_was_begun_for(heard):
    clock = FakeClock()
    with Cache(clock=clock, on_event=heard) as cache:
        f = cache.cacheable(lambda x: x, soft_ttl=5, ttl=60)
        f(1)
        clock.advance(6)
        heard.clear()
        token = correlation.set("job-1")
        f(1)
        correlation.reset(token)
        until(lambda: any(e.kind == "filled" for e in heard))
        assert {e.correlation for e in heard} == {"job-1"}


async def test_tasks_do_not_mix_their_correlations(heard):
    with Cache(on_event=heard) as cache:

        @cache.cacheable
        async def f(x):
            await asyncio.sleep(0)
            return x

        async def request(x):
            correlation.set(f"request-{x}")
            await f(x)

        await asyncio.gather(*[request(x) for x in range(5)])
        assert {e.key: e.correlation for e in heard} == {f.key(x): f"request-{x}" for x in range(5)}


# ---- spans -------------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    exporter.provider, exporter.tracer = provider, provider.get_tracer("test")
    yield exporter
    provider.shutdown()


def test_a_computation_is_a_span(spans, heard):
    from opentelemetry import trace

    from zoocache.telemetry.adapters.opentelemetry import Spans

    with Cache(on_event=[heard, Spans(spans.provider)]) as cache:

        @cache.cacheable
        def inner(x):
            with spans.tracer.start_as_current_span("query"):
                return 1 // x

        @cache.cacheable
        def outer(x):
            return inner(x)

        with spans.tracer.start_as_current_span("request") as request:
            before = trace.get_current_span()
            outer(1), outer(1)
            with pytest.raises(ZeroDivisionError):
                outer(0)
            assert trace.get_current_span() is before
        correlations = {e.correlation.partition("-")[0] for e in heard}
        assert correlations == {f"{request.get_span_context().trace_id:032x}"}
    found = {span.context.span_id: span for span in spans.get_finished_spans()}
    names = [(span.name, found[span.parent.span_id].name if span.parent else None) for span in found.values()]
    assert names == [
        ("query", "zoocache.fill inner"), ("zoocache.fill inner", "zoocache.fill outer"),
        ("zoocache.fill outer", "request"),
        ("query", "zoocache.fill inner"), ("zoocache.fill inner", "zoocache.fill outer"),
        ("zoocache.fill outer", "request"), ("request", None),
    ]  # fmt: skip
    fills = [span for span in found.values() if span.name.startswith("zoocache")]
    assert [span.attributes["zoocache.result"] for span in fills] == ["stored", "stored", "failed", "failed"]
    assert [(span.status.is_ok, span.status.description) for span in fills][2:] == [(False, "ZeroDivisionError")] * 2
    assert not any(span.events for span in fills), "no message, no traceback"


async def test_spans_of_coroutines(spans):
    from opentelemetry import trace

    from zoocache.telemetry.adapters.opentelemetry import Spans

    with Cache(on_event=Spans(spans.provider)) as cache:

        @cache.cacheable
        async def f(x):
            with spans.tracer.start_as_current_span(f"query {x}"):
                await asyncio.sleep(0)
            return x

        await asyncio.gather(f(1), f(2), f(1))
        task = asyncio.ensure_future(f(3))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not trace.get_current_span().get_span_context().is_valid
    found = {span.context.span_id: span for span in spans.get_finished_spans()}
    assert sorted(span.name for span in found.values()) == ["query 1", "query 2", "query 3", *["zoocache.fill f"] * 3]
    for span in found.values():
        assert (span.parent is None) == span.name.startswith("zoocache")
        if span.parent:
            assert found[span.parent.span_id].name == "zoocache.fill f"


def test_what_the_storage_has_is_a_span_without_a_result(spans):
    from zoocache.telemetry.adapters.opentelemetry import Spans

    shelf = Failing()
    with Cache(on_event=Spans(spans.provider), storage=shelf) as cache:
        f = cache.cacheable(lambda x: x, namespace="n")
        f(1)
        cache._raw.cache.tables()[1].entries.clear()
        assert f(1) == 1
        assert cache.stats().hits_storage == 1
    results = [dict(span.attributes).get("zoocache.result") for span in spans.get_finished_spans()]
    assert results == ["stored", None]


def test_lazy():
    """Who does not listen imports nothing for it."""
    import subprocess
    import sys

    code = (
        "import sys, zoocache; f = zoocache.cacheable(lambda x: x); f(1); zoocache.invalidate('t');"
        "assert not {'zoocache.events', 'zoocache._health', 'logging', 'json'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_invalidation_that_the_log_has_not_taken_is_told(tmp_path, heard):
    """It is done here, whoever raises then."""
    redis = Redis(tmp_path)
    with Cache(bus_url=redis.url, ack="durable", on_event=heard) as cache:
        until(lambda: cache.stats().bus_heard or cache.health().checks["bus"].age < 1)
        redis.stop()
        with pytest.raises(BusSilent):
            cache.invalidate("a")
        assert [event.tags for event in heard if event.kind == "invalidated"] == [("a",)]
        heard.clear()
        with pytest.raises(InvalidTag):
            cache.invalidate("b", ":")
        assert not heard, "nothing was done"
