"""What people do to a rollout: start it, pause, resume, promote, abort, approve. Each is one transaction in the store.

The controller follows within its next look. Nothing here waits or asks a slot, so that it works while others do not.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runtime.config.rollout import RolloutConfig
from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.rollout.controller import APPROVAL_KIND, apply_action, view_of
from runtime.rollout.decisions import operator_action
from runtime.rollout.phases import Event, Phase
from runtime.rollout.plan import StepOutlook, check_plan, outlook, plan_to_json, steps_of
from runtime.rollout.readings import Reading, Source
from runtime.store.records import Approval, EndpointState, Slot
from runtime.store.rollouts import Rollout, RolloutStore

NUM_ATTEMPTS = 5
"""How often a command is tried again when the controller was at the same rollout in the same moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What `start` would begin."""

    endpoint: str
    canary: str
    primary: str
    plan_name: str
    promote_on: str
    steps: tuple[StepOutlook, ...]


def draft(
    store: RolloutStore, endpoint: str, plan: RolloutConfig, plan_name: str, *, requests_per_s: float | None = None
) -> Draft:
    """What would be started, checked as `start` checks it. Writes nothing."""
    _check_startable(store.endpoint(endpoint), plan, requests_per_s)
    state = store.endpoint(endpoint)
    return Draft(
        endpoint=endpoint,
        canary=_label(state, state.canary),
        primary=_label(state, state.primary),
        plan_name=plan_name,
        promote_on=plan.promote_on,
        steps=tuple(outlook(plan, requests_per_s)),
    )


def start(
    store: RolloutStore,
    endpoint: str,
    plan: RolloutConfig,
    plan_name: str,
    *,
    author: str,
    requests_per_s: float | None = None,
    reason: str = "",
    key: str | None = None,
) -> Rollout:
    """Begin a rollout of the model in the canary's slot.

    ConflictError while one is active. RefusedError if the slot is empty or has traffic already. ConfigError if a step
    can never be decided. A repeated `key` gives the rollout that it started the first time.
    """

    def begin() -> Mapping[str, Any]:
        state = store.endpoint(endpoint)
        _check_startable(state, plan, requests_per_s)
        now = time.time()
        started = store.create_rollout(
            Rollout(
                id="",
                endpoint=endpoint,
                revision=1,
                phase=str(Phase.PENDING),
                step=-1,
                plan=plan_to_json(plan),
                plan_name=plan_name,
                author=author,
                canary_slot=state.canary,
                canary_model=_label(state, state.canary),
                primary_model=_label(state, state.primary),
                generation=state.generation,
                outcome=None,
                reason=reason or "started",
                is_step_passed=False,
                resumed_step=None,
                created_at=now,
                phase_since=now,
                step_since=None,
                ended_at=None,
                changed_by=author,
                changed_how="start",
                changed_at=now,
                progress={},
                certificate=None,
            ),
            detail={"canary": _label(state, state.canary), "reason": reason},
        )
        return {"rollout": started.id}

    request = {"command": "start", "endpoint": endpoint, "plan": plan_to_json(plan), "author": author}
    return store.rollout(_once(store, key, request, begin)["rollout"])


def apply_event(
    store: RolloutStore, rollout_id: str, event: Event, *, by: str, reason: str = "", key: str | None = None
) -> Rollout:
    """A person's event: pause, resume, promote or abort. RefusedError if it has no place in the rollout's phase."""

    def act() -> Mapping[str, Any]:
        rollout = store.rollout(rollout_id)
        if not rollout.is_active:
            raise RefusedError(
                f"rollout {rollout.id} is {rollout.phase} since it was {rollout.changed_how} by {rollout.changed_by} "
                f"({rollout.reason}); `teal rollout start` begins a new one"
            )
        view = view_of(store, _Blind(), rollout)
        if event is Event.PROMOTE and view.judged.outcome == "Failed":
            raise RefusedError(
                f"rollout {rollout.id} has failed: {'; '.join(view.judged.reasons)}; it cannot be promoted"
            )
        text = f"{event} by {by}" + (f": {reason}" if reason else "")
        return asdict(apply_action(store, view, operator_action(view, event, text), by=by))

    request = {"command": str(event), "rollout": rollout_id, "by": by}
    return Rollout(**_with_retries(lambda: _once(store, key, request, act)))


def decide_approval(store: RolloutStore, rollout_id: str, *, by: str, is_approved: bool, reason: str = "") -> Approval:
    """Approve, or deny, what the rollout waits for. RefusedError if `by` started it or has approved it already."""
    rollout = store.rollout(rollout_id)
    asked = [found for found in store.approvals(kind=APPROVAL_KIND) if found.detail.get("rollout") == rollout.id]
    pending = [found for found in asked if found.state == "pending"]
    if not pending:
        raise NotFoundError(f"rollout {rollout.id} waits for no approval; it is {rollout.phase}")
    percent = pending[0].detail["percent"]
    if any(found.decided_by == by and found.detail["percent"] == percent for found in asked):
        raise RefusedError(f"{by} has approved {percent} % of rollout {rollout.id} already; somebody else must as well")
    decide = store.approve if is_approved else store.deny
    return decide(pending[0].id, by=by, reason=reason)


def find_rollout(store: RolloutStore, asked: str | None, endpoint: str | None = None) -> Rollout:
    """The rollout of this id, or the endpoint's active one, else its last. NotFoundError if there is none."""
    if asked is not None and endpoint is None:
        known = [state.name for state in store.endpoints()]
        if asked not in known:
            return store.rollout(asked)
        endpoint = asked
    found = store.rollouts(endpoint)
    if not found:
        raise NotFoundError(f"no rollout of {endpoint!r} yet; `teal rollout start` begins one")
    return next((rollout for rollout in reversed(found) if rollout.is_active), found[-1])


