"""Every metric that teal exports, in one table, and what Prometheus scrapes. The only import of its client.

Values are read when scraped, from counts that somebody else keeps and restores: nothing is counted here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.core.errors import UnreachableError, UsageError
from runtime.telemetry.latency import BOUNDS_MS

SLOT_LABELS = ("endpoint", "slot", "model_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricName:
    """One exported metric."""

    name: str
    """As scraped; a counter's ends in `_total`."""
    kind: Literal["counter", "gauge", "latency"]
    labels: tuple[str, ...]
    help: str


METRIC_NAMES: tuple[MetricName, ...] = (
    MetricName(name="teal_requests_total", kind="counter", labels=SLOT_LABELS, help="Prediction requests answered."),
    MetricName(name="teal_rows_total", kind="counter", labels=SLOT_LABELS, help="Rows scored."),
    MetricName(name="teal_errors_total", kind="counter", labels=SLOT_LABELS, help="Requests that ended in an error."),
    MetricName(
        name="teal_refused_total",
        kind="counter",
        labels=SLOT_LABELS,
        help="Requests refused for breaking the contract.",
    ),
    MetricName(
        name="teal_request_latency_seconds", kind="latency", labels=SLOT_LABELS, help="Time in the replica, a request."
    ),
    MetricName(
        name="teal_feature_psi",
        kind="gauge",
        labels=(*SLOT_LABELS, "feature"),
        help="PSI of a feature against the training profile, since the slot got the version. An effect size, no test.",
    ),
    MetricName(name="teal_monitor_deltas_total", kind="counter", labels=(), help="Deltas of replicas taken in."),
    MetricName(
        name="teal_monitor_duplicates_total", kind="counter", labels=(), help="Deltas sent again and not counted again."
    ),
    MetricName(
        name="teal_monitor_refused_total", kind="counter", labels=(), help="Deltas that were malformed or did not fit."
    ),
    MetricName(
        name="teal_drift_evidence_log10",
        kind="gauge",
        labels=("endpoint",),
        help="Log10 of the evidence of drift over all features, both slots and the volume; -304 for none.",
    ),
    MetricName(
        name="teal_drift_threshold_log10",
        kind="gauge",
        labels=("endpoint",),
        help="Log10 of the evidence at which the alarm stands: the false alarm budget in ticks.",
    ),
    MetricName(
        name="teal_drift_alarm", kind="gauge", labels=("endpoint",), help="1 while the drift alarm stands, else 0."
    ),
    MetricName(
        name="teal_requests_expected",
        kind="gauge",
        labels=("endpoint",),
        help="Requests that the last tick should have brought by the same hour of earlier weeks.",
    ),
    MetricName(
        name="teal_skewed_features",
        kind="gauge",
        labels=("endpoint", "slot"),
        help="Features whose first served rows differ from the training rows of the version in the slot.",
    ),
    MetricName(
        name="teal_monitor_replicas", kind="gauge", labels=(), help="Replicas that sent a delta within the last day."
    ),
    MetricName(
        name="teal_signal",
        kind="gauge",
        labels=(*SLOT_LABELS, "signal", "bound"),
        help="What alert rules look at, with its interval: bound is value, low or high; all three where it has none.",
    ),
    MetricName(
        name="teal_alert",
        kind="gauge",
        labels=(*SLOT_LABELS, "rule", "severity", "phase"),
        help="1 for each alert that is pending, firing, acknowledged or lately resolved.",
    ),
    MetricName(
        name="teal_alerts_last_look_timestamp_seconds",
        kind="gauge",
        labels=(),
        help="When the rules were last evaluated, seconds since 1970.",
    ),
    MetricName(
        name="teal_monitor_last_tick_timestamp_seconds",
        kind="gauge",
        labels=(),
        help="When the monitor's state was last written, seconds since 1970.",
    ),
)
_BY_NAME = {metric.name: metric for metric in METRIC_NAMES}
_BUCKET_STEP = 8
"""Prometheus gets every eighth latency bound, a factor of about 3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One value now. For kind latency `value` is the sum in seconds and `latency_counts` the buckets of BOUNDS_MS."""

    name: str
    labels: Mapping[str, str]
    value: float
    latency_counts: tuple[int, ...] = ()


class MetricsServer:
    """A running scrape endpoint; a context manager."""

    def __init__(self, server: Any, thread: Any) -> None:
        self._server = server
        self._thread = thread
        self.port = int(server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "MetricsServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve_metrics(port: int, host: str, read_samples: Callable[[], Iterable[Sample]]) -> MetricsServer:
    """Answer `GET /metrics` in a thread; port 0 takes a free one. UnreachableError if the port is taken."""
    registry = make_registry(read_samples)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UnreachableError(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; set cluster.ports.monitor_metrics to a free port"
        ) from error
    return MetricsServer(server, thread)


def render_metrics(read_samples: Callable[[], Iterable[Sample]]) -> str:
    """The scrape's text."""
    return generate_latest(make_registry(read_samples)).decode()


def make_registry(read_samples: Callable[[], Iterable[Sample]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Reader(read_samples))
    return registry


class _Reader(Collector):
    def __init__(self, read_samples: Callable[[], Iterable[Sample]]) -> None:
        self._read_samples = read_samples

    def describe(self) -> Iterable[Metric]:
        return []  # otherwise registering would collect

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Any] = {}
        for sample in self._read_samples():
            metric = _BY_NAME.get(sample.name)
            if metric is None or set(sample.labels) != set(metric.labels):
                raise UsageError(f"no metric {sample.name!r} with labels {sorted(sample.labels)} in METRIC_NAMES")
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _make_family(metric)
            labels = [sample.labels[name] for name in metric.labels]
            if metric.kind == "latency":
                family.add_metric(labels, _buckets(sample.latency_counts), sample.value)
            else:
                family.add_metric(labels, sample.value)
        yield from families.values()


def _make_family(metric: MetricName) -> Any:
    if metric.kind == "latency":
        return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)


def _buckets(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    buckets, below = [], 0
    for index, bound in enumerate(BOUNDS_MS):
        below += counts[index]
        if index % _BUCKET_STEP == 0:
            buckets.append((f"{bound / 1000:.6g}", float(below)))
    return [*buckets, ("+Inf", float(sum(counts)))]
