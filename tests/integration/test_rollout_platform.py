"""Rollouts on the shared platform, by the command: real replicas, the monitor, the controller as Ray runs it."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from runtime.cluster.ray_process import connect
from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.registry.mlflow_client import connect as connect_mlflow
from runtime.rollout.actor import ACTOR_NAME, NAMESPACE
from runtime.rollout.aliases import CONSUMER
from runtime.rollout.certificate import read_certificate
from runtime.serving.reconcile import ServeClient, reconcile
from runtime.store.records import Slot, other_slot
from runtime.store.rollouts import RolloutStore
from tests.conftest import Teal
from tests.serving_example import example_model_version, example_row
from tests.waiting import wait_until

ENDPOINT = "rollout-test"
SEEDS = {1: 5, 2: 6, 3: 8}
"""Version to seed: the scores of 5 and 8 have the same mean to 0.002, those of 6 lie 0.03 above."""
PLAN = """
steps_percent: [50, 100]
min_s: 1
min_requests: 100
max_s: 120
tick_s: 1
settle_s: 2.5
hold_after_s: 20
rollback_window_s: 1
metrics:
  errors: {kind: errors, margin: 0.5, negligible_rate: 0.05}
  latency_p90: {kind: latency, quantile: 0.9, margin: 4.0, is_required: false}
  score: {kind: score, margin: 0.01}
"""

THOROUGH = (
    PLAN.replace("min_s: 1", "shadow: {fraction: 0.5, min_requests: 100, max_difference: 0.5}\nmin_s: 1")
    + """
  losses: {kind: feedback, loss: brier, margin: 0.3}
