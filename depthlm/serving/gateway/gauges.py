"""What Prometheus is told of a gateway."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
RENDERINGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Gauges:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix, own = "depthlm_gateway", {"registry": self.registry}
        self.requests = Counter(f"{prefix}_requests", "Requests answered.", ["path", "status"], **own)
        self.latency = Histogram(
            f"{prefix}_request_seconds", "From a request to its answer's end.", ["path"], buckets=LATENCIES, **own
        )
        self.in_flight = Gauge(f"{prefix}_in_flight", "Requests under way.", **own)
        self.rendering = Histogram(
            f"{prefix}_rendering_seconds", "Decoding, warping, marking and packing.", buckets=RENDERINGS, **own
        )
        self.queued = Gauge(f"{prefix}_rendering_queue", "Requests that are rendered or wait for it.", **own)
        self.restarts = Counter(f"{prefix}_model_restarts", "Times the model's server was lost.", **own)
        self.ready = Gauge(f"{prefix}_model_ready", "1 while the model's server answers.", **own)

    def watch(self, ready: Callable[[], bool]) -> None:
        """Where to see whether the model's server answers."""
        self.ready.set_function(lambda: float(ready()))

    def text(self) -> tuple[bytes, str]:
        """The page, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
