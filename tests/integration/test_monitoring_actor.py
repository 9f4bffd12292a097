"""The monitoring actor on a real Ray: found again, killed and restarted by Ray, asked by period, scraped."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import ray

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, UnreachableError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json
from runtime.data.accumulate import Accumulator
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring.actor import (
    ACTOR_NAME,
    NAMESPACE,
    actor_name,
    mark_period,
    monitor_drift,
    monitor_history,
    monitor_report,
    monitor_status,
    shard_of,
    start_monitor,
)
from runtime.serving.counters import Delta, Pusher
from runtime.serving.replica import _send_to_monitor
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion
from runtime.telemetry.latency import count_latencies
from tests.waiting import wait_until

RESTART_TIMEOUT_S = 60.0
ENDPOINT = "watched"
ENCODING = Encoding(numeric=("wind",), categorical=(), vocabularies={})


def draw(seed: int, num_rows: int, shift: float) -> Encoded:
    values = np.random.default_rng(seed).normal(shift, 1, (num_rows, 1)).astype(np.float32)
    return Encoded(numeric=values, categorical=np.empty((num_rows, 0), dtype=np.int64))


@pytest.fixture(scope="module")
def profile() -> Profile:
    return build_profile(draw(0, 20_000, 0.0), ENCODING)


@pytest.fixture(scope="module")
def config(cluster: Config, tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> Config:
    """The cluster's configuration, with a model version of this module in its store."""
    bundle = tmp_path_factory.mktemp("bundle")
    write_atomic(bundle / "profile.json", canonical_json(profile.to_json()))
    store = ControlStore(cluster.paths.control)
    store.create_schema()
    store.record_model_version(
        ModelVersion(
            name=ENDPOINT,
            version=1,
            run_id="run",
            bundle_uri=str(bundle),
            bundle_sha256="0" * 64,
            lineage={},
            created_at="2026-01-01T00:00:00+00:00",
        )
    )
    store.close()
    return cluster


def message(profile: Profile, sequence: int, rows: int, shift: float = 0.0) -> dict[str, Any]:
    accumulator = Accumulator(profile)
    encoded = draw(sequence, rows, shift)
    accumulator.add(encoded.numeric, encoded.categorical, np.full(rows, 0.5))
    return {
        "endpoint": ENDPOINT,
        "slot": "blue",
        "model_version": f"{ENDPOINT}:1",
        "replica": "r1",
        "sequence": sequence,
        "requests": rows,
        "rows": rows,
        "errors": 0,
        "latency_ms_counts": count_latencies([3.0] * rows),
        "counts": accumulator.take(),
    }


def status_after_restart(config: Config, old_pid: int) -> dict[str, Any]:
    """The first status of another process than `old_pid`."""
    deadline = time.monotonic() + RESTART_TIMEOUT_S
    while True:
        try:
            status = monitor_status(config)
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            continue  # each try waits for Ray's own answer
        if status["pid"] != old_pid:
            return status


def ours(status: dict[str, Any]) -> dict[str, Any]:
    """The entry of this module's endpoint; others may be served meanwhile."""
    (entry,) = [entry for entry in status["entries"] if entry["endpoint"] == ENDPOINT]
    return dict(entry)


def evidence(status: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in status["drift"] if one["endpoint"] == ENDPOINT]
    # Ticks without rows go by while the actor restarts; they give no evidence.
    return {name: value for name, value in found.items() if name not in ("ticks", "volume")}