"""
)
"""First in the shadow, then with labels that must come back before the step passes."""


@pytest.fixture(scope="module")
def store(platform: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutStore]:
    store = RolloutStore(platform.paths.control)
    mlflow = connect_mlflow(platform.paths.mlflow)
    mlflow.create_registered_model(ENDPOINT)
    directory = tmp_path_factory.mktemp("rollout-bundles")
    for version, seed in SEEDS.items():
        model = example_model_version(directory / f"v{version}", version=version, seed=seed)
        store.record_model_version(replace(model, name=ENDPOINT))
        mlflow.create_model_version(ENDPOINT, source=str(directory))
    yield store
    store.close()


@pytest.fixture
def plans(tmp_path: Path) -> str:
    (tmp_path / "rollout").mkdir()
    (tmp_path / "rollout" / "brisk.yaml").write_text(PLAN)
    (tmp_path / "rollout" / "thorough.yaml").write_text(THOROUGH)
    return str(tmp_path)


def ready_ids(store: RolloutStore, slot: Slot, endpoint: str = ENDPOINT) -> set[str]:
    return {one.replica_id for one in store.replicas(endpoint) if (one.slot, one.state) == (slot, "ready")}


def least_in_serve(platform: Config, slot: str, endpoint: str = ENDPOINT) -> int:
    client = ServeClient(platform.cluster, read_token(platform.paths.run))
    (deployment,) = client.details()["applications"][f"{endpoint}-{slot}"]["deployed_app_config"]["deployments"]
    return int(deployment["autoscaling_config"]["min_replicas"])


def deploy(platform: Config, store: RolloutStore, *versions: int) -> None:
    """Two replicas for all of the traffic, one for up to half of it and for none."""
    serving = replace(platform.serving, endpoint=ENDPOINT, payload_flush_s=0.5, ready_timeout_s=120)
    serving = replace(serving, min_replicas=2, max_replicas=2, idle_replicas=1)
    for version in versions:
        store.assign_slot(ENDPOINT, None, store.model_version(ENDPOINT, version), actor="tester")
    reconcile(store, replace(platform, serving=serving), token=read_token(platform.paths.run))


@contextmanager
def traffic(config: Config) -> Iterator[list[int]]:
    """Two callers, one row a request, a label for each answer; gives the statuses as they come."""
    stopping, statuses = threading.Event(), list[int]()
    bodies = [json.dumps({"instances": [example_row(seed)]}).encode() for seed in range(200)]

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", config.cluster.ports.edge, timeout=30)
        while not stopping.is_set():
            body = bodies[len(statuses) % len(bodies)]
            connection.request("POST", f"/v1/models/{ENDPOINT}:predict", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            statuses.append(response.status)
            if response.status == 200:
                label = {"prediction_id": answer["prediction_id"], "label": len(statuses) % 2}
                connection.request("POST", f"/v1/models/{ENDPOINT}:feedback", json.dumps({"labels": [label]}).encode())
                connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)


def test_moved_predictions_are_rolled_back_and_steady_ones_promoted(
    platform: Config, store: RolloutStore, teal: Teal, plans: str
) -> None:
    connect(platform)
    deploy(platform, store, 1, 2)
    with traffic(platform) as statuses:
        ended = teal("--configs", plans, "rollout", "start", ENDPOINT, "--plan", "brisk", "--wait", "--json", code=3)
        shown = json.loads(ended.stdout)
        assert shown["phase"] == "RolledBack", shown
        metrics = {metric["name"]: metric["log_rollback"] for metric in shown["verdict"]["metrics"]}
        assert max(metrics, key=lambda name: metrics[name]) == "score up", metrics

        deploy(platform, store, 3)
        options = ("--plan", "thorough", "--json")
        started = json.loads(teal("--configs", plans, "rollout", "start", ENDPOINT, *options).stdout)
        wait_until(lambda: store.rollout(started["id"]).phase == "Shadowing", timeout_s=60)
        assert store.endpoint(ENDPOINT).share == 0
        wait_until(lambda: store.rollout(started["id"]).phase == "Progressing", timeout_s=60)
        canary = store.endpoint(ENDPOINT).canary
        before = ready_ids(store, canary)
        controller: Any = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
        status: dict[str, Any] = ray.get(controller.status.remote(), timeout=20)
        os.kill(status["pid"], signal.SIGKILL)
        wait_until(lambda: store.rollout(started["id"]).phase == "Promoting", timeout_s=180)
        # All of the traffic came no sooner than the replicas for it; the old slot still has its own.
        after = ready_ids(store, canary)
        assert (len(before), len(after), len(ready_ids(store, other_slot(canary)))) == (1, 2, 2)
        assert before < after, "the replica that was there stays"
        wait_until(lambda: not store.rollout(started["id"]).is_active, timeout_s=120)
        # Serve takes its time to stop replicas; what it was told is that one is enough.
        assert least_in_serve(platform, other_slot(canary)) == 1
    finished = store.rollout(started["id"])
    assert finished.phase == "Succeeded", finished
    assert store.endpoint(ENDPOINT).slot(store.endpoint(ENDPOINT).primary).model == store.model_version(ENDPOINT, 3)
    assert set(statuses) == {200}
    wait_until(lambda: store.rollout(finished.id).certificate, timeout_s=20)
    assert "signature and audit chain agree" in teal("rollout", "certificate", finished.id, "--verify").stdout
    drawn = teal("rollout", "status", finished.id).stdout
    assert "1/α" in drawn
    assert "in the shadow" in drawn
    certificate = read_certificate(platform.paths, finished.id).content
    assert certificate["shadow"]["asked"] >= 100
    assert certificate["shadow"]["failed"] == 0
    losses = next(one for one in store.analysis_ticks(finished.id)[-1].verdict["metrics"] if one["name"] == "losses")
    assert losses["canary_requests"] >= 500
    mlflow = connect_mlflow(platform.paths.mlflow)
    alias_of = mlflow.get_model_version_by_alias
    wait_until(lambda: store.backlog().get(CONSUMER, 0) == 0, timeout_s=60)
    assert alias_of(ENDPOINT, "champion").version in (3, "3")
    assert "already" not in teal("rollout", "history", ENDPOINT).stdout
    assert store.verify_audit().faults == []


def test_a_share_moved_by_hand_finds_its_replicas(platform: Config, teal: Teal, tmp_path: Path) -> None:
    """Both before the share rises; and the slot that lost it keeps its own for the rollback window."""
    name = "room-test"
    store = RolloutStore(platform.paths.control)
    serving = replace(platform.serving, endpoint=name, min_replicas=2, max_replicas=2, idle_replicas=1)
    for version in (1, 2):
        model = replace(example_model_version(tmp_path / f"v{version}", version=version), name=name)
        store.record_model_version(model)
        store.assign_slot(name, None, model, actor="tester")
    reconcile(store, replace(platform, serving=serving), token=read_token(platform.paths.run))
    (before,) = ready_ids(store, "green", name)
    assert len(ready_ids(store, "blue", name)) == 2
    teal("shift", "100", "--endpoint", name)
    after = ready_ids(store, "green", name)
    assert (len(after), before in after) == (2, True)
    assert [least_in_serve(platform, slot, name) for slot in ("green", "blue")] == [2, 2]
    store.close()