class _Blind:
    """A world for commands, which judge by what is stored alone."""

    def now(self) -> float:
        return time.time()

    def why_not_ready(self, _endpoint: EndpointState, _slot: Slot) -> str | None:
        return None

    def read(self, _source: Source, _endpoint: EndpointState, _now: float) -> Reading | None:
        return None

    def read_failed_keys(self, _endpoint: EndpointState) -> None:
        return

    def read_losses(self, *_: object) -> None:
        return

    def ask_capacity(self, _endpoint: EndpointState, _wanted: Mapping[Slot, int]) -> str | None:
        return None

    def traffic_changed(self) -> None:
        return


def _check_startable(state: EndpointState, plan: RolloutConfig, requests_per_s: float | None) -> None:
    if state.slot(state.canary).model is None:
        raise RefusedError(f"slot {state.canary} of {state.name!r} holds no model; `teal deploy` puts one there")
    if state.slot(state.primary).model is None or state.slot(state.canary).model == state.slot(state.primary).model:
        raise RefusedError(f"both slots of {state.name!r} hold {_label(state, state.primary)}: nothing to compare")
    if state.share:
        raise RefusedError(
            f"the canary of {state.name!r} has {state.share / 100:g} % already; a rollout starts at 0: `teal rollback`"
        )
    if steps_of(plan)[0].is_last:
        raise UsageError("a rollout needs a step below 100 %, where both slots have traffic to be compared")
    check_plan(plan, requests_per_s)


def _label(state: EndpointState, slot: Slot) -> str:
    model = state.slot(slot).model
    return "nothing" if model is None else model.label


def _once(
    store: RolloutStore, key: str | None, request: Mapping[str, Any], action: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    if key is None:
        with store.transaction():
            return dict(action())
    return store.idempotent(key, request, action).value


def _with_retries(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    for _ in range(NUM_ATTEMPTS - 1):
        try:
            return action()
        except ConflictError:
            continue
    return action()
