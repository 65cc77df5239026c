"""Metrics for Prometheus, by prometheus_client (pip install zoocache[telemetry-prometheus])."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from zoocache.telemetry.base import LABELS, OTHER, AskingAdapter, Labels

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError(
        "PrometheusAdapter needs prometheus_client: pip install zoocache[telemetry-prometheus]"
    ) from error


class PrometheusAdapter(AskingAdapter):
    """A collector: asks its caches when it is scraped, so that a call costs what it costs without it.

    Each of the cache's statistics is a metric ``{prefix}_cache_{name}`` (a counter's ends with ``_total``); the causes
    of misses are labels of ``cache_misses_by_reason``; computations have a histogram, ``cache_fill_duration_seconds``.
    Several caches with one adapter are summed. What is told to it, by others than a cache, is there as well, under
    ``{prefix}_{metric}``; so that labels are bounded, only the first sets of values that a metric gets are kept apart.
    With a port, it serves them.
    """

    def __init__(
        self,
        port: int | None = None,
        addr: str = "0.0.0.0",
        prefix: str = "zoocache",
        registry: Any = None,
    ) -> None:
        super().__init__()
        self._registry = registry if registry is not None else prometheus_client.REGISTRY
        self._prefix = f"{prefix}_" if prefix else ""
        self._metrics: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._sets: dict[Any, set[tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._fills = prometheus_client.Histogram(
            f"{self._prefix}cache_fill_duration_seconds", "how long computations took", registry=None
        )
        self._registry.register(self)
        self._server: Any = None
        if port is not None:
            self._server = prometheus_client.start_http_server(port, addr, registry=self._registry)

    # ---- asked -------------------------------------------------------------------------------------

    def filled(self, elapsed: float) -> None:
        """A computation took so many seconds."""
        self._fills.observe(elapsed)

    def describe(self) -> Iterator[Any]:
        """What there may be, for a registry that refuses to have a name twice."""
        yield CounterMetricFamily(f"{self._prefix}cache_misses_by_reason", "", labels=["reason"])

    def collect(self) -> Iterator[Any]:
        """What the caches have counted until now."""
        totals = self.totals()
        if not totals:
            return
        for name, value in totals.items():
            kind = GaugeMetricFamily if name in self.LEVELS else CounterMetricFamily
            if name not in self.REASONS:
                yield kind(f"{self._prefix}cache_{name}", name.replace("_", " "), value=value)
        family = CounterMetricFamily(f"{self._prefix}cache_misses_by_reason", "misses by reason", labels=["reason"])
        for name in self.REASONS:
            family.add_metric([name], totals[name])
        yield family
        yield from self._fills.collect()

    # ---- told --------------------------------------------------------------------------------------

    def _metric(self, kind: Any, name: str, labels: Labels | None) -> Any:
        names = tuple(sorted(labels or ()))
        with self._lock:
            metric = self._metrics.get((name, names))
            if metric is None:
                # Prometheus allows one set of label names a metric: the second one gets a longer name.
                suffix = "_by_" + "_".join(names) if any(n == name for n, _ in self._metrics) else ""
                metric = kind(f"{self._prefix}{name}{suffix}", name.replace("_", " "), names, registry=self._registry)
                self._metrics[name, names] = metric
            if not labels:
                return metric
            values = tuple(str(labels[each]) for each in names)
            known = self._sets.setdefault((name, names), set())
            if len(known) < LABELS:
                known.add(values)
        return metric.labels(*(values if values in known else [OTHER] * len(names)))

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""
        if not self._counted(name):
            self._metric(prometheus_client.Counter, name, labels).inc(value)

    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Adds a sample to a histogram."""
        self._metric(prometheus_client.Histogram, name, labels).observe(value)

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Sets a gauge."""
        self._metric(prometheus_client.Gauge, name, labels).set(value)

    def close(self) -> None:
        """Takes its metrics out of the registry and stops serving."""
        with self._lock:
            for metric in self._metrics.values():
                self._registry.unregister(metric)
            self._metrics.clear()
            if not self._closed:
                self._registry.unregister(self)
            self._closed = True
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
