"""What a model version was worth when it was registered: figures, calibration and losses on the rows that gated it.

Later quality, with labels and without, is told against it. Kept in the control store, a few kilobytes a version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.config.schema import Config
from runtime.core.errors import ContractError
from runtime.data.contract import group_name, label_name, time_name
from runtime.data.counts import count_scores
from runtime.data.metrics import log_losses
from runtime.monitoring.calibration import CalibrationMap, fit_calibration
from runtime.monitoring.cbpe import estimate_quality
from runtime.monitoring.concept import LossReference, loss_reference
from runtime.monitoring.quality_figures import Estimate, measure, number_clusters
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion

STEP_NAME = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReference:
    model_version: str
    holdout: str
    """Name of the rows."""
    num_rows: int
    auc: Estimate
    log_loss: Estimate
    brier: Estimate
    estimated_auc: Estimate
    """As the estimate without labels gives it on these rows: what later estimates are compared with."""
    losses: LossReference | None
    """None where the rows have no time, or too few stretches of it."""
    calibration: CalibrationMap

    def to_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in self.__slots__}
        estimates = {name: asdict(found) for name, found in value.items() if isinstance(found, Estimate)}
        losses = None if self.losses is None else asdict(self.losses)
        return value | estimates | {"losses": losses, "calibration": self.calibration.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "QualityReference":
        """ContractError if the value is no reference."""
        try:
            figures = {name: Estimate(**value[name]) for name in ("auc", "log_loss", "brier", "estimated_auc")}
            return cls(
                model_version=value["model_version"],
                holdout=value["holdout"],
                num_rows=int(value["num_rows"]),
                losses=None if value["losses"] is None else LossReference(**value["losses"]),
                calibration=CalibrationMap.from_json(value["calibration"]),
                **figures,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"not a quality reference: {error!r}") from error


def record_reference(config: Config, store: ControlStore, model: ModelVersion) -> QualityReference:
    """Score the holdout with the registered version and keep what it shows. Doing it again changes nothing."""
    from runtime.pipeline.holdout import find_holdout, score_rows

    holdout = find_holdout(config, store, {model.label: model.lineage})
    rows = holdout.rows
    labels = rows.column(label_name(config.data.columns)).to_numpy().astype(np.float64)
    scores = score_rows(model.bundle_uri, model.bundle_sha256, rows)
    group = group_name(config.data.columns)
    clusters = None if group is None else number_clusters(rows.column(group))
    figures = measure(labels, scores, clusters, config.quality.confidence)
    calibration = fit_calibration(labels, scores)
    time = time_name(config.data.columns)
    losses = None
    if time is not None:
        at = np.asarray(rows.column(time).cast(pa.int64()), dtype=np.float64) / 1e6
        limits = config.quality
        losses = loss_reference(
            log_losses(labels, scores), at, batch_s=limits.loss_batch_s, min_rows=limits.loss_batch_rows
        )
    reference = QualityReference(
        model_version=model.label,
        holdout=f"{holdout.version.label}: {holdout.name}",
        num_rows=labels.size,
        auc=figures.auc,
        log_loss=figures.log_loss,
        brier=figures.brier,
        estimated_auc=estimate_quality(count_scores(scores)[0], calibration, confidence=config.quality.confidence).auc,
        losses=losses,
        calibration=calibration,
    )
    store.record_step(_key(model.label), STEP_NAME, reference.to_json())
    return reference


def find_reference(store: ControlStore, model_version: str) -> QualityReference | None:
    """None for a version that was registered without one."""
    value = store.step_outputs(_key(model_version))
    return None if value is None else QualityReference.from_json(value)


def _key(model_version: str) -> str:
    return f"{STEP_NAME}/{model_version}"
