"""Brings every active rollout one step further: reads what is desired and what is, does one thing, stores it. No Ray.

Killed anywhere, the next controller goes on from the store: a change of phase, the traffic that goes with it and its
audit row are one transaction, and so are a tick's counts and the readings they were counted from. Of two controllers
the one whose lease was taken over is refused by the store.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from runtime.core.errors import ConfigError, ConflictError, ContractError, TealError
from runtime.rollout import conditions
from runtime.rollout.aliases import announce_alias
from runtime.rollout.capacity import wanted_capacity
from runtime.rollout.decisions import Action, Observe, Settled, decide, outcome_after
from runtime.rollout.labels import LossSums, Span
from runtime.rollout.phases import TERMINAL, Event, Phase, next_phase
from runtime.rollout.plan import plan_from_json, steps_of
from runtime.rollout.progress import Progress, counts_to_json, look, look_at_labels
from runtime.rollout.readings import SOURCES, FailedKeys, Reading, Source
from runtime.rollout.shadowing import judge_shadow, sum_counts
from runtime.rollout.traffic import EDGE_ALIVE_S
from runtime.rollout.view import NOTHING_JUDGED, Judged, Observed, View
from runtime.store.records import Approval, EndpointState, Lease, Slot
from runtime.store.rollouts import AnalysisTick, Rollout, RolloutStore

logger = logging.getLogger(__name__)

LEASE = "rollout"
LEASE_TTL_S = 6.0
ACTOR = "teal-rollout"
APPROVAL_KIND = "rollout"
CHAMPION = "champion"


class World(Protocol):
    """What the controller sees and touches beside the store."""

    def now(self) -> float: ...

    def why_not_ready(self, endpoint: EndpointState, slot: Slot) -> str | None:
        """None if the slot answers with the model that the store wants in it."""

    def read(self, source: Source, endpoint: EndpointState, now: float) -> Reading | None:
        """None if the source does not answer."""

    def read_failed_keys(self, endpoint: EndpointState) -> FailedKeys | None:
        """Which routing keys have met errors, and how often; None if no edge says."""

    def read_losses(self, endpoint: EndpointState, spans: Sequence[Span], kinds: Collection[str]) -> LossSums | None:
        """Losses of these kinds on the labels that are known by now; None if they cannot be read."""

    def ask_capacity(self, endpoint: EndpointState, wanted: Mapping[Slot, int]) -> str | None:
        """See to it that each slot can carry so many basis points; why it cannot yet, None once it can."""

    def traffic_changed(self) -> None:
        """Tell the edges that there is something new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What one call did."""

    rollout: str
    what: str


class Controller:
    """For one thread."""

    def __init__(
        self, store: RolloutStore, world: World, *, holder: str, certify: Callable[[Rollout], str] | None = None
    ) -> None:
        """`holder` names this life of this process. `certify` writes a certificate and gives its hash."""
        self._store = store
        self._world = world
        self._holder = holder
        self._certify = certify
        self._lease: Lease | None = None
        self._uncertified: set[str] = set()

    def advance(self) -> list[Done]:
        """One action for each active rollout at most. Nothing while another controller holds the lease."""
        if not self._hold_lease():
            return []
        done = []
        for rollout in self._store.rollouts(is_active=True):
            what = self._advance(rollout)
            if what is not None:
                done.append(Done(rollout=rollout.id, what=what))
        return done + self._write_certificates()

    def _write_certificates(self) -> list[Done]:
        done = []
        for rollout in self._store.rollouts(is_active=False, is_certified=False):
            if self._certify is None or rollout.id in self._uncertified:
                continue
            try:
                sha256 = self._certify(rollout)
            except (TealError, OSError) as error:
                # Traffic does not wait for a report; the next life of the controller tries again.
                logger.error("no certificate for rollout %s: %s", rollout.id, error)
                self._uncertified.add(rollout.id)
                continue
            self._store.record_certificate(rollout, sha256, actor=ACTOR, fencing=self._fencing)
            done.append(Done(rollout=rollout.id, what="certificate"))
        return done

    def release(self) -> None:
        if self._lease is not None:
            self._store.release_lease(self._lease)
            self._lease = None

    @property
    def _fencing(self) -> tuple[str, int] | None:
        return None if self._lease is None else self._lease.fencing

    def _hold_lease(self) -> bool:
        """Every write is fenced, so a lease that runs on for a while need not be looked at."""
        now = self._world.now()
        if self._lease is None or self._lease.expires_at - now < LEASE_TTL_S / 2:
            self._lease = self._store.acquire_lease(LEASE, self._holder, LEASE_TTL_S, now)
        return self._lease is not None

    def _advance(self, rollout: Rollout) -> str | None:
        try:
            view = view_of(self._store, self._world, rollout)
        except (ConfigError, ContractError) as error:
            logger.exception("rollout %s cannot go on", rollout.id)
            return self._fail(rollout, str(error))
        decision = decide(view)
        try:
            if isinstance(decision, Action):
                self._act(view, decision)
                return f"{decision.event}: {decision.reason}"
            if isinstance(decision, Settled):
                self._store.record_tick(rollout, replace(rollout, step_since=view.now), None, fencing=self._fencing)
                return "settled"
            if isinstance(decision, Observe):
                return self._observe(view)
            if view.phase is Phase.PREPARING and decision.reason != rollout.reason:
                # Whoever looks is told what it waits for.
                told = replace(rollout, reason=decision.reason)
                self._store.record_tick(rollout, told, None, fencing=self._fencing)
        except ConflictError as error:
            # Somebody was first; the next call sees what they did.
            logger.info("rollout %s: %s", rollout.id, error)
        return None

    def _act(self, view: View, action: Action) -> None:
        changed = apply_action(self._store, view, action, by=ACTOR, fencing=self._fencing)
        logger.info("rollout %s: %s", changed.id, action.reason, extra={"event": str(action.event)})
        if action.share is not None or action.is_promotion:
            self._world.traffic_changed()

    def _fail(self, rollout: Rollout, reason: str) -> str:
        """A rollout that cannot be read any more ends here, and its traffic goes back."""
        now = self._world.now()
        phase = next_phase(Phase(rollout.phase), Event.FAIL, None)
        before = replace(rollout, generation=self._store.endpoint(rollout.endpoint).generation)
        after = replace(
            before,
            phase=str(phase),
            outcome=str(phase),
            reason=reason,
            phase_since=now,
            ended_at=now,
            changed_by=ACTOR,
            changed_how=str(Event.FAIL),
            changed_at=now,
        )
        self._store.change_rollout(before, after, share=0, fencing=self._fencing)
        self._world.traffic_changed()
        return f"{Event.FAIL}: {reason}"

    def _observe(self, view: View) -> str | None:
        rollout, now = view.rollout, view.now
        assert view.step is not None
        progress = Progress.from_json(view.plan, view.step, rollout.progress)
        # Keys first: a request that fails between the two questions is counted before its key is, never after.
        keys = self._world.read_failed_keys(view.observed.endpoint) if view.plan.is_sticky else None
        readings = {source: self._world.read(source, view.observed.endpoint, now) for source in SOURCES}
        if (edge := readings["edge"]) is not None:
            readings["edge"] = replace(edge, failed_keys=keys)
        assert rollout.step_since is not None
        settled_at = rollout.step_since + view.plan.settle_s
        begun = progress.in_span(rollout.step, view.step.share, settled_at)
        begun = self._with_labels(view, begun)
        seen = look(view.plan, rollout, begun, readings, share=view.step.share, now=now, settled_at=settled_at)
        tick = None
        if seen.counts is not None:
            tick = AnalysisTick(
                rollout=rollout.id,
                number=seen.progress.analysis.num_ticks,
                at=now,
                step=rollout.step,
                generation=rollout.generation,
                share=view.step.share,
                counts=counts_to_json(seen),
                verdict=asdict(seen.progress.analysis.verdict()),
            )
        elif seen.progress == progress:
            return None
        self._store.record_tick(
            rollout, replace(rollout, progress=seen.progress.to_json()), tick, fencing=self._fencing
        )
        return None if tick is None else f"tick {tick.number}"

    def _with_labels(self, view: View, progress: Progress) -> Progress:
        kinds = sorted({metric.loss for metric in view.plan.metrics.values() if metric.loss is not None})
        losses = self._world.read_losses(view.observed.endpoint, progress.spans, kinds) if kinds else None
        return progress if losses is None else look_at_labels(view.plan, view.rollout, progress, losses)


def view_of(store: RolloutStore, world: World, rollout: Rollout) -> View:
    """Everything that a decision needs, read now."""
    now = world.now()
    plan = plan_from_json(rollout.plan)
    steps = steps_of(plan)
    endpoint = store.endpoint(rollout.endpoint)
    acknowledged = store.acknowledged(endpoint.name, alive_since=now - EDGE_ALIVE_S)
    behind = sorted(edge for edge, generation in acknowledged.items() if generation < endpoint.generation)
    not_ready = {}
    for role, slot in (("primary", endpoint.primary), ("canary", endpoint.canary)):
        why = world.why_not_ready(endpoint, slot)
        if why is not None:
            not_ready[role] = why
    asked = approvals_of(store, rollout, steps[min(rollout.step + 1, len(steps) - 1)].percent)
    observed = Observed(
        endpoint=endpoint,
        is_applied=bool(acknowledged) and not behind,
        behind=", ".join(behind) or "no live edge",
        not_ready=not_ready,
        approved_by=frozenset(found.decided_by for found in asked if found.state == "approved" and found.decided_by),
        denied_by=next((found.decided_by for found in asked if found.state == "denied"), None),
    )
    judged: Judged = NOTHING_JUDGED
    if rollout.step >= 0 and rollout.progress:
        judged = Progress.from_json(plan, steps[rollout.step], rollout.progress).judged()
    shadow = None
    if rollout.phase == Phase.SHADOWING:
        shadow = judge_shadow(plan, sum_counts(store.shadow_counts(rollout.id)))
    view = View(rollout=rollout, plan=plan, steps=steps, judged=judged, observed=observed, now=now, shadow=shadow)
    if not plan.capacity_lead:
        return view
    wanted = wanted_capacity(rollout, plan, is_rising=conditions.is_rising(view))
    return replace(view, observed=replace(observed, capacity=world.ask_capacity(endpoint, wanted)))


def apply_action(
    store: RolloutStore, view: View, action: Action, *, by: str, fencing: tuple[str, int] | None = None
) -> Rollout:
    """Store an action: the phase, the traffic, the audit row, who may approve, who is champion, all or nothing."""
    rollout, now = view.rollout, view.now
    is_new_step = action.step != rollout.step
    has_ended = action.phase in TERMINAL
    progress = rollout.progress
    if is_new_step:
        step = view.steps[action.step]
        progress = Progress.from_json(view.plan, step, progress).at_new_step(now).to_json()
    after = replace(
        rollout,
        phase=str(action.phase),
        step=action.step,
        # How it ends was decided before: that stays the answer to "why", and the audit row has this step's.
        reason=rollout.reason if action.event in (Event.APPLIED, Event.DRAINED) else action.reason,
        outcome=outcome_after(action) or rollout.outcome,
        is_step_passed=not is_new_step and (rollout.is_step_passed or action.event is Event.PASSED),
        resumed_step=rollout.step + 1 if action.event is Event.RESUME else rollout.resumed_step,
        phase_since=rollout.phase_since if action.event is Event.ADOPT else now,
        step_since=_step_since(view, action, is_new_step=is_new_step),
        ended_at=now if has_ended else None,
        generation=view.observed.endpoint.generation,
        progress=progress,
        changed_by=by,
        changed_how=str(action.event),
        changed_at=now,
    )
    # What is compared in the store is what this decision was made on.
    before = replace(rollout, generation=view.observed.endpoint.generation)
    with store.transaction():
        changed = store.change_rollout(
            before,
            after,
            share=action.share,
            is_promotion=action.is_promotion,
            detail={"reason": action.reason},
            fencing=fencing,
        )
        if action.event is Event.NEED_APPROVAL:
            _ask_approval(store, view, changed)
        if action.is_promotion:
            name, _, version = rollout.canary_model.rpartition(":")
            store.set_alias(name, CHAMPION, int(version))
            announce_alias(store, name, CHAMPION, int(version), at=now)
        return changed


def approvals_of(store: RolloutStore, rollout: Rollout, percent: int) -> list[Approval]:
    prefix = approval_subject(rollout, percent, 1).rpartition(" ")[0]
    return [found for found in store.approvals(kind=APPROVAL_KIND) if found.subject.rpartition(" ")[0] == prefix]


def approval_subject(rollout: Rollout, percent: int, number: int) -> str:
    return f"{rollout.id} to {percent} % #{number}"


def _ask_approval(store: RolloutStore, view: View, rollout: Rollout) -> None:
    assert view.next_step is not None
    percent = view.next_step.percent
    for number in range(1, view.next_step.approvals + 1):
        store.request_approval(
            APPROVAL_KIND,
            approval_subject(rollout, percent, number),
            author=rollout.author,
            endpoint=rollout.endpoint,
            detail={"rollout": rollout.id, "canary": rollout.canary_model, "percent": percent},
        )


def _step_since(view: View, action: Action, *, is_new_step: bool) -> float | None:
    """A step's time begins once edges follow; a resumed one has its time anew."""
    if is_new_step or action.share is not None or action.is_promotion:
        return None
    if action.event is Event.RESUME and view.rollout.step_since is not None:
        return view.now
    return view.rollout.step_since
