"""Adapters: logs, Prometheus, OpenTelemetry."""
