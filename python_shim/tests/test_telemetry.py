import importlib
import json
import logging
import urllib.request

import pytest
from shelf import Shelf

import zoocache
from zoocache import BuiltWithout, Cache, cacheable, configure, invalidate
from zoocache.telemetry import LogAdapter, TelemetryAdapter, TelemetryManager, TimerContext


class Recorder(TelemetryAdapter):
    def __init__(self):
        self.seen = []
        self.core = None
        self.closed = 0

    def increment(self, name, value=1.0, labels=None):
        self.seen.append(("increment", name, value, labels))

    def observe(self, name, value, labels=None):
        self.seen.append(("observe", name, value, labels))

    def set_gauge(self, name, value, labels=None):
        self.seen.append(("gauge", name, value, labels))

    def close(self):
        self.closed += 1

    def bind_core(self, core):
        self.core = core

    def names(self):
        names = [name for _, name, _, _ in self.seen]
        self.seen.clear()
        return names


class Asked(Recorder):
    def collect(self):
        return []


class Broken(Recorder):
    def _fail(self, *args, **kwargs):
        raise RuntimeError("adapter down")

    increment = observe = set_gauge = close = bind_core = _fail


def test_what_is_counted():
    recorder = Recorder()
    configure(telemetry=TelemetryManager([recorder]))
    assert recorder.core is zoocache._default.cache()

    @cacheable(deps=["t"])
    def f(x):
        return 1 // x

    f(1)
    assert recorder.names() == ["cache_get_duration_seconds", "cache_set_duration_seconds", "cache_misses_total"]
    f(1)
    f(1)
    assert recorder.names() == ["cache_get_duration_seconds", "cache_hits_total"] * 2
    with pytest.raises(ZeroDivisionError):
        f(0)
    assert ("increment", "cache_errors_total", 1.0, {"error_type": "exception"}) in recorder.seen
    recorder.seen.clear()
    invalidate("t")
    assert recorder.seen == [
        ("increment", "cache_invalidations_total", 1.0, None),
        ("increment", "cache_invalidations_total", 1.0, {"tag_prefix": "t"}),
    ]
    recorder.seen.clear()
    zoocache.get("absent")
    zoocache.set("k", 1)
    zoocache.get("k")
    assert recorder.names() == [
        "cache_get_duration_seconds",
        "cache_misses_total",
        "cache_get_duration_seconds",
        "cache_hits_total",
    ]
    zoocache.reset()
    assert recorder.closed == 1


async def test_async_is_counted():
    recorder = Recorder()
    configure(telemetry=TelemetryManager([recorder]))

    @cacheable
    async def f(x):
        return x

    await f(1)
    assert "cache_misses_total" in recorder.names()
    await f(1)
    assert "cache_hits_total" in recorder.names()


def test_a_broken_adapter_breaks_nothing(caplog):
    recorder = Recorder()
    configure(telemetry=TelemetryManager([Broken(), recorder]))

    @cacheable
    def f(x):
        return x

    assert f(1) == f(1) == 1
    invalidate("a")
    assert "cache_hits_total" in recorder.names()
    assert sum("adapter down" in record.getMessage() for record in caplog.records) == 1


def test_a_closed_cache_with_telemetry_refuses():
    recorder = Recorder()
    cache = Cache(telemetry=TelemetryManager([recorder]))
    load = cache.cacheable(lambda: 1)
    key = load.key()
    cache.set("k", load())
    cache.close()
    for use in (load, lambda: cache.get("k"), lambda: cache.get(key), lambda: cache.invalidate("t")):
        with pytest.raises(RuntimeError, match="closed"):
            use()


@pytest.mark.parametrize(
    ("options", "rules", "quick"),
    [
        ({}, {}, True),
        ({"clock": lambda: 0.0}, {}, True),
        ({"storage": Shelf()}, {}, True),
        ({"max_entries": 9}, {"ttl": 60, "jitter": 0.5, "cache_if": bool, "negative_ttl": 1}, True),
        ({"telemetry": TelemetryManager()}, {"soft_ttl": 60, "early_refresh": 0.1, "stale_if_error": 9}, True),
        ({"telemetry": TelemetryManager([Asked()])}, {}, True),
        ({"telemetry": TelemetryManager([Recorder()])}, {}, False),
        ({"telemetry": TelemetryManager([Asked(), Recorder()])}, {}, False),
        ({"on_event": print}, {}, True),
        ({}, {"copy": "copy"}, False),
        ({"storage": Shelf(), "telemetry": TelemetryManager([Recorder()])}, {"copy": "copy"}, False),
    ],
)
def test_who_takes_the_quick_path(options, rules, quick):
    with Cache(**options) as cache:
        load = cache.cacheable(lambda x: x, **rules)
        table = load.cache_info.__self__
        assert not table.quick  # it has not met its cache
        assert [load(1), load(1), load(1)] == [1, 1, 1]
        assert table.quick is quick
        assert load.cache_info()[:2] == (2, 1)
        for _ in range(1000):  # the first call has computed, the second one has looked; but a deadline has ticks
            if table.fast_hits():
                break
            load(1)
        assert (table.fast_hits() > 0) == quick
    assert not table.quick
    assert table.fast_hits() == quick


