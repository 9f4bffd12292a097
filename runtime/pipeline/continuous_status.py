"""Continuous training as it stands: reasons, what holds them back, and which reason led to which rollout."""

from dataclasses import dataclass

from runtime.config.schema import Config
from runtime.pipeline.continuous import STEPS
from runtime.pipeline.continuous_lease import is_looked_after
from runtime.pipeline.continuous_progress import StepProgress, read_progress
from runtime.pipeline.continuous_reasons import find_reasons, read_trigger_state
from runtime.pipeline.triggers import WEEK_S, Reason, decide
from runtime.rollout.phases import Phase
from runtime.store.rollouts import RolloutStore
from runtime.store.trainings import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutNow:
    id: str
    phase: str
    reason: str
    is_active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One training, from what started it to where its version is now."""

    training: Training
    step: str | None
    """The step that is under way; None once it has ended."""
    progress: StepProgress | None
    """How far that step is, as its process last told."""
    rollout: RolloutNow | None
    remedy: str | None
    """What somebody can do where it does not go on by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousStatus:
    endpoint: str
    reasons: tuple[Reason, ...]
    would_start: bool
    """Whether a look now would start a training."""
    why: str
    is_looked_after: bool
    """Whether a `teal continuous run` lives that acts on it."""
    chains: tuple[Chain, ...]
    """Newest first."""
    in_week: int
    max_runs_per_week: int


def read_continuous(config: Config, store: RolloutStore, endpoint: str, now: float) -> ContinuousStatus:
    """What the next look of `teal continuous run` would do, and the trainings so far."""
    reasons = find_reasons(config, store, endpoint, now)
    state = read_trigger_state(store, endpoint, now)
    decision = decide(config.continuous, reasons, state, now)
    return ContinuousStatus(
        endpoint=endpoint,
        reasons=tuple(reasons),
        would_start=decision.reason is not None,
        why=decision.why,
        is_looked_after=is_looked_after(store, endpoint, now),
        chains=tuple(read_chains(store, endpoint, now, limit=3)),
        in_week=sum(now - moment < WEEK_S for moment in state.started_at),
        max_runs_per_week=config.continuous.max_runs_per_week,
    )


def read_chains(store: RolloutStore, endpoint: str, now: float, *, limit: int) -> list[Chain]:
    """The trainings of an endpoint, newest first."""
    rollouts = {one.id: one for one in store.rollouts(endpoint)}
    has_looker = is_looked_after(store, endpoint, now)
    chains = []
    for training in store.trainings(endpoint, limit=limit):
        found = rollouts.get(training.steps.get("rollout", {}).get("rollout", ""))
        rollout = None
        if found is not None:
            rollout = RolloutNow(id=found.id, phase=found.phase, reason=found.reason, is_active=found.is_active)
        is_running = training.phase == "running"
        chains.append(
            Chain(
                training=training,
                step=next((name for name in STEPS if name not in training.steps), None) if is_running else None,
                progress=read_progress(store, training) if is_running else None,
                rollout=rollout,
                remedy=find_remedy(training, rollout, is_looked_after=has_looker),
            )
        )
    return chains


def find_remedy(training: Training, rollout: RolloutNow | None, *, is_looked_after: bool) -> str | None:
    """None where nobody has to do anything."""
    if training.phase == "running":
        return None if is_looked_after else "nobody carries it on: `teal continuous run` does"
    if training.phase == "failed":
        return (
            "after the cool-down it is tried again while its reason holds; the log of `teal continuous run` has the "
            "whole error; `teal continuous run --now` tries at once"
        )
    if training.phase == "refused":
        run = training.steps.get("sweep", {}).get("run_id")
        if run is None:
            return "the same reason starts no second training; `teal continuous run --now` does"
        return (
            f"the champion stays, and the same reason starts no second training. `teal compare --run {run}` shows the "
            f"figures; `teal register --run {run} --force --reason WHY` goes past the gate"
        )
    if rollout is not None and rollout.phase == Phase.AWAITING_APPROVAL:
        return f"`teal approve {rollout.id}` lets it go on, `--deny` ends it"
    return None
