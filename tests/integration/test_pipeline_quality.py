"""Labels through the edge to quality, alerts and the next data version, on the shared platform."""

import csv
import http.client
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.cluster.ray_process import connect
from runtime.cluster.token import read_token
from runtime.config.schema import ColumnConfig, Config
from runtime.core.errors import NotFoundError
from runtime.monitoring.quality_ledger import LabelCounts
from runtime.pipeline.continuous_data import build_next_data
from runtime.pipeline.feedback_table import send_feedback
from runtime.pipeline.progress import Silent
from runtime.pipeline.quality_report import QualityOverview, read_quality
from runtime.pipeline.steps import Session, prepare_data
from runtime.serving.reconcile import reconcile
from runtime.store.control import ControlStore
from tests.serving_example import example_columns, example_model_version, example_row
from tests.waiting import wait_until

ENDPOINT = "quality-test"
NUM_ROWS = 60


@dataclass(kw_only=True)
class Site:
    config: Config
    store: ControlStore

    def send(self, action: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.config.cluster.ports.edge, timeout=60)
        path = f"/v1/models/{ENDPOINT}:{action}"
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200, answer
        return answer

    def quality(self) -> QualityOverview:
        return read_quality(self.config, self.store, ENDPOINT, period="all", slices=["carrier"])

    def counts(self) -> LabelCounts:
        try:
            return self.quality().counts
        except NotFoundError:  # nothing is flushed yet
            return LabelCounts()


@pytest.fixture(scope="module")
def site(platform: Config, tmp_path_factory: pytest.TempPathFactory) -> Site:
    serving = replace(platform.serving, endpoint=ENDPOINT, payload_flush_s=0.3, ready_timeout_s=120)
    columns = {name: replace(column, nullable=column.pii) for name, column in example_columns().items()}
    columns["id"] = ColumnConfig(type="string", role="key")
    data = replace(platform.data, name="quality-test-data", columns=columns, since=None, until=None)
    limits = replace(platform.continuous, min_labels=10)
    slices = replace(platform.quality, min_slice_rows=2)
    config = replace(platform, serving=serving, data=data, quality=slices, continuous=limits)
    store = ControlStore.of(config.paths)
    model = replace(example_model_version(tmp_path_factory.mktemp("bundle") / "v1"), name="quality-test-model")
    store.record_model_version(model)
    store.assign_slot(ENDPOINT, None, model, actor="test")
    reconcile(store, config, token=read_token(config.paths.run))
    return Site(config=config, store=store)


def test_from_an_answer_to_its_quality_and_into_the_next_data_version(site: Site, tmp_path: Path) -> None:
    first = site.send("predict", {"instances": [example_row(index) for index in range(NUM_ROWS)]})["prediction_id"]
    second = site.send("predict", {"instances": [example_row(99)]})["prediction_id"]
    labels = [{"prediction_id": first, "row": row, "label": row % 2} for row in range(NUM_ROWS)]
    odd = [
        {"prediction_id": first, "row": 1, "label": 1},  # the same again
        {"prediction_id": first, "row": 0, "label": 1},  # contradicts the first one
        {"prediction_id": first, "row": NUM_ROWS, "label": 1},  # no such row
    ]
    assert site.send("feedback", {"labels": labels})["accepted"] == NUM_ROWS
    wait_until(lambda: site.counts().labelled == NUM_ROWS, timeout_s=30)
    assert site.send("feedback", {"labels": odd})["accepted"] == len(odd)
    path = tmp_path / "labels.csv"
    path.write_text(f"prediction_id,label\n{second},1\n")
    assert send_feedback(site.config, ENDPOINT, path, Silent()).num_accepted == 1

    wait_until(lambda: site.counts().labels == NUM_ROWS + 4, timeout_s=30)
    counts = site.counts()
    assert (counts.predictions, counts.labelled) == (NUM_ROWS + 1, NUM_ROWS + 1)
    assert (counts.repeated, counts.conflicting, counts.waiting, counts.late) == (1, 1, 1, 0)
    overview = site.quality()
    (quality,) = overview.qualities
    assert quality.model_version == "quality-test-model:1"
    assert quality.measured.observed_rate == pytest.approx((NUM_ROWS / 2 + 2) / (NUM_ROWS + 1))
    assert {one.slice_value for one in overview.slices} == {"AA", "B6", "DL", "UA"}

    connect(site.config)
    _prepare_table(site, tmp_path)
    session = Session(config=_with_source(site, tmp_path), store=site.store, registry=None, progress=Silent())  # type: ignore[arg-type]
    built = build_next_data(session, ENDPOINT, needs_served=True)
    assert (built.version.version, built.version.num_rows) == (1, 20 + NUM_ROWS + 1)
    assert built.served is not None
    assert built.served["base_version"] == 0
    assert site.store.data_version("quality-test-data").lineage["served"]["rows_sha256"] == built.served["rows_sha256"]


def test_the_alerts_actor_looks(site: Site) -> None:
    import ray

    connect(site.config)
    actor: Any = ray.get_actor("teal-alerts", namespace="teal")
    ray.get(actor.look.remote(), timeout=60)
    status = ray.get(actor.status.remote(), timeout=30)
    assert (status["error"], status["faults"].get(ENDPOINT)) == (None, None)
    assert time.time() - status["last_look_at"] < 60
    assert status["metrics_port"] == site.config.cluster.ports.alerts_metrics


def _with_source(site: Site, directory: Path) -> Config:
    data = replace(
        site.config.data, builder="runtime.data.tabular:build", sources={"rows": str(directory / "rows.csv")}
    )
    return replace(site.config, data=data)


def _prepare_table(site: Site, directory: Path) -> None:
    rows = [example_row(index) | {"id": f"r{index}", "late": index % 2} for index in range(20)]
    with (directory / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    session = Session(config=_with_source(site, directory), store=site.store, registry=None, progress=Silent())  # type: ignore[arg-type]
    assert prepare_data(session).version.num_rows == 20
