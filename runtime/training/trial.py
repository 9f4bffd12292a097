"""One trial: train, measure, write the bundle. Pure; the sweep runs it in a Ray worker."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.config.schema import ModelConfig, TrainingConfig
from runtime.data.profile import with_scores
from runtime.models.bundle import manifest_sha256, save_bundle
from runtime.training.dataset import Split
from runtime.training.loop import OnEpoch, train
from runtime.training.metrics import evaluate

SELECTION_METRIC = "log_loss"
"""What candidates compete on: lower is better, and unlike AUC it also sees calibration."""
EPOCH_KEY, CANDIDATE_KEY, FAILURE_KEY = "epoch", "candidate", "failure"
"""Keys of what a worker reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialPlan:
    """All that decides a trial's outcome, but the data."""

    run_id: str
    """The MLflow run that it is logged to."""
    family: str
    model: ModelConfig
    training: TrainingConfig
    bundle_dir: str
    lineage: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trial that ran to its end: a trained model that no gate has seen."""

    run_id: str
    family: str
    arguments: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, float]
    """On the validation rows that also chose the epoch and the best candidate, so a little too good."""
    bundle_dir: str
    bundle_sha256: str
    lineage: dict[str, Any]


def run_trial(plan: TrialPlan, split: Split, on_epoch: OnEpoch) -> Candidate:
    """Train, write the bundle, return the candidate."""
    model = train(plan.model, plan.training, split, on_epoch)
    metrics = evaluate(split.validation_labels, model.predict(split.validation.numeric, split.validation.categorical))
    scores = model.predict(split.train.numeric, split.train.categorical)
    lineage = plan.lineage | {"run_id": plan.run_id, "metrics": metrics, "device": plan.training.device}
    save_bundle(
        Path(plan.bundle_dir),
        model=model,
        model_config=plan.model,
        columns=split.columns,
        encoding=split.encoding,
        profile=with_scores(split.profile, scores),
        lineage=lineage,
    )
    return Candidate(
        run_id=plan.run_id,
        family=plan.family,
        arguments=dict(plan.model.arguments),
        training=asdict(plan.training),
        metrics=metrics,
        bundle_dir=plan.bundle_dir,
        bundle_sha256=manifest_sha256(Path(plan.bundle_dir)),
        lineage=lineage,
    )
