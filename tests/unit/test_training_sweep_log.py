from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.config.schema import TrainingConfig
from runtime.registry.mlflow_registry import Measurement, Registry, RunStatus
from runtime.training.sweep_log import SweepLog
from runtime.training.trial import Candidate, TrialPlan
from tests import training_example as example


@dataclass
class RecordingRegistry(Registry):
    """Remembers what would go to MLflow."""

    metrics: list[tuple[str, list[Measurement]]] = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: dict[str, RunStatus] = field(default_factory=dict)

    def log_metrics_batch(self, run_id: str, measurements: Iterable[Measurement]) -> None:
        self.metrics.append((run_id, list(measurements)))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.tags.setdefault(run_id, {}).update(tags)

    def finish_run(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        assert run_id not in self.ended, f"run {run_id} ended twice"
        self.ended[run_id] = status


def plan(run_id: str) -> TrialPlan:
    return TrialPlan(
        run_id=run_id,
        family="mlp",
        model=example.MLP,
        training=TrainingConfig(),
        bundle_dir=f"/bundles/{run_id}",
        lineage={},
    )


def candidate(run_id: str, log_loss: float) -> dict[str, Any]:
    return asdict(
        Candidate(
            run_id=run_id,
            family="mlp",
            arguments={},
            training={},
            metrics={"log_loss": log_loss, "auc": 0.7},
            bundle_dir=f"/bundles/{run_id}",
            bundle_sha256="f00d",
            lineage={},
        )
    )


def test_each_trial_ends_once_in_its_own_way() -> None:
    registry, progress = RecordingRegistry(), list[tuple[str, int, int]]()
    log = SweepLog([plan(name) for name in "abcd"], registry, lambda *step: progress.append(step))

    log.record(0, {"epoch": 1, "log_loss": 0.6, "metrics": {"log_loss": 0.6, "auc": 0.6}})
    log.record(1, {"epoch": 1, "log_loss": 0.9, "metrics": {"log_loss": 0.9}})
    log.complete(1)
    log.record(0, {"log_loss": 0.5, "candidate": candidate("a", 0.5)})
    log.complete(0)
    log.record(2, {"log_loss": float("inf"), "failure": "ConfigError: no such net"})
    log.fail(2, "its worker died: something long")
    log.close()

    assert registry.ended == {"a": "FINISHED", "b": "FINISHED", "c": "FAILED", "d": "KILLED"}
    assert {run_id: tags["teal.outcome"] for run_id, tags in registry.tags.items()} == {
        "a": "candidate",
        "b": "stopped",
        "c": "failed",
        "d": "interrupted",
    }
    assert list(log.candidates) == ["a"]
    assert log.failures == {"c": "ConfigError: no such net"}
    assert log.num_stopped == 1
    assert registry.metrics[0] == (
        "a",
        [Measurement(name="log_loss", value=0.6, step=1), Measurement(name="auc", value=0.6, step=1)],
    )
    assert registry.tags["a"]["teal.bundle_sha256"] == "f00d"
    assert progress[0] == ("training", 0, 4)
    assert progress[-1] == ("training, best log loss 0.5000", 4, 4)


def test_a_trial_that_dies_after_its_bundle_is_no_candidate() -> None:
    log = SweepLog([plan("a")], RecordingRegistry(), lambda text, done, total: None)
    log.record(0, {"log_loss": 0.5, "candidate": candidate("a", 0.5)})
    log.fail(0, "its worker died: killed")
    assert not log.candidates
    assert log.failures == {"a": "its worker died: killed"}
