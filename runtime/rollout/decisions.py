"""What a rollout does next, from what is desired and what is observed: one action, the same however often it is asked.

Pure. Rules are rows in a table, read from the top; the first that applies is the action. A share goes up only while the
canary answers, the primary answers, every live edge follows, and nothing is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from runtime.rollout import conditions
from runtime.rollout.phases import OPEN, OUTCOMES, TERMINAL, UNDER_WAY, Event, Phase, next_phase
from runtime.rollout.view import View
from runtime.store.records import FULL_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One change of the rollout, with the traffic that goes with it."""

    event: Event
    phase: Phase
    reason: str
    step: int
    share: int | None = None
    """Basis points that the canary gets with it; None leaves them."""
    is_promotion: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observe:
    """Take a reading and judge it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """All edges give the canary its share now: the step's time begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    reason: str


Decision = Action | Observe | Settled | Wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    event: Event
    phases: tuple[Phase, ...]
    applies: Callable[[View], str | None]
    """The reason if it does."""
    share: Callable[[View], int | None] = lambda _view: None
    steps_on: bool = False
    """Whether the next step begins with it."""


def decide(view: View) -> Decision:
    """The next action of an active rollout."""
    if view.phase in TERMINAL:
        return Wait(reason=f"it is {view.phase}")
    rollout = view.rollout
    for rule in RULES:
        if view.phase not in rule.phases:
            continue
        reason = rule.applies(view)
        if reason is None:
            continue
        outcome = None if rollout.outcome is None else Phase(rollout.outcome)
        return Action(
            event=rule.event,
            phase=next_phase(view.phase, rule.event, outcome),
            reason=reason,
            step=rollout.step + rule.steps_on,
            share=rule.share(view),
            is_promotion=rule.event is Event.PROMOTED,
        )
    if conditions.has_share(view) and rollout.step_since is None and view.observed.is_applied:
        return Settled()
    if conditions.is_tick_due(view):
        return Observe()
    return Wait(reason=conditions.why_waiting(view))


def _next_share(view: View) -> int | None:
    assert view.next_step is not None
    return view.next_step.share


def _zero(_view: View) -> int | None:
    return 0


P = Phase
E = Event
RULES: tuple[Rule, ...] = (
    Rule(event=E.SUPERSEDED, phases=(*OPEN, P.ROLLING_BACK), applies=conditions.is_foreign),
    Rule(event=E.ADOPT, phases=(*OPEN, P.ROLLING_BACK, P.DRAINING), applies=conditions.is_touched),
    Rule(event=E.WORSE, phases=UNDER_WAY, applies=conditions.is_worse, share=_zero),
    Rule(event=E.DENIED, phases=(P.AWAITING_APPROVAL,), applies=conditions.was_denied, share=_zero),
    Rule(event=E.NEED_APPROVAL, phases=(P.PENDING,), applies=conditions.lacks_approval),
    Rule(event=E.PREPARE, phases=(P.PENDING,), applies=conditions.may_prepare),
    Rule(event=E.PREPARE, phases=(P.AWAITING_APPROVAL,), applies=conditions.first_approval),
    Rule(event=E.APPROVED, phases=(P.AWAITING_APPROVAL,), applies=conditions.later_approval),
    Rule(event=E.READY, phases=(P.PREPARING,), applies=conditions.is_ready, share=_next_share, steps_on=True),
    Rule(event=E.SHADOW, phases=(P.PREPARING,), applies=conditions.may_shadow),
    Rule(event=E.WORSE, phases=(P.SHADOWING,), applies=conditions.is_shadow_worse, share=_zero),
    Rule(event=E.DEADLINE, phases=(P.SHADOWING,), applies=conditions.is_shadow_overdue, share=_zero),
    Rule(event=E.READY, phases=(P.SHADOWING,), applies=conditions.is_shadow_passed, share=_next_share, steps_on=True),
    Rule(event=E.DEADLINE, phases=(P.PROGRESSING, P.HOLDING), applies=conditions.must_give_up, share=_zero),
    Rule(event=E.HOLD, phases=(P.PROGRESSING,), applies=conditions.must_hold),
    Rule(event=E.SIGNAL, phases=(P.HOLDING,), applies=conditions.is_well),
    Rule(event=E.PASSED, phases=(P.PROGRESSING,), applies=conditions.has_passed),
    Rule(event=E.NEED_APPROVAL, phases=(P.PROGRESSING,), applies=conditions.needs_approval),
    Rule(event=E.PAUSE, phases=(P.PROGRESSING,), applies=conditions.needs_pause),
    Rule(event=E.STEP, phases=(P.PROGRESSING,), applies=conditions.may_step, share=_next_share, steps_on=True),
    Rule(event=E.LAST, phases=(P.PROGRESSING,), applies=conditions.may_finish, share=_next_share, steps_on=True),
    Rule(event=E.PROMOTED, phases=(P.PROMOTING,), applies=conditions.may_promote),
    Rule(event=E.APPLIED, phases=(P.ROLLING_BACK,), applies=conditions.is_applied),
    Rule(event=E.DRAINED, phases=(P.DRAINING,), applies=conditions.is_drained),
)


def operator_action(view: View, event: Event, reason: str) -> Action:
    """What a person's event does. RefusedError if it has no place in this phase."""
    outcome = None if view.rollout.outcome is None else Phase(view.rollout.outcome)
    phase = next_phase(view.phase, event, outcome)
    if event is Event.PROMOTE:
        last = len(view.steps) - 1
        return Action(event=event, phase=phase, reason=reason, step=last, share=FULL_SHARE)
    share = 0 if event is Event.ABORT else None
    return Action(event=event, phase=phase, reason=reason, step=view.rollout.step, share=share)


def outcome_after(action: Action) -> str | None:
    found = OUTCOMES.get(action.event)
    return None if found is None else str(found)
