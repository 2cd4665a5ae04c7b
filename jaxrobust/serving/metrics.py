"""What Prometheus scrapes at `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The service's counters, in a registry of their own: several services may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def made(kind, name, words, labels=(), **options):
            return kind(f"jaxrobust_{name}", words, labels, registry=self.registry, **options)

        self.requests = made(Counter, "requests", "Requests answered.", ("route", "status"))
        self.seconds = made(
            Histogram,
            "request_seconds",
            "From a request's head to its answer.",
            ("route",),
            buckets=_SECONDS,
        )
        self.problems = made(Counter, "problems", "Requests answered by a problem.", ("kind",))
        self.images = made(Counter, "images", "Images answered by the model.", ("program",))
        self.rows = made(
            Histogram,
            "batch_images",
            "Images that shared a pass.",
            ("program",),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.device = made(
            Histogram, "device_seconds", "A pass through the model.", ("program",), buckets=_SECONDS
        )
        self.decoding = made(Histogram, "decode_seconds", "Decoding one image.", buckets=_SECONDS)
        self.waiting = made(Gauge, "images_in_house", "Images accepted and not answered yet.")
        self.ready = made(Gauge, "ready", "1 while the service takes images.")
        self.model = made(Gauge, "model_info", "The model that is served.", ("id",))
        self.reloads = made(Counter, "reloads", "Models loaded again.", ("outcome",))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
