"""When to train again: reasons in, a decision out. Pure; time is given.

A reason must hold for its debounce without a break, the last training must be over for the cool-down, and the week's
budget must not be spent. The same reason starts one training: an alert that still fires afterwards starts no second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.config.alerting import ContinuousConfig, TriggerKind

WEEK_S = 7 * 86400.0
PRIORITY: tuple[TriggerKind, ...] = ("quality", "drift", "data", "feedback", "schedule")
"""Of several reasons the first of these is named as the one that started the training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Something that speaks for training now."""

    trigger: str
    """The trigger's name in the configuration."""
    kind: TriggerKind
    id: str
    """Of this occurrence: another alert, another data version is another id."""
    since: float | None = None
    """Since when it is known to hold, seconds since 1970; None where only the looks tell."""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"trigger": self.trigger, "kind": self.kind, "id": self.id, "evidence": dict(self.evidence)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerState:
    """What has been, in seconds since 1970."""

    seen: Mapping[str, float] = field(default_factory=dict)
    """Reason id to the look that saw it first, without a break since."""
    answered: frozenset[str] = frozenset()
    """Reasons that a training was started for, unless it failed."""
    is_running: bool = False
    rollout: str | None = None
    """The one that moves the endpoint's traffic now: until it ends nobody knows which version is to be beaten."""
    last_ended_at: float | None = None
    started_at: tuple[float, ...] = ()
    """Starts of the trainings of the last week at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    reason: Reason | None
    """Start a training for it; None for not now."""
    seen: dict[str, float]
    """The next state's `seen`."""
    why: str
    """In words, also where nothing starts."""


def decide(config: ContinuousConfig, reasons: Sequence[Reason], state: TriggerState, now: float) -> Decision:
    """Whether a training starts now, and for which of the reasons that hold."""
    seen = {one.id: min(state.seen.get(one.id, now), one.since if one.since is not None else now) for one in reasons}
    fresh = [one for one in reasons if one.id not in state.answered]

    def wait(why: str) -> Decision:
        return Decision(reason=None, seen=seen, why=why)

    if state.is_running:
        return wait("a training is running")
    if state.rollout is not None:
        return wait(f"rollout {state.rollout} has not ended; `teal rollout status` shows it")
    if not reasons:
        return wait("no trigger has a reason")
    if not fresh:
        return wait(f"{_names(reasons)}: answered by an earlier training; `teal continuous run --now` starts another")
    held = [one for one in fresh if now - seen[one.id] >= config.triggers[one.trigger].debounce_s]
    if not held:
        first = min(fresh, key=lambda one: seen[one.id] + config.triggers[one.trigger].debounce_s)
        left = seen[first.id] + config.triggers[first.trigger].debounce_s - now
        return wait(f"{first.trigger} must hold for {_span(left)} more")
    if state.last_ended_at is not None and now - state.last_ended_at < config.cooldown_s:
        left = config.cooldown_s - (now - state.last_ended_at)
        return wait(
            f"{_names(held)}: the last training ended lately; {_span(left)} of the cool-down are left "
            "(continuous.cooldown_s)"
        )
    in_week = [moment for moment in state.started_at if now - moment < WEEK_S]
    if len(in_week) >= config.max_runs_per_week:
        frees_s = min(in_week) + WEEK_S - now
        return wait(
            f"{_names(held)}: the budget of {config.max_runs_per_week} trainings a week is spent for {_span(frees_s)} "
            "(continuous.max_runs_per_week); `teal continuous run --now` goes beyond it"
        )
    chosen = min(held, key=lambda one: (PRIORITY.index(one.kind), seen[one.id], one.id))
    others = [one for one in held if one is not chosen]
    also = f", and {_names(others)}" if others else ""
    return Decision(reason=chosen, seen=seen, why=f"{chosen.trigger}{also}")


def _names(reasons: Sequence[Reason]) -> str:
    return ", ".join(sorted({one.trigger for one in reasons}))


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
