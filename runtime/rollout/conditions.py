"""When an action applies: each function gives the reason if it does, else None. Pure, and nothing is decided here."""

from runtime.rollout.phases import UNDER_WAY, Phase
from runtime.rollout.view import View


def is_foreign(view: View) -> str | None:
    """Somebody else changed what this rollout moves: it does not fight them."""
    endpoint, rollout = view.observed.endpoint, view.rollout
    if endpoint.generation == rollout.generation:
        return None
    model = endpoint.slot("blue" if rollout.canary_slot == "blue" else "green").model
    label = model.label if model else "nothing"
    at = f"at generation {endpoint.generation}"
    if endpoint.primary == rollout.canary_slot:
        return f"somebody else promoted it {at}"
    if label != rollout.canary_model:
        return f"somebody else put {label} into its slot {at}"
    if endpoint.share != view.share:
        return f"somebody else gave the canary {endpoint.share / 100:g} %, not {view.share / 100:g} %, {at}"
    return None


def is_touched(view: View) -> str | None:
    """The generation rose, but nothing that this rollout is about changed."""
    generation = view.observed.endpoint.generation
    return None if generation == view.rollout.generation else f"generation {generation} changes nothing of it"


def is_worse(view: View) -> str | None:
    return "; ".join(view.judged.reasons) if view.judged.outcome == "Failed" else None


def was_denied(view: View) -> str | None:
    return f"denied by {view.observed.denied_by}" if view.observed.denied_by else None


def lacks_approval(view: View) -> str | None:
    if view.next_step is None:
        return None
    lacking = view.next_step.approvals - len(view.observed.approved_by)
    if lacking <= 0:
        return None
    return f"{view.next_step.percent} % needs {lacking} more approval{'s' * (lacking > 1)}"


def _has_approval(view: View) -> str | None:
    if lacks_approval(view):
        return None
    return f"approved by {', '.join(sorted(view.observed.approved_by))}" if view.observed.approved_by else "no need"


def first_approval(view: View) -> str | None:
    return _has_approval(view) if view.step is None else None


def later_approval(view: View) -> str | None:
    return _has_approval(view) if view.step is not None else None


def may_prepare(view: View) -> str | None:
    return None if lacks_approval(view) else "the canary's slot must answer first"


def may_shadow(view: View) -> str | None:
    if view.plan.shadow is None or _trouble(view) or view.observed.capacity:
        return None
    return f"both slots answer; the canary is asked {view.plan.shadow.fraction:.0%} of the primary's requests"


def is_ready(view: View) -> str | None:
    if view.plan.shadow is not None or _trouble(view) or view.observed.capacity:
        return None
    return "both slots answer"


def is_shadow_passed(view: View) -> str | None:
    shadow = view.shadow
    if shadow is None or shadow.outcome != "Successful" or _trouble(view) or view.observed.capacity:
        return None
    return shadow.reason


def is_shadow_worse(view: View) -> str | None:
    return view.shadow.reason if view.shadow is not None and view.shadow.outcome == "Failed" else None


def is_shadow_overdue(view: View) -> str | None:
    """A shadow that holds goes on being asked: nobody gets its answers."""
    if view.plan.shadow is None or view.shadow is None or view.plan.on_deadline != "abort":
        return None
    waited = view.now - view.rollout.phase_since
    if waited <= view.plan.shadow.max_s or view.shadow.outcome == "Successful":
        return None
    return f"the shadow is not decided after {view.plan.shadow.max_s:g} s: {view.shadow.reason}"


def is_rising(view: View) -> bool:
    """Whether the next share comes as soon as there is room for it: nobody and nothing else is waited for."""
    if view.phase in (Phase.PREPARING, Phase.SHADOWING):
        return True
    return (
        view.phase in (Phase.PROGRESSING, Phase.HOLDING)
        and view.rollout.is_step_passed
        and lacks_approval(view) is None
        and needs_pause(view) is None
    )


def _trouble(view: View) -> str | None:
    """Why no share may go up now."""
    observed = view.observed
    for role in ("primary", "canary"):
        if role in observed.not_ready:
            return f"the {role} does not answer: {observed.not_ready[role]}"
    if not observed.is_applied:
        return f"not every edge follows: {observed.behind}"
    return None


def _silence(view: View) -> str | None:
    """Why the evidence is not to be trusted to go on: nothing counted, or not everything, for too long."""
    judged, since = view.judged, view.rollout.step_since
    if since is None:
        return None
    heard = max(since + view.plan.settle_s, judged.last_tick_at or 0.0)
    if view.now - heard > view.plan.hold_after_s:
        return f"no traffic to both slots for {view.now - heard:.0f} s"
    if judged.missing_since is not None and view.now - judged.missing_since > view.plan.hold_after_s:
        return "; ".join(judged.missing)
    return None


