"""Metrics and spans for OpenTelemetry (pip install zoocache[telemetry-otel])."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from zoocache.telemetry.base import AskingAdapter, Labels

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("OpenTelemetryAdapter needs opentelemetry-sdk: pip install zoocache[telemetry-otel]") from error


class OpenTelemetryAdapter(AskingAdapter):
    """Instruments named ``zoocache.{metric}`` of a given meter provider, or of one that exports by OTLP.

    They ask the caches when they are exported, so that a call costs what it costs without them: each of the cache's
    statistics is ``zoocache.cache_{name}_total``, or a gauge ``zoocache.cache_{name}``; the causes of misses are
    attributes of ``cache_misses_by_reason_total``; computations have a histogram, ``cache_fill_duration_seconds``.
    Several caches with one adapter are summed.
    """

    def __init__(
        self,
        service_name: str = "zoocache",
        otlp_endpoint: str | None = None,
        meter_provider: Any = None,
    ) -> None:
        super().__init__()
        self._own: MeterProvider | None = None
        if meter_provider is None and otlp_endpoint is not None:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

            reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=otlp_endpoint))
            resource = Resource.create({"service.name": service_name})
            meter_provider = self._own = MeterProvider(metric_readers=[reader], resource=resource)
        provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
        self._meter = provider.get_meter("zoocache")
        self._instruments: dict[str, Any] = {}
        self._lock = threading.Lock()

    # ---- asked -------------------------------------------------------------------------------------

    def bind_core(self, core: Any) -> None:
        """Reports on this cache, too."""
        super().bind_core(core)
        for name in core.stats()._fields:
            if name in self.LEVELS:
                self._instrument("create_observable_gauge", f"cache_{name}", [self._asks(name)])
            elif name not in self.REASONS:
                self._instrument("create_observable_counter", f"cache_{name}_total", [self._asks(name)])
        self._instrument("create_observable_counter", "cache_misses_by_reason_total", [self._reasons])

    def collect(self) -> dict[str, int]:
        """What the caches have counted until now."""
        return self.totals()

    def _asks(self, name: str) -> Callable[[Any], Iterable[metrics.Observation]]:
        return lambda _: [metrics.Observation(value) for each, value in self.collect().items() if each == name]

    def _reasons(self, _: Any) -> Iterable[metrics.Observation]:
        return [metrics.Observation(n, {"reason": name}) for name, n in self.collect().items() if name in self.REASONS]

    def filled(self, elapsed: float) -> None:
        """A computation took so many seconds."""
        self.observe("cache_fill_duration_seconds", elapsed)

    # ---- told --------------------------------------------------------------------------------------

    def _instrument(self, create: str, name: str, *more: Any) -> Any:
        with self._lock:
            instrument = self._instruments.get(name)
            if instrument is None:
                instrument = getattr(self._meter, create)(f"zoocache.{name}", *more)
                self._instruments[name] = instrument
            return instrument

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""
        if not self._counted(name):
            self._instrument("create_counter", name).add(value, labels)

    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Adds a sample to a histogram."""
        self._instrument("create_histogram", name).record(value, labels)

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Sets a gauge."""
        self._instrument("create_gauge", name).set(value, labels)

    def close(self) -> None:
        """Exports what is left, if the provider is its own; asks no more."""
        if self._own is not None:
            self._own.shutdown()
            self._own = None
        self._caches.clear()


class Spans:
    """A listener, ``Cache(on_event=Spans())``: each computation is a span, current while the function runs.

    Its attributes are the function, and what came of it. No argument and no message of an exception is in it.
    """

    def __init__(self, tracer_provider: Any = None) -> None:
        self._tracer = trace.get_tracer("zoocache", tracer_provider=tracer_provider)

    def __call__(self, event: Any) -> None:
        """What happens outside of computations has no span."""

    def around(self, function: str) -> Any:
        """A computation begins. Returns what is to be called with its event, or None, when it is over."""
        span = self._tracer.start_span(f"zoocache.fill {function}", attributes={"zoocache.function": function})
        token = context.attach(trace.set_span_in_context(span))

        def over(event: Any, here: bool) -> None:
            if here:
                context.detach(token)
            if event is not None:
                span.set_attribute("zoocache.result", event.kind if event.kind == "failed" else event.reason)
                if event.kind == "failed":
                    span.set_status(trace.Status(trace.StatusCode.ERROR, event.reason))
            span.end()

        return over