def test_the_life_of_the_monitor(config: Config, profile: Profile) -> None:
    start_monitor(config)
    assert start_monitor(config) is False
    actor: Any = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)

    def ingest(delta: dict[str, Any]) -> bool:
        return bool(ray.get(actor.ingest.remote(delta)))

    start = mark_period(config)
    assert ingest(message(profile, 1, 2000))
    assert not ingest(message(profile, 1, 2000))
    assert not ingest({"endpoint": ENDPOINT})
    june = mark_period(config)
    assert ingest(message(profile, 2, 1000, shift=2.0))

    before = monitor_status(config)
    assert ours(before)["rows"] == 3000
    assert before["duplicates"] >= 1
    assert before["refused"] >= 1
    assert before["metrics_error"] is None
    os.kill(before["pid"], signal.SIGKILL)
    after = status_after_restart(config, before["pid"])
    assert ours(after) == ours(before)
    assert evidence(after) == evidence(before)
    assert not ingest(message(profile, 2, 1000, shift=2.0))

    (calm,) = monitor_drift(config, ENDPOINT, since=start, until=june)
    (moved,) = monitor_drift(config, ENDPOINT, since=june)
    assert (calm["rows"], moved["rows"]) == (2000, 1000)
    assert calm["psi"]["wind"] < 0.05 < 1 < moved["psi"]["wind"]

    (report,) = monitor_report(config, ENDPOINT)
    assert report["slots"]["blue"]["model_version"] == f"{ENDPOINT}:1"
    assert [one["rows"] for one in report["windows"]["day"]] == [3000]
    assert monitor_history(config, ENDPOINT, level="minutes", number=3)[-1]["entries"]
    with pytest.raises(NotFoundError, match="no endpoint 'nobody'"):
        monitor_report(config, "nobody")

    with urlopen(f"http://127.0.0.1:{config.cluster.ports.monitor_metrics}/metrics") as answer:
        text = answer.read().decode()
    assert f'teal_feature_psi{{endpoint="{ENDPOINT}"' in text
    assert "teal_rows_total" in text


def test_replicas_that_push_while_the_monitor_is_killed_are_counted_once(config: Config, profile: Profile) -> None:
    start_monitor(config)
    taken = dict.fromkeys("abc", 0)

    def taker(replica: str) -> Callable[[], Delta]:
        def take() -> Delta:
            taken[replica] += 1
            fresh = message(profile, taken[replica], 50)
            return Delta(
                requests=50,
                rows=50,
                errors=0,
                refused=0,
                latency_ms_counts=fresh["latency_ms_counts"],
                counts=fresh["counts"],
            )

        return take

    pushers = [
        Pusher(
            taker(replica),
            _send_to_monitor,
            identity={"endpoint": "pushed", "slot": "blue", "model_version": f"{ENDPOINT}:1", "replica": replica},
            interval_s=0.05,
        )
        for replica in taken
    ]
    for pusher in pushers:
        pusher.start()
    try:
        for _ in range(2):
            pushed = max(taken.values())
            wait_until(lambda pushed=pushed: min(taken.values()) > pushed + 3, timeout_s=30)  # type: ignore[misc]
            pid = monitor_status(config)["pid"]
            os.kill(pid, signal.SIGKILL)
            status_after_restart(config, pid)
    finally:
        ended = [pusher.finish(30.0) for pusher in pushers]
    assert all(ended)
    (entry,) = [entry for entry in monitor_status(config)["entries"] if entry["endpoint"] == "pushed"]
    assert entry["requests"] == entry["rows"] == 50 * sum(taken.values())


def test_an_endpoint_lives_in_one_shard_and_is_found_there(config: Config, profile: Profile) -> None:
    sharded = replace(config, monitoring=replace(config.monitoring, num_shards=2))
    name = next(f"e{index}" for index in range(50) if shard_of(f"e{index}", 2) == 1)
    start_monitor(config)
    assert start_monitor(sharded) is True
    second: Any = ray.get_actor(actor_name(1), namespace=NAMESPACE)
    try:
        assert ray.get(second.ingest.remote(message(profile, 1, 700) | {"endpoint": name, "replica": "s1"}))
        # Sent to the wrong one: handed on.
        assert ray.get(second.ingest.remote(message(profile, 1, 10) | {"replica": "s2"}))
        entries = {entry["endpoint"]: entry["rows"] for entry in monitor_status(sharded)["entries"]}
        assert entries[name] == 700
        assert ENDPOINT in entries
        assert [one["rows"] for one in monitor_drift(sharded, name)] == [700]
        assert name not in {entry["endpoint"] for entry in monitor_status(config)["entries"]}
        boundary = mark_period(sharded)
        assert monitor_drift(sharded, name, since=boundary) == []
        with urlopen(f"http://127.0.0.1:{config.cluster.ports.monitor_metrics}/metrics") as answer:
            assert f'endpoint="{ENDPOINT}"' in answer.read().decode()
    finally:
        ray.kill(second, no_restart=True)