def _lacks_room(view: View) -> str | None:
    return view.observed.capacity if view.rollout.is_step_passed else None


def must_hold(view: View) -> str | None:
    why = _lasting_trouble(view) or _silence(view)
    if why is None and view.now - view.rollout.phase_since > view.plan.hold_after_s:
        why = _lacks_room(view)
    if why is None and _is_overdue(view) and view.plan.on_deadline == "hold":
        return _overdue_text(view)
    return why


def _lasting_trouble(view: View) -> str | None:
    trouble = _trouble(view)
    if trouble is None or view.rollout.step_since is not None:
        return trouble
    # A share that was given a moment ago takes edges a moment to follow.
    waited = view.now - view.rollout.phase_since
    return trouble if view.observed.not_ready or waited > view.plan.hold_after_s else None


def is_well(view: View) -> str | None:
    if _trouble(view) or must_hold(view) or _lacks_room(view):
        return None
    return "slots, edges and metrics are there again"


def _is_overdue(view: View) -> bool:
    step = view.step
    return (
        step is not None
        and not view.rollout.is_step_passed
        and view.step_s > step.max_s
        and view.judged.outcome != "Successful"
    )


def _overdue_text(view: View) -> str:
    assert view.step is not None
    return f"{view.step.percent} % is not decided after {view.step.max_s:g} s: {'; '.join(view.judged.reasons)}"


def must_give_up(view: View) -> str | None:
    return _overdue_text(view) if view.plan.on_deadline == "abort" and _is_overdue(view) else None


def has_passed(view: View) -> str | None:
    step, judged = view.step, view.judged
    if step is None or view.rollout.is_step_passed or judged.outcome != "Successful" or _trouble(view):
        return None
    if view.step_s < step.min_s or judged.step_requests < step.min_requests:
        return None
    return f"{step.percent} % passed: {'; '.join(judged.reasons)}"


def needs_approval(view: View) -> str | None:
    return lacks_approval(view) if view.rollout.is_step_passed else None


def needs_pause(view: View) -> str | None:
    rollout, following = view.rollout, view.next_step
    if not rollout.is_step_passed or following is None or not following.pause:
        return None
    number = rollout.step + 1
    return None if rollout.resumed_step == number else f"the plan pauses before {following.percent} %"


def may_step(view: View) -> str | None:
    following = view.next_step
    if not view.rollout.is_step_passed or following is None or following.is_last:
        return None
    if _trouble(view) or _silence(view) or view.observed.capacity:
        return None
    return f"on to {following.percent} %"


def may_finish(view: View) -> str | None:
    following = view.next_step
    if not view.rollout.is_step_passed or following is None or not following.is_last:
        return None
    return None if _trouble(view) or _silence(view) or view.observed.capacity else "every step has passed"


def may_promote(view: View) -> str | None:
    rollout, window = view.rollout, view.plan.rollback_window_s
    if rollout.step_since is None or _trouble(view) or view.step_s < window:
        return None
    return f"100 % for {view.step_s:.0f} s"


def is_applied(view: View) -> str | None:
    """Whether the bad slot is out of every edge. Its share is 0 since the phase began."""
    return "no edge sends it traffic any more" if view.observed.is_applied else None


def is_drained(view: View) -> str | None:
    waited = view.now - view.rollout.phase_since
    # Replicas that are not needed any more go first, but none that cannot be told of it holds up the end.
    if view.observed.capacity and waited <= view.plan.hold_after_s:
        return None
    return "what was under way has ended" if waited >= view.plan.settle_s and view.observed.is_applied else None


def has_share(view: View) -> bool:
    return view.phase is Phase.PROMOTING or (view.phase in UNDER_WAY and view.step is not None)


def is_tick_due(view: View) -> bool:
    rollout, last = view.rollout, view.judged.last_tick_at
    if view.phase not in UNDER_WAY or view.step is None or view.step.is_last or rollout.step_since is None:
        return False
    if not view.observed.is_applied:
        return False
    since = max(rollout.step_since + view.plan.settle_s, (last or 0.0) + view.plan.tick_s)
    return view.now >= since


def why_waiting(view: View) -> str:
    trouble = _trouble(view)
    if trouble and view.phase is not Phase.DRAINING:
        return trouble
    if view.phase is Phase.PROMOTING:
        return f"100 % for {view.step_s:.0f} of {view.plan.rollback_window_s:g} s"
    if view.observed.capacity and (is_rising(view) or view.phase is Phase.DRAINING):
        return view.observed.capacity
    return view.rollout.reason if view.shadow is None else view.shadow.reason
