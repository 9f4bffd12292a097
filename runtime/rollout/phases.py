"""The phases of a rollout, and the only ways between them: one table."""

from enum import StrEnum

from runtime.core.errors import RefusedError


class Phase(StrEnum):
    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    PREPARING = "Preparing"
    SHADOWING = "Shadowing"
    PROGRESSING = "Progressing"
    HOLDING = "Holding"
    PAUSED = "Paused"
    PROMOTING = "Promoting"
    ROLLING_BACK = "RollingBack"
    DRAINING = "Draining"
    SUCCEEDED = "Succeeded"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    FAILED = "Failed"


class Event(StrEnum):
    NEED_APPROVAL = "need approval"
    APPROVED = "approved"
    DENIED = "denied"
    PREPARE = "prepare"
    SHADOW = "shadow"
    READY = "ready"
    STEP = "step"
    PASSED = "passed"
    PAUSE = "pause"
    RESUME = "resume"
    HOLD = "hold"
    SIGNAL = "signal"
    WORSE = "worse"
    DEADLINE = "deadline"
    LAST = "last"
    PROMOTE = "promote"
    ABORT = "abort"
    FAIL = "fail"
    APPLIED = "applied"
    PROMOTED = "promoted"
    DRAINED = "drained"
    SUPERSEDED = "superseded"
    ADOPT = "adopt"


TERMINAL = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.ABORTED, Phase.FAILED})
UNDER_WAY = (Phase.PROGRESSING, Phase.HOLDING, Phase.PAUSED, Phase.AWAITING_APPROVAL)
"""Phases in which a step's share is on the canary, or may be."""
OPEN = (Phase.PENDING, Phase.PREPARING, Phase.SHADOWING, *UNDER_WAY, Phase.PROMOTING)
"""Phases in which it is not decided how the rollout ends."""

TABLE: dict[tuple[Phase, Event], Phase] = {
    (Phase.PENDING, Event.NEED_APPROVAL): Phase.AWAITING_APPROVAL,
    (Phase.PENDING, Event.PREPARE): Phase.PREPARING,
    (Phase.PREPARING, Event.SHADOW): Phase.SHADOWING,
    **{(phase, Event.READY): Phase.PROGRESSING for phase in (Phase.PREPARING, Phase.SHADOWING)},
    (Phase.PROGRESSING, Event.STEP): Phase.PROGRESSING,
    (Phase.PROGRESSING, Event.PASSED): Phase.PROGRESSING,
    (Phase.PROGRESSING, Event.NEED_APPROVAL): Phase.AWAITING_APPROVAL,
    (Phase.PROGRESSING, Event.HOLD): Phase.HOLDING,
    (Phase.HOLDING, Event.SIGNAL): Phase.PROGRESSING,
    # Before the first step there is no share to progress at.
    (Phase.AWAITING_APPROVAL, Event.PREPARE): Phase.PREPARING,
    (Phase.AWAITING_APPROVAL, Event.APPROVED): Phase.PROGRESSING,
    (Phase.PAUSED, Event.RESUME): Phase.PROGRESSING,
    (Phase.HOLDING, Event.RESUME): Phase.PROGRESSING,
    (Phase.PROMOTING, Event.PROMOTED): Phase.DRAINING,
    (Phase.ROLLING_BACK, Event.APPLIED): Phase.DRAINING,
    **{(phase, Event.PAUSE): Phase.PAUSED for phase in (Phase.PROGRESSING, Phase.HOLDING)},
    **{(phase, Event.LAST): Phase.PROMOTING for phase in (Phase.PROGRESSING, Phase.HOLDING)},
    **{(phase, Event.PROMOTE): Phase.PROMOTING for phase in (Phase.PROGRESSING, Phase.HOLDING, Phase.PAUSED)},
    **{(phase, Event.WORSE): Phase.ROLLING_BACK for phase in (Phase.SHADOWING, *UNDER_WAY)},
    **{(phase, Event.DEADLINE): Phase.ROLLING_BACK for phase in (Phase.SHADOWING, Phase.PROGRESSING, Phase.HOLDING)},
    **{(phase, Event.DENIED): Phase.ROLLING_BACK for phase in (Phase.AWAITING_APPROVAL,)},
    **{(phase, Event.ABORT): Phase.ROLLING_BACK for phase in OPEN},
    # What cannot be read any more cannot be drained either: its traffic goes back with this.
    **{(phase, Event.FAIL): Phase.FAILED for phase in (*OPEN, Phase.ROLLING_BACK, Phase.DRAINING)},
    **{(phase, Event.SUPERSEDED): Phase.ABORTED for phase in (*OPEN, Phase.ROLLING_BACK)},
    **{(phase, Event.ADOPT): phase for phase in (*OPEN, Phase.ROLLING_BACK, Phase.DRAINING)},
}

OUTCOMES: dict[Event, Phase] = {
    Event.WORSE: Phase.ROLLED_BACK,
    Event.DEADLINE: Phase.ROLLED_BACK,
    Event.DENIED: Phase.ABORTED,
    Event.ABORT: Phase.ABORTED,
    Event.FAIL: Phase.FAILED,
    Event.PROMOTED: Phase.SUCCEEDED,
    Event.SUPERSEDED: Phase.ABORTED,
}
"""Events that decide how a rollout ends. After them only DRAINED is left, which leads there."""


def next_phase(phase: Phase, event: Event, outcome: Phase | None) -> Phase:
    """RefusedError if the event has no place in this phase."""
    if phase is Phase.DRAINING and event is Event.DRAINED and outcome is not None:
        return outcome
    found = TABLE.get((phase, event))
    if found is None:
        raise RefusedError(f"a rollout that is {phase} cannot {event}; see `teal rollout status`")
    return found
