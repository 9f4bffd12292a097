"""Latency buckets, the metric table, and logs a machine can read."""

import io
import json
import logging
from collections.abc import Iterator
from urllib.request import urlopen

import numpy as np
import pytest

from runtime.core.errors import UnreachableError, UsageError
from runtime.telemetry.latency import BOUNDS_MS, NUM_BUCKETS, count_latencies, latency_quantile_ms
from runtime.telemetry.logs import configure_logging
from runtime.telemetry.metrics import METRIC_NAMES, Sample, render_metrics, serve_metrics


@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.95, 0.99])
def test_quantiles_are_within_a_bucket(quantile: float) -> None:
    latencies = np.random.default_rng(0).lognormal(1.5, 0.8, 20_000)
    found = latency_quantile_ms(count_latencies(latencies), quantile)
    assert found == pytest.approx(np.quantile(latencies, quantile), rel=0.15)


def test_ends_of_the_scale() -> None:
    assert latency_quantile_ms(count_latencies([]), 0.5) is None
    assert latency_quantile_ms(count_latencies([1e9]), 0.5) == BOUNDS_MS[-1]
    assert latency_quantile_ms(count_latencies([0.0]), 1.0) == BOUNDS_MS[0]
    assert count_latencies([BOUNDS_MS[3]])[3] == 1
    assert len(count_latencies([])) == NUM_BUCKETS


def test_counts_merge_to_the_counts_of_all() -> None:
    one, other = [1.0, 5.0, 5.0], [2.0, 500.0]
    assert (count_latencies(one) + count_latencies(other)).tolist() == count_latencies(one + other).tolist()


def test_metrics_are_served_as_they_are_now() -> None:
    value = 1.0

    def read() -> list[Sample]:
        return [Sample(name="teal_monitor_deltas_total", labels={}, value=value)]

    with serve_metrics(0, "127.0.0.1", read) as server:
        for value in (1.0, 5.0):
            with urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
                assert f"teal_monitor_deltas_total {value}" in answer.read().decode()
        with pytest.raises(UnreachableError, match=r"cluster.ports.monitor_metrics"):
            serve_metrics(server.port, "127.0.0.1", read)


def test_a_metric_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(UsageError, match="no metric 'teal_other'"):
        render_metrics(lambda: [Sample(name="teal_other", labels={}, value=1)])
    with pytest.raises(UsageError, match="labels"):
        render_metrics(lambda: [Sample(name="teal_rows_total", labels={}, value=1)])


def test_latency_is_a_cumulative_histogram_in_seconds() -> None:
    labels = {"endpoint": "e", "slot": "blue", "model_version": "m:1"}
    counts = tuple(count_latencies([1.0, 10.0, 1e9]).tolist())
    text = render_metrics(
        lambda: [Sample(name="teal_request_latency_seconds", labels=labels, value=2.5, latency_counts=counts)]
    )
    buckets = [float(line.split()[-1]) for line in text.splitlines() if "_bucket{" in line]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
    assert "teal_request_latency_seconds_sum" in text


def test_names_are_unique_and_carry_their_unit() -> None:
    names = [metric.name for metric in METRIC_NAMES]
    assert len(set(names)) == len(names)
    assert all(metric.name.endswith("_total") == (metric.kind == "counter") for metric in METRIC_NAMES)


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging(logging.INFO, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_log_line_is_json_with_the_request(log_stream: io.StringIO) -> None:
    logger = logging.getLogger("runtime.test")
    logger.warning("slow %s", "answer", extra={"latency_ms": 12, "request_id": "r-1"})
    logger.info("after")
    logging.getLogger("mlflow.store").info("chatter")
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    first, second, third = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    assert (first["level"], first["message"], first["request_id"], first["latency_ms"]) == (
        "warning",
        "slow answer",
        "r-1",
        12,
    )
    assert "request_id" not in second
    assert "ValueError: boom" in third["error"]