def test_telemetry_once_more(monkeypatch):
    monkeypatch.setattr(
        "zoocache._ffi.parts", lambda: {"lmdb": False, "redis": False, "tls": False, "openssl": False, "seal": False}
    )
    first, second = TelemetryManager([Recorder()]), TelemetryManager([Recorder()])
    configure(telemetry=first)
    configure(telemetry=first)
    with pytest.raises(RuntimeError, match="already initialized"):
        configure(telemetry=second)
    zoocache.reset()
    recorder = Recorder()
    configure(storage_url="lmdb://x")
    with pytest.raises(BuiltWithout):
        configure(telemetry=TelemetryManager([recorder]))
    zoocache.reset()
    assert recorder.closed == 1


def test_manager():
    recorder = Recorder()
    manager = TelemetryManager([recorder])
    manager.set_gauge("g", 5)
    with manager.time_operation("t", {"a": "b"}):
        pass
    assert recorder.seen[0] == ("gauge", "g", 5, None)
    assert recorder.seen[1][:2] == ("observe", "t")
    assert recorder.seen[1][2] >= 0
    assert TelemetryManager().enabled is False
    TelemetryManager().increment("nobody")
    timer = TimerContext(manager, "never entered")
    timer.__exit__(None, None, None)
    assert len(recorder.seen) == 2


def test_logs(caplog):
    with caplog.at_level(logging.INFO):
        text, data = (
            LogAdapter(name="text"),
            LogAdapter(logger=logging.getLogger("data"), level="info", format_json=True),
        )
        quiet = LogAdapter(level=logging.DEBUG)
        for adapter in (text, data, quiet):
            adapter.bind_core(None)
            adapter.increment("hits", 2.0, {"tag": "x"})
            adapter.observe("latency", 0.5)
            adapter.set_gauge("size", 3)
            adapter.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == ["[INCREMENT] hits: 2.0 {'tag': 'x'}", "[OBSERVE] latency: 0.5", "[GAUGE] size: 3"]
    assert [json.loads(line)["telemetry_type"] for line in lines[3:]] == ["increment", "observe", "gauge"]


def test_prometheus():
    prometheus_client = importlib.import_module("prometheus_client")
    from zoocache.telemetry.adapters.prometheus import PrometheusAdapter

    registry = prometheus_client.CollectorRegistry()
    adapter = PrometheusAdapter(port=0, addr="127.0.0.1", registry=registry)
    port = adapter._server[0].server_port
    configure(telemetry=TelemetryManager([adapter]))
    cached = cacheable(lambda x: x)
    cached(1), cached(1)
    invalidate("some:tag")
    adapter.set_gauge("entries", 4)
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert "zoocache_cache_hits_total 1.0" in page
    assert "zoocache_cache_fill_duration_seconds_count 1.0" in page
    assert "zoocache_cache_invalidations_total 1.0" in page
    assert 'zoocache_cache_misses_by_reason_total{reason="absent"} 1.0' in page
    assert "zoocache_cache_entries 1.0" in page
    assert "zoocache_entries 4.0" in page
    with pytest.raises(ValueError, match="Duplicated"):  # two that would tell the same
        PrometheusAdapter(registry=registry)
    zoocache.reset()
    assert list(registry.collect()) == []
    adapter.close()
    PrometheusAdapter(prefix="", registry=registry).close()


