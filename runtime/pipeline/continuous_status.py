"""Continuous training as it stands: reasons, what holds them back, and which reason led to which version."""

from dataclasses import dataclass

from runtime.config.schema import Config
from runtime.pipeline.continuous_reasons import find_reasons, read_trigger_state
from runtime.pipeline.triggers import WEEK_S, Reason, decide
from runtime.store.control import ControlStore
from runtime.store.trainings import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousStatus:
    endpoint: str
    reasons: tuple[Reason, ...]
    would_start: bool
    """Whether a look now would start a training."""
    why: str
    trainings: tuple[Training, ...]
    """Newest first."""
    in_week: int
    max_runs_per_week: int


def read_continuous(config: Config, store: ControlStore, endpoint: str, now: float) -> ContinuousStatus:
    """What the next look of `teal continuous run` would do, and the trainings so far."""
    reasons = find_reasons(config, store, endpoint, now)
    state = read_trigger_state(store, endpoint, now)
    decision = decide(config.continuous, reasons, state, now)
    return ContinuousStatus(
        endpoint=endpoint,
        reasons=tuple(reasons),
        would_start=decision.reason is not None,
        why=decision.why,
        trainings=tuple(store.trainings(endpoint, limit=20)),
        in_week=sum(now - moment < WEEK_S for moment in state.started_at),
        max_runs_per_week=config.continuous.max_runs_per_week,
    )
