"""Metrics and spans for OpenTelemetry (pip install zoocache[telemetry-otel])."""

from __future__ import annotations

import threading
from typing import Any

from zoocache.telemetry.base import Labels, TelemetryAdapter

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("OpenTelemetryAdapter needs opentelemetry-sdk: pip install zoocache[telemetry-otel]") from error


class OpenTelemetryAdapter(TelemetryAdapter):
    """Instruments named ``zoocache.{metric}`` of a given meter provider, or of one that exports by OTLP."""

    def __init__(
        self,
        service_name: str = "zoocache",
        otlp_endpoint: str | None = None,
        meter_provider: Any = None,
    ) -> None:
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

    def _instrument(self, create: str, name: str) -> Any:
        with self._lock:
            instrument = self._instruments.get(name)
            if instrument is None:
                instrument = getattr(self._meter, create)(f"zoocache.{name}")
                self._instruments[name] = instrument
            return instrument

    def increment(self, name: str, value: float = 1.0, labels: Labels | None = None) -> None:
        """Adds to a counter."""
        self._instrument("create_counter", name).add(value, labels)

    def observe(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Adds a sample to a histogram."""
        self._instrument("create_histogram", name).record(value, labels)

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Sets a gauge."""
        self._instrument("create_gauge", name).set(value, labels)

    def close(self) -> None:
        """Exports what is left, if the provider is its own."""
        if self._own is not None:
            self._own.shutdown()
            self._own = None

    def bind_core(self, core: Any) -> None:
        """Instruments need not know the cache."""


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
