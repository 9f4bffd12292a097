"""What a sweep writes to MLflow while its trials run, and what it remembers of them. It knows nothing of Tune."""

from collections.abc import Callable, Mapping
from typing import Any

from runtime.registry.mlflow_registry import Measurement, Registry, RunStatus
from runtime.training.trial import CANDIDATE_KEY, EPOCH_KEY, FAILURE_KEY, SELECTION_METRIC, Candidate, TrialPlan

OnProgress = Callable[[str, int, int], None]
"""What is being done, trials done, trials in all."""
TAG_CHARACTERS = 5000


class SweepLog:
    def __init__(self, plans: list[TrialPlan], registry: Registry, on_progress: OnProgress) -> None:
        self.candidates: dict[str, Candidate] = {}
        self.failures: dict[str, str] = {}
        self.num_stopped = 0
        self._plans = plans
        self._registry = registry
        self._on_progress = on_progress
        self._running = [plan.run_id for plan in plans]
        self._report_progress()

    def record(self, trial: int, result: Mapping[str, Any]) -> None:
        """Take what the trial at this position reported."""
        run_id = self._plans[trial].run_id
        if FAILURE_KEY in result:
            self.failures[run_id] = result[FAILURE_KEY]
        elif CANDIDATE_KEY in result:
            self.candidates[run_id] = Candidate(**result[CANDIDATE_KEY])
        elif EPOCH_KEY in result:
            self._registry.log_metrics_batch(run_id, measurements(result["metrics"], step=result[EPOCH_KEY]))

    def complete(self, trial: int) -> None:
        """The trial ended: with a candidate, or stopped by successive halving."""
        run_id = self._plans[trial].run_id
        candidate = self.candidates.get(run_id)
        if candidate is None:
            self.num_stopped += 1
            self._end(run_id, "FINISHED", {"teal.outcome": "stopped"})
            return
        best = {f"best_{name}": value for name, value in candidate.metrics.items()}
        self._registry.log_metrics_batch(run_id, measurements(best, step=0))
        tags = {"teal.bundle_dir": candidate.bundle_dir, "teal.bundle_sha256": candidate.bundle_sha256}
        self._end(run_id, "FINISHED", {"teal.outcome": "candidate", **tags})

    def fail(self, trial: int, error: str) -> None:
        """The trial died. What it said itself before stands; `error` is for one that could say nothing."""
        run_id = self._plans[trial].run_id
        self.candidates.pop(run_id, None)
        message = self.failures.setdefault(run_id, error)
        self._end(run_id, "FAILED", {"teal.outcome": "failed", "teal.error": message[:TAG_CHARACTERS]})

    def close(self) -> None:
        """End the runs of trials that have not ended."""
        for run_id in list(self._running):
            self._end(run_id, "KILLED", {"teal.outcome": "interrupted"})

    def _end(self, run_id: str, status: RunStatus, tags: Mapping[str, str]) -> None:
        self._registry.set_tags(run_id, tags)
        self._registry.finish_run(run_id, status)
        self._running.remove(run_id)
        self._report_progress()

    def _report_progress(self) -> None:
        losses = [candidate.metrics[SELECTION_METRIC] for candidate in self.candidates.values()]
        text = f"training, best log loss {min(losses):.4f}" if losses else "training"
        self._on_progress(text, len(self._plans) - len(self._running), len(self._plans))


def measurements(values: Mapping[str, float], *, step: int) -> list[Measurement]:
    return [Measurement(name=name, value=value, step=step) for name, value in values.items()]
