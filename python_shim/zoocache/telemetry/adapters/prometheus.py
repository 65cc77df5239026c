"""Metrics for Prometheus, by prometheus_client (pip install zoocache[telemetry-prometheus])."""

from __future__ import annotations

import threading
from typing import Any

from zoocache.telemetry.base import Labels, TelemetryAdapter

try:
    import prometheus_client
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError(
        "PrometheusAdapter needs prometheus_client: pip install zoocache[telemetry-prometheus]"
    ) from error


class PrometheusAdapter(TelemetryAdapter):
    """Keeps counters, histograms and gauges named ``{prefix}_{metric}``; with a port, serves them."""

    def __init__(
        self,
        port: int | None = None,
        addr: str = "0.0.0.0",
        prefix: str = "zoocache",
        registry: Any = None,
    ) -> None:
        self._registry = registry if registry is not None else prometheus_client.REGISTRY
        self._prefix = prefix
        self._metrics: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        if port is not None:
            self._server = prometheus_client.start_http_server(port, addr, registry=self._registry)

    def _metric(self, kind: Any, name: str, labels: Labels | None) -> Any:
        names = tuple(sorted(labels or ()))
        with self._lock:
            metric = self._metrics.get((name, names))
            if metric is None:
                # Prometheus allows one set of label names a metric: the second one gets a longer name.
                suffix = "_by_" + "_".join(names) if any(n == name for n, _ in self._metrics) else ""
                full = f"{self._prefix}_{name}{suffix}" if self._prefix else name + suffix
                metric = kind(full, name.replace("_", " "), names, registry=self._registry)
                self._metrics[name, names] = metric
        return metric.labels(**labels) if labels else metric

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""
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
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None

    def bind_core(self, core: Any) -> None:
        """Counters need not know the cache."""
