"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from .admission import Admission

_SECONDS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)


class Metrics:
    """Counters of one server; each has a registry of its own."""

    def __init__(self, admission: Admission) -> None:
        self._registry = registry = CollectorRegistry()
        gauges = (
            ("sessions_active", "Requests that run", lambda: admission.active),
            ("sessions_waiting", "Requests that wait for a session", lambda: admission.waiting),
            ("draining", "1 while the server shuts down", lambda: int(admission.draining)),
        )
        for name, help, read in gauges:
            Gauge(f"uniaudio_{name}", help, registry=registry).set_function(read)
        self.websockets = Gauge(
            "uniaudio_websockets", "Open WebSocket connections", registry=registry
        )
        self.body_bytes = Gauge(
            "uniaudio_body_bytes", "Bytes of requests that are being answered", registry=registry
        )
        self.requests = Counter(
            "uniaudio_requests", "HTTP requests", ("route", "status"), registry=registry
        )
        self.sessions = Counter(
            "uniaudio_sessions", "Sessions that have ended", ("task", "end"), registry=registry
        )
        self.audio_seconds = Counter(
            "uniaudio_audio_seconds", "Seconds of sound that were made", registry=registry
        )
        self.first_audio = Histogram(
            "uniaudio_first_audio_seconds",
            "From a session's slot to its first sound",
            buckets=_SECONDS,
            registry=registry,
        )
        self.cut = Counter(
            "uniaudio_clients_cut", "Clients that were cut", ("reason",), registry=registry
        )

    def text(self) -> bytes:
        return bytes(generate_latest(self._registry))
