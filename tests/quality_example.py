"""A control store, a payload log and labels of one endpoint, for tests of quality, alerts and continuous training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from runtime.config.alerting import TriggerConfig
from runtime.config.compose import compose
from runtime.config.schema import ColumnConfig, Config
from runtime.core.ids import format_uuid7
from runtime.data.counts import count_scores
from runtime.data.metrics import Floats, log_losses
from runtime.monitoring.alerts import Alert
from runtime.monitoring.calibration import fit_calibration
from runtime.monitoring.cbpe import estimate_quality
from runtime.monitoring.concept import LossReference
from runtime.monitoring.quality_figures import measure
from runtime.pipeline.quality_reference import QualityReference
from runtime.serving.payload import feedback_uri, payload_uri
from runtime.store.records import DataVersion, ModelVersion
from runtime.store.rollouts import RolloutStore
from tests.cluster_config import cluster_config

ENDPOINT = "flights"
START = datetime(2026, 6, 1, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")
COLUMNS = {
    "id": ColumnConfig(type="string", role="key"),
    "day": ColumnConfig(type="string", role="group"),
    "at": ColumnConfig(type="timestamp", role="time"),
    "speed": ColumnConfig(type="number"),
    "slot": ColumnConfig(type="integer"),  # a name that the log has a column of
    "carrier": ColumnConfig(type="category"),
    "passport": ColumnConfig(type="category", pii=True, nullable=True),
    "late": ColumnConfig(type="binary", role="label"),
}


@dataclass(kw_only=True)
class World:
    config: Config
    store: RolloutStore
    num_logged: int = 0

    @classmethod
    def at(cls, home: Path) -> "World":
        """Version 1 in blue as primary, gated on rows where scores are probabilities, trained on flights@0."""
        config = cluster_config(home)
        alerts = compose([]).alerts
        config = replace(
            config,
            data=replace(config.data, name=ENDPOINT, columns=COLUMNS),
            serving=replace(config.serving, endpoint=ENDPOINT),
            quality=replace(config.quality, min_slice_rows=50, loss_batch_s=100.0),
            alerts=alerts,
        )
        store = RolloutStore.of(config.paths)
        store.create_schema()
        world = cls(config=config, store=store)
        world.add_data_version(0)
        model = world.add_model(1, "flights@0")
        store.set_alias(ENDPOINT, "champion", 1)
        store.assign_slot(ENDPOINT, "blue", model, actor="test")
        return world

    def add_data_version(self, version: int, **lineage: object) -> DataVersion:
        made = DataVersion(
            table=ENDPOINT,
            version=version,
            uri=f"{self.config.paths.warehouse}/{ENDPOINT}",
            num_rows=10,
            fingerprint=f"f{version}",
            lineage=dict(lineage),
            created_at=(START + timedelta(days=version)).isoformat(),
        )
        self.store.record_data_version(made)
        return made

    def add_model(self, version: int, data_version: str) -> ModelVersion:
        model = ModelVersion(
            name=ENDPOINT,
            version=version,
            run_id=f"run{version}",
            bundle_uri="",
            bundle_sha256=f"sha{version}",
            lineage={"data_version": data_version, "gate": {"verdict": "Passed"}},
            created_at=START.isoformat(),
        )
        self.store.record_model_version(model)
        reference = make_reference(model.label)
        self.store.record_step(f"reference/{model.label}", "reference", reference.to_json())
        return model

    def log(self, scores: Floats, *, day: float = 0.0, slot: str = "blue", version: int = 1) -> list[str]:
        """Answers of one row each, a second apart; returns their ids."""
        n = scores.size
        moments = [START + timedelta(days=day, seconds=index) for index in range(n)]
        ids = [
            format_uuid7(int(moment.timestamp() * 1000), (self.num_logged + index).to_bytes(10))
            for index, moment in enumerate(moments)
        ]
        self.num_logged += n
        rows = pa.table(
            {
                "prediction_id": ids,
                "row": pa.array([0] * n, pa.int32()),
                "at": pa.array(moments, MOMENT),
                "slot": [slot] * n,
                "model_name": [ENDPOINT] * n,
                "model_version": pa.array([version] * n, pa.int64()),
                "speed": np.arange(n, dtype=np.float64),
                "feature_slot": pa.array(range(n), pa.int64()),
                "carrier": [("AA", "UA", "HA")[index % 3] for index in range(n)],
                "score": scores,
            }
        )
        write_deltalake(payload_uri(self.config.paths.payload, ENDPOINT), rows, mode="append")
        return ids

    def label(self, ids: Sequence[str], labels: Floats, *, day: float = 1.0) -> None:
        n = len(ids)
        rows = pa.table(
            {
                "prediction_id": pa.array(ids, pa.string()),
                "row": pa.array([0] * n, pa.int32()),
                "label": pa.array(labels.astype(np.int8), pa.int8()),
                "received_at": pa.array([START + timedelta(days=day, seconds=index) for index in range(n)], MOMENT),
            }
        )
        write_deltalake(feedback_uri(self.config.paths.payload, ENDPOINT), rows, mode="append")


def draw(seed: int, n: int, *, noise: float = 0.0) -> tuple[Floats, Floats]:
    """Scores, and labels that follow them except for a share of `noise`, which are a coin's."""
    generator = np.random.default_rng(seed)
    scores = generator.beta(1.2, 2.0, n)
    chances = np.where(generator.random(n) < noise, 0.5, scores)
    return scores, (generator.random(n) < chances).astype(np.float64)


def make_reference(label: str) -> QualityReference:

    scores, labels = draw(99, 4_000)
    figures = measure(labels, scores, None, 0.95)
    calibration = fit_calibration(labels, scores)
    losses = log_losses(labels, scores)
    return QualityReference(
        model_version=label,
        holdout="flights 0",
        num_rows=4_000,
        auc=figures.auc,
        log_loss=figures.log_loss,
        brier=figures.brier,
        estimated_auc=estimate_quality(count_scores(scores)[0], calibration).auc,
        losses=LossReference(mean=float(losses.mean()), deviation=float(losses.std() / 10), num_batches=40),
        calibration=calibration,
    )


def moment(day: float) -> float:
    return (START + timedelta(days=day)).timestamp()


def with_triggers(world: World, **triggers: TriggerConfig) -> World:
    config = replace(world.config, continuous=replace(world.config.continuous, triggers=triggers, cooldown_s=0.0))
    return World(config=config, store=world.store)


def save_alert(store: RolloutStore, **change: Any) -> Alert:
    values: dict[str, Any] = {
        "id": "a1",
        "rule": "quality_decay",
        "signal": "auc_loss",
        "endpoint": ENDPOINT,
        "slot": "blue",
        "model_version": "flights:1",
        "phase": "firing",
        "severity": "page",
        "value": 0.05,
        "threshold": 0.02,
        "detail": "0.75 to 0.70",
        "impact": "auc_loss",
        "runbook": "x",
        "since": 50.0,
        "seen_at": 100.0,
        "fired_at": 100.0,
    }
    alert = Alert(**(values | change))
    state = {name: getattr(alert, name) for name in Alert.__slots__}
    store.save_alerts({alert.key: state}, at=100.0)
    return alert
