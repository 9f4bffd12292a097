"""The search for candidates on Ray Tune. The driver plans the trials and logs them; workers only train.

Workers never import MLflow: that costs each of them seconds, and one writer needs no care about SQLite.
"""

import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from runtime.config.schema import Config, ModelConfig, TuneConfig
from runtime.core.errors import TealError, UnreachableError
from runtime.core.git import CodeVersion
from runtime.registry.mlflow_registry import Registry, RunStatus
from runtime.store.records import DataVersion
from runtime.training.dataset import Split, load_split
from runtime.training.plan import check_gpus, draw_trials, start_parent, start_trial, trial_device
from runtime.training.sweep_log import OnProgress, SweepLog, measurements
from runtime.training.trial import (
    CANDIDATE_KEY,
    EPOCH_KEY,
    FAILURE_KEY,
    SELECTION_METRIC,
    Candidate,
    TrialPlan,
    run_trial,
)

__all__ = ["Candidate", "FamilyHalving", "SweepResult", "sweep"]

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would take an interrupt for a wish to finish early and return as if nothing had happened.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
LOUD_LOGGERS = ("ray.tune", "ray.train", "ray.air")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    run_id: str
    """The parent run in MLflow."""
    candidates: list[Candidate]
    """Best first; trials that successive halving stopped are not among them."""
    num_trials: int
    num_stopped: int
    failures: dict[str, str]
    """Run id of each trial that failed to its error."""

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def sweep(
    config: Config,
    families: Mapping[str, ModelConfig],
    data_version: DataVersion,
    *,
    registry: Registry,
    code: CodeVersion,
    on_progress: OnProgress | None = None,
) -> SweepResult:
    """Train `tune.num_samples` trials of each family on the connected Ray cluster.

    A trial that fails leaves the others running. Raises UnreachableError without a cluster, TealError naming the first
    error if no trial gives a candidate. Interrupted, it ends its runs as killed; the same call again starts anew.
    """
    if not ray.is_initialized():
        raise UnreachableError("a sweep needs a Ray cluster; run `teal up` first")
    report = on_progress or (lambda text, done, total: None)
    choices = draw_trials(config, families)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    check_gpus(config.tune, resources)
    for _, choice in choices:
        trial_device(config.tune, choice.training)
    report("reading the data", 0, len(choices))
    split = load_split(data_version, config.data, config.training)
    registry.create_database()
    parent = start_parent(config, families, data_version, code, registry)
    status: RunStatus = "KILLED"
    try:
        plans = [
            start_trial(config, family, choice, data_version, code, registry, parent_run_id=parent)
            for family, choice in choices
        ]
        log = SweepLog(plans, registry, report)
        try:
            _fit(config, plans, split, log)
        finally:
            log.close()
        if not log.candidates:
            first = next((f"run {run_id}: {error}" for run_id, error in log.failures.items()), "none was started")
            raise TealError(f"none of {len(plans)} trials gave a candidate; {first}")
        candidates = sorted(log.candidates.values(), key=lambda candidate: candidate.metrics[SELECTION_METRIC])
        registry.log_metrics_batch(parent, measurements(candidates[0].metrics, step=0))
        registry.set_tags(parent, {"teal.best_run_id": candidates[0].run_id})
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        registry.finish_run(parent, status)
    return SweepResult(
        run_id=parent,
        candidates=candidates,
        num_trials=len(plans),
        num_stopped=log.num_stopped,
        failures=log.failures,
    )


def _fit(config: Config, plans: list[TrialPlan], split: Split, log: SweepLog) -> None:
    storage = Path(config.paths.home).absolute() / "tune"
    name = plans[0].run_id
    resources = {"cpu": config.tune.cpus_per_trial, "gpu": config.tune.gpus_per_trial}
    with _quiet_tune():
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_train_in_worker, split=split, plans=plans), resources),
            param_space={"trial": tune.grid_search(list(range(len(plans))))},
            tune_config=tune.TuneConfig(
                metric=SELECTION_METRIC,
                mode="min",
                scheduler=FamilyHalving(config.tune, [(plan.family, plan.training.epochs) for plan in plans]),
                max_concurrent_trials=config.tune.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name=name, storage_path=str(storage), verbose=0, callbacks=[_LogCallback(log)]),
        )
        try:
            tuner.fit()
        finally:
            # Everything worth keeping is in MLflow and in the bundles.
            shutil.rmtree(storage / name, ignore_errors=True)


def _train_in_worker(config: dict[str, Any], split: Split, plans: list[TrialPlan]) -> None:
    """Returns nothing: Tune would report a returned value as a metric of its own."""
    try:
        candidate = run_trial(
            plans[config["trial"]],
            split,
            lambda epoch, metrics: tune.report(
                {EPOCH_KEY: epoch, SELECTION_METRIC: metrics[SELECTION_METRIC], "metrics": dict(metrics)}
            ),
        )
    except Exception as error:
        tune.report({SELECTION_METRIC: math.inf, FAILURE_KEY: f"{type(error).__name__}: {error}"})
        raise
    # No epoch in it, so no rung sees it: a trial that has come this far is not stopped any more.
    tune.report({SELECTION_METRIC: candidate.metrics[SELECTION_METRIC], CANDIDATE_KEY: asdict(candidate)})


class FamilyHalving(TrialScheduler):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) within each family.

    The first epochs of one family say little about another, and the gate shall see a candidate of each.
    """

    def __init__(self, config: TuneConfig, trials: list[tuple[str, int]]) -> None:
        """`trials` holds the family and the epochs of each planned trial."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._families = [family for family, _ in trials]
        self._halvings = {}
        for family in dict.fromkeys(self._families):
            epochs = max(epochs for other, epochs in trials if other == family)
            self._halvings[family] = ASHAScheduler(
                time_attr=EPOCH_KEY,
                max_t=epochs + 1,  # at `max_t` it stops a trial, which then could not write its bundle
                grace_period=min(config.grace_epochs, epochs),
                reduction_factor=config.reduction_factor,
            )

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return all(halving.set_search_properties(metric, mode, **spec) for halving in self._halvings.values())

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._halving(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._halving(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        action: str = self._halving(trial).on_trial_result(tune_controller, trial, result)
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._halving(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._halving(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        waiting = (trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED))
        return next(waiting, None)

    def debug_string(self) -> str:
        return "; ".join(f"{family}: {halving.debug_string()}" for family, halving in self._halvings.items())

    def _halving(self, trial: Trial) -> ASHAScheduler:
        return self._halvings[self._families[trial.config["trial"]]]


class _LogCallback(tune.Callback):
    """Hands what Tune says to the log."""

    def __init__(self, log: SweepLog) -> None:
        self._log = log

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks so that another process may take the sweep over. That is not offered here.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._log.record(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._log.complete(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._log.fail(trial.config["trial"], f"its worker died: {str(trial.get_error()).strip().splitlines()[-1]}")


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune off the console and away from signals while it runs."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    loggers = [logging.getLogger(name) for name in LOUD_LOGGERS]
    levels = [logger.level for logger in loggers]
    os.environ.update(ENVIRONMENT)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