def test_prometheus_asks_when_it_is_scraped():
    prometheus_client = importlib.import_module("prometheus_client")
    from zoocache.telemetry.adapters.prometheus import PrometheusAdapter

    registry = prometheus_client.CollectorRegistry()
    manager = TelemetryManager([PrometheusAdapter(registry=registry)])
    assert not manager.enabled
    value = registry.get_sample_value
    with Cache(telemetry=manager) as one, Cache(telemetry=manager) as two:
        f, g = one.cacheable(lambda x: x, deps=["t"]), two.cacheable(lambda x: 1 // x)
        assert [f(1), f(1), f(1), g(1), g(1)] == [1] * 5
        assert f.cache_info.__self__.fast_hits() == 1, "the quick path"
        with pytest.raises(ZeroDivisionError):
            g(0)
        one.invalidate("t"), f(1)
        assert value("zoocache_cache_hits_total") == 3
        assert value("zoocache_cache_misses_total") == 4
        assert value("zoocache_cache_misses_by_reason_total", {"reason": "invalidated"}) == 1
        assert value("zoocache_cache_errors_total") == 1
        assert value("zoocache_cache_entries") == 2
        assert value("zoocache_cache_fill_duration_seconds_count") == 4


def test_every_statistic_is_a_metric_and_none_is_there_twice():
    prometheus_client = importlib.import_module("prometheus_client")
    from zoocache.telemetry.adapters.prometheus import PrometheusAdapter

    registry = prometheus_client.CollectorRegistry()
    recorder = Recorder()
    with Cache(telemetry=TelemetryManager([PrometheusAdapter(registry=registry), recorder])) as cache:
        f = cache.cacheable(lambda x: x)
        f(1), f(1), cache.invalidate("t")
        names = [sample.name for family in registry.collect() for sample in family.samples if not sample.labels]
        assert len(names) == len(set(names))
        assert "cache_hits_total" in recorder.names()
        assert registry.get_sample_value("zoocache_cache_hits_total") == 1
        for name in cache.stats()._fields:
            if name not in ("absent", "expired", "invalidated"):
                assert {f"zoocache_cache_{name}", f"zoocache_cache_{name}_total"} & set(names), name


def test_labels_are_bounded():
    prometheus_client = importlib.import_module("prometheus_client")
    from zoocache.telemetry.adapters.prometheus import PrometheusAdapter

    recorder = Recorder()
    registry = prometheus_client.CollectorRegistry()
    adapter = PrometheusAdapter(registry=registry)
    with Cache(telemetry=TelemetryManager([recorder, adapter])) as cache:
        for n in range(1000):
            cache.invalidate(f"user{n}:{n}")
            adapter.increment("requests", labels={"path": f"/{n}"})
        prefixes = {labels["tag_prefix"] for _, _, _, labels in recorder.seen if labels}
        assert len(prefixes) == 101
        assert {"user0", "other"} < prefixes
        series = [
            sample for family in registry.collect() for sample in family.samples if sample.name.endswith("_total")
        ]
        assert len([sample for sample in series if sample.name == "zoocache_requests_total"]) == 101
        assert sum(sample.value for sample in series if sample.name == "zoocache_requests_total") == 1000
        assert registry.get_sample_value("zoocache_cache_invalidations_total") == 1000


def test_opentelemetry_asks_when_it_is_exported():
    importlib.import_module("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from zoocache.telemetry.adapters.opentelemetry import OpenTelemetryAdapter

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    adapter = OpenTelemetryAdapter(meter_provider=provider)
    manager = TelemetryManager([adapter])
    assert not manager.enabled

    def exported():
        data = reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return {
            (metric.name.removeprefix("zoocache."), *point.attributes.values()): getattr(point, "value", None)
            or getattr(point, "count", 0)
            for metric in found
            for point in metric.data.data_points
        }

    assert exported() == {}
    with Cache(telemetry=manager) as one, Cache(telemetry=manager) as two:
        f, g = one.cacheable(lambda x: x, deps=["t"]), two.cacheable(lambda x: 1 // x)
        assert [f(1), f(1), f(1), g(1), g(1)] == [1] * 5
        assert f.cache_info.__self__.fast_hits() == 1, "the quick path"
        with pytest.raises(ZeroDivisionError):
            g(0)
        one.invalidate("t"), f(1)
        adapter.set_gauge("g", 7)
        found = exported()
        assert found["cache_hits_total",] == 3 and found["cache_misses_total",] == 4
        assert found["cache_misses_by_reason_total", "invalidated"] == 1
        assert found["cache_misses_by_reason_total", "absent"] == 3
        assert found["cache_errors_total",] == 1 and found["cache_entries",] == 2 and found["g",] == 7
        assert found["cache_fill_duration_seconds",] == 4
        told = {name for name, *_ in found}
        for name in set(one.stats()._fields) - {"absent", "expired", "invalidated"}:
            assert told & {f"cache_{name}", f"cache_{name}_total"}, name
        assert f(1) == 1
        assert exported()["cache_hits_total",] == 4
    assert ("cache_hits_total",) not in exported(), "closed"
    provider.shutdown()


def test_opentelemetry_beside_one_that_is_told():
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from zoocache.telemetry.adapters.opentelemetry import OpenTelemetryAdapter

    reader, recorder = InMemoryMetricReader(), Recorder()
    provider = MeterProvider(metric_readers=[reader])
    with Cache(telemetry=TelemetryManager([OpenTelemetryAdapter(meter_provider=provider), recorder])) as cache:
        f = cache.cacheable(lambda x: x)
        f(1), f(1)
        metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        (hits,) = [metric for metric in metrics if metric.name == "zoocache.cache_hits_total"]
        assert [point.value for point in hits.data.data_points] == [1]
        assert "cache_hits_total" in recorder.names()
    provider.shutdown()


def test_redis_adapter(monkeypatch):
    from zoocache.telemetry.adapters.redis_adapter import RedisTelemetryAdapter

    monkeypatch.setattr("zoocache._ffi.parts", lambda: {"redis": True})
    with TelemetryManager([RedisTelemetryAdapter()]).time_operation("t"):
        pass
    adapter = RedisTelemetryAdapter()
    manager = TelemetryManager([adapter])
    manager.bind_core(None)
    with Cache() as cache:
        adapter.bind_core(cache)
        assert adapter.core is cache
    manager.increment("n")
    manager.set_gauge("g", 1)
    manager.close()
    assert not manager.enabled, "a hit costs nothing for it"
    monkeypatch.setattr("zoocache._ffi.parts", lambda: {"redis": False})
    with pytest.raises(BuiltWithout):
        RedisTelemetryAdapter()
