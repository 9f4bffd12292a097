"""The loop closed on the shared platform: an alarm leads to a rollout, and a kill on the way costs nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import yaml

from runtime.client.calls import Label
from runtime.client.client import Client
from runtime.cluster.ray_process import connect
from runtime.config.compose import compose
from runtime.config.schema import Config
from runtime.core.errors import NotFoundError
from runtime.pipeline.continuous_status import read_continuous
from runtime.pipeline.progress import Silent
from runtime.pipeline.quality_report import read_quality
from runtime.pipeline.quality_watch import QualityWatch
from runtime.pipeline.steps import Session, deploy_version, prepare_data, register_candidate, sweep_models
from runtime.rollout.commands import apply_event
from runtime.rollout.phases import Event
from runtime.store.rollouts import RolloutStore
from tests.conftest import Teal
from tests.waiting import wait_until

TABLE = "looped"
NUM_PREPARED, NUM_SERVED = 300, 1200
SLOPE = 6.0
COLUMNS = {
    "id": {"type": "string", "role": "key"},
    "at": {"type": "timestamp", "role": "time"},
    "x": {"type": "number"},
    "kind": {"type": "category"},
    "late": {"type": "binary", "role": "label"},
}
SETTINGS = (
    f"data={TABLE}",
    "tune.families=[linear]",
    "tune.num_samples=1",
    "training.epochs=8",
    "gate.min_rows=40",
    "gate.num_resamples=200",
    "serving.payload_flush_s=0.3",
    "alerts.rules.quality_decay.for_s=0",
    "continuous.triggers={quality: {kind: quality, debounce_s: 0}}",
    "continuous.min_labels=500",
    "continuous.cooldown_s=3600",
    "continuous.interval_s=0.2",
    "rollout=fast",
    "rollout.approvals=1",
)


@dataclass(kw_only=True)
class Site:
    config: Config
    store: RolloutStore
    environment: dict[str, str]

    def trainings(self) -> list[Any]:
        return self.store.trainings(TABLE)

    def num_labelled(self) -> int:
        try:
            return read_quality(self.config, self.store, TABLE, period="all").counts.labelled
        except NotFoundError:  # nothing is flushed yet
            return 0

    def start_driver(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "runtime.cli", "continuous", "run", *SETTINGS]
        environment = os.environ | {"TEAL_HOME": self.config.paths.home} | self.environment
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def site(platform: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A first version serves, whose world has turned round since: what was late is early."""
    directory = tmp_path_factory.mktemp("looped")
    (directory / "configs" / "data").mkdir(parents=True)
    table = {"name": TABLE, "builder": "runtime.data.tabular:build", "columns": COLUMNS}
    table["sources"] = {"rows": str(directory / "rows.csv")}
    (directory / "configs" / "data" / f"{TABLE}.yaml").write_text(yaml.safe_dump(table))
    rows, labels = draw(0, NUM_PREPARED, slope=SLOPE)
    lines = [
        f"r{n},2026-01-{1 + n // 20:02d}T00:00:00Z,{row['x']},{row['kind']},{label}"
        for n, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    (directory / "rows.csv").write_text("\n".join(["id,at,x,kind,late", *lines]) + "\n")

    environment = {"TEAL_CONFIGS": str(directory / "configs")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEAL_CONFIGS", environment["TEAL_CONFIGS"])
        config = replace(compose(SETTINGS), cluster=platform.cluster, paths=platform.paths)
    connect(config)
    with Session.open(config, Silent()) as session:
        sweep_models(session, prepare_data(session).version)
        model = register_candidate(session, actor="test").model
        deploy_version(session, model.label, actor="test")
    connect(config)
    store = RolloutStore.of(config.paths)
    yield Site(config=config, store=store, environment=environment)
    for rollout in store.rollouts(TABLE, is_active=True):
        apply_event(store, rollout.id, Event.ABORT, by="test")
    store.close()


def draw(seed: int, num_rows: int, *, slope: float) -> tuple[list[dict[str, Any]], list[int]]:
    random = np.random.default_rng(seed)
    x, kinds = random.normal(size=num_rows), random.choice(["a", "b"], num_rows)
    late = random.random(num_rows) < 1 / (1 + np.exp(-slope * x))
    rows = [{"x": float(value), "kind": str(kind)} for value, kind in zip(x, kinds, strict=True)]
    return rows, late.astype(int).tolist()


def test_an_alarm_leads_to_a_rollout_through_a_kill(site: Site, teal: Teal) -> None:
    serve_a_world_turned_round(site)
    alert = raise_the_alarm(site)

    driver = site.start_driver()
    try:
        wait_until(lambda: site.trainings() and "data" in site.trainings()[0].steps, timeout_s=60)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(timeout=10)
    (killed,) = site.trainings()
    assert (killed.phase, list(killed.steps)) == ("running", ["data"])
    status = read_continuous(site.config, site.store, TABLE, time.time())
    assert (status.is_looked_after, status.why) == (False, "a training is running")
    assert (status.chains[0].step, status.chains[0].remedy) == (
        "sweep",
        "nobody carries it on: `teal continuous run` does",
    )

    # The lease of the killed process does not hold up the next one.
    shown = teal("continuous", "run", *SETTINGS, "--once", **site.environment).stdout
    assert f"{TABLE}@1: {TABLE}@0 and {NUM_SERVED:,} served rows with labels" in shown
    (done,) = site.trainings()
    assert (done.id, done.phase) == (killed.id, "done"), done.reason
    assert list(done.steps) == ["data", "sweep", "register", "deploy", "rollout"]
    assert done.steps["data"] == killed.steps["data"]
    # Every step was done once.
    assert [one.version for one in site.store.data_versions() if one.table == TABLE] == [0, 1]
    assert [model.version for model in site.store.model_versions(TABLE)] == [1, 2]
    (rollout,) = site.store.rollouts(TABLE)

    model = site.store.model_version(TABLE, 2)
    assert model.lineage["trigger"]["evidence"]["alert"] == alert
    assert model.lineage["trigger"]["training"] == done.id
    assert model.lineage["data_version"] == f"{TABLE}@1"
    assert (rollout.id, rollout.canary_model) == (done.steps["rollout"]["rollout"], f"{TABLE}:2")

    waits_for_approval(site, teal, rollout.id)
    traces(site, teal)


def waits_for_approval(site: Site, teal: Teal, rollout: str) -> None:
    wait_until(lambda: site.store.rollout(rollout).phase == "AwaitingApproval", timeout_s=20)
    assert site.store.endpoint(TABLE).share == 0
    shown = teal("continuous", "status", *SETTINGS, **site.environment).stdout
    assert f"{rollout} is AwaitingApproval" in shown
    assert f"`teal approve {rollout}` lets it go on" in shown
    assert f"rollout {rollout} has not ended" in shown
    teal("approve", rollout, "--reason", "looked at it")
    wait_until(lambda: site.store.rollout(rollout).phase not in ("AwaitingApproval", "Pending"), timeout_s=20)
    (line,) = [line for line in teal("continuous", "history", "-e", TABLE).stdout.splitlines() if rollout in line]
    for part in ("quality, alert", f"{TABLE}@1", f"{TABLE}:2", "done"):
        assert part in line


def traces(site: Site, teal: Teal) -> None:
    """An answer of the new version leads to the alarm, the served rows and the source files."""
    with client(site) as caller:
        rows = draw(2, 1, slope=-SLOPE)[0]
        wait_until(lambda: site.store.endpoint(TABLE).share > 0, timeout_s=30)
        answer: Any = None

        def comes_from_the_canary() -> bool:
            nonlocal answer
            answer = caller.predict(TABLE, rows)
            return bool(answer.model_version == f"{TABLE}:2")

        wait_until(comes_from_the_canary, timeout_s=20)
    # Asked at once: what a replica has not written yet is waited for.
    shown = teal("trace", answer.prediction_id).stdout
    for part in (f"data {TABLE}@1", f"data {TABLE}@0", "rows.csv", "quality_decay of blue", f"{TABLE}:2"):
        assert part in shown


def serve_a_world_turned_round(site: Site) -> None:
    rows, labels = draw(1, NUM_SERVED, slope=-SLOPE)
    with client(site) as caller:
        answer = caller.predict(TABLE, rows)
        accepted = caller.feedback(
            TABLE,
            [Label(prediction_id=answer.prediction_id, row=row, label=label) for row, label in enumerate(labels)],
        )
    assert accepted == NUM_SERVED
    wait_until(lambda: site.num_labelled() == NUM_SERVED, timeout_s=30)


def raise_the_alarm(site: Site) -> str:
    """As the actor `teal-alerts` does, whose own rule waits for a minute."""

    def fires() -> str | None:
        QualityWatch(config=site.config, store=site.store, read_monitor=lambda now: None).look(time.time())
        found = site.store.alerts(TABLE).values()
        return next((one["id"] for one in found if one["signal"] == "auc_loss" and one["phase"] == "firing"), None)

    alert = wait_until(fires, timeout_s=20)
    assert alert
    return str(alert)


def client(site: Site) -> Client:
    return Client(f"http://127.0.0.1:{site.config.cluster.ports.edge}", timeout_s=30)
