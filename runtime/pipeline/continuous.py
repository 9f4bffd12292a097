"""Training again by itself: look for a reason, and carry one training through its steps to a rollout.

Each step's result is in the store before the next begins, so that a kill at any point is continued by the next look.
What led to a version stands in its lineage. Traffic moves only by a rollout's plan.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.core.errors import ConflictError, RefusedError, UnreachableError, UsageError
from runtime.core.ids import new_id
from runtime.pipeline.continuous_data import build_next_data, training_config
from runtime.pipeline.continuous_lease import Check
from runtime.pipeline.continuous_progress import StoredProgress
from runtime.pipeline.continuous_reasons import (
    count_labelled,
    find_reasons,
    read_trigger_state,
    remember_seen,
)
from runtime.pipeline.steps import (
    Session,
    deploy_version,
    find_candidate,
    register_candidate,
    sweep_models,
)
from runtime.pipeline.triggers import Decision, Reason, decide
from runtime.store.rollouts import RolloutStore
from runtime.store.trainings import Training

logger = logging.getLogger(__name__)

ACTOR = "teal continuous"
STEPS = ("data", "sweep", "register", "deploy", "rollout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one look did."""

    why: str
    training: Training | None
    """The one that was started or continued, None if there is none."""
    waits_for: str | None = None
    """Why a step could not be done yet; the next look tries again."""


def look(
    session: Session,
    endpoint: str,
    *,
    now: Callable[[], float] = time.time,
    reason: Reason | None = None,
    check: Check = lambda: None,
) -> Looked:
    """Continue the training that runs, or start one if a trigger says so or `reason` is given. May join Ray."""
    running = session.store.running_training(endpoint)
    if running is not None:
        return carry_on(session, running, why="continued", now=now, check=check)
    at = now()
    decision = (
        decide_now(session, endpoint, at) if reason is None else Decision(reason=reason, seen={}, why="asked for")
    )
    if decision.reason is None:
        return Looked(why=decision.why, training=None)
    trigger = decision.reason.to_json() | {"num_labelled": count_labelled(session.config, session.store, endpoint)}
    training = session.store.start_training(endpoint, trigger, actor=ACTOR, at=at)
    return carry_on(session, training, why=decision.why, now=now, check=check)


def asked_for(actor: str, reason: str) -> Reason:
    """A reason that somebody gives: it waits for no trigger, debounce, cool-down or budget."""
    return Reason(
        trigger="by hand", kind="schedule", id=f"by hand {new_id()}", evidence={"by": actor, "reason": reason}
    )


def decide_now(session: Session, endpoint: str, at: float) -> Decision:
    """What the triggers say; remembers since when their reasons hold."""
    reasons = find_reasons(session.config, session.store, endpoint, at)
    state = read_trigger_state(session.store, endpoint, at)
    decision = decide(session.config.continuous, reasons, state, at)
    remember_seen(session.store, endpoint, decision.seen)
    return decision


def keep_looking(
    session: Session, endpoint: str, *, reason: Reason | None, check: Check, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Looked]:
    """Look every `continuous.interval_s`, for as long as the caller asks for more, and give what is new of trainings.

    What cannot be reached now is tried again; every other error is the caller's.
    """
    told: Training | None = None
    while True:
        try:
            looked = look(session, endpoint, reason=reason, check=check)
            reason = None
        except UnreachableError as error:
            looked = Looked(why=str(error), training=None)
        # The cluster may be another one by the next look.
        session.disconnect()
        session.progress.update(looked.why if looked.waits_for is None else f"waits: {looked.waits_for}")
        if looked.training is not None and looked.training != told:
            told = looked.training
            yield looked
        sleep(session.config.continuous.interval_s)


def carry_on(
    session: Session,
    training: Training,
    *,
    why: str,
    now: Callable[[], float] = time.time,
    check: Check = lambda: None,
) -> Looked:
    """Do the steps that are not done. A refusal ends the training; so does a failure, after which it may start anew.

    `check` is asked before anything is stored; what it raises is the caller's.
    """
    steps: dict[str, Callable[[Session, Training], dict[str, Any]]] = {
        "data": _data,
        "sweep": _sweep,
        "register": _register,
        "deploy": _deploy,
        "rollout": _rollout,
    }
    if session.config.serving.endpoint != training.endpoint:
        raise UsageError(
            f"training {training.id} is of endpoint {training.endpoint!r}, but the configuration is of "
            f"{session.config.serving.endpoint!r}; choose its data and serving groups"
        )
    session = replace(session, progress=StoredProgress(session.progress, session.store, training))
    for name in STEPS:
        if name in training.steps:
            continue
        session.progress.update(f"training {training.endpoint} again: {name}")
        waits_for = None
        try:
            outputs = steps[name](session, training)
        except (ConflictError, UnreachableError) as error:
            waits_for = str(error)
        except RefusedError as error:
            if name not in ("deploy", "rollout"):
                check()
                return Looked(why=why, training=_end(session, training, "refused", f"{name}: {error}", now()))
            waits_for = str(error)  # a slot that is busy now is idle later
        except Exception as error:
            logger.exception("step %s of training %s failed", name, training.id)
            check()
            return Looked(why=why, training=_end(session, training, "failed", f"{name}: {error}", now()))
        check()
        if waits_for is not None:
            training = session.store.note_training(training.id, f"{name} waits: {waits_for}")
            return Looked(why=why, training=training, waits_for=waits_for)
        training = session.store.record_training_step(training.id, name, outputs)
    outcome = str(training.steps["rollout"]["state"])
    return Looked(why=why, training=_end(session, training, "done", outcome, now()))


def _data(session: Session, training: Training) -> dict[str, Any]:
    needs_served = training.trigger["kind"] not in ("data", "schedule")
    built = build_next_data(session, training.endpoint, needs_served=needs_served)
    return {"version": built.version.version, "label": built.version.label, "served": built.served}


def _sweep(session: Session, training: Training) -> dict[str, Any]:
    made = training.steps["data"]
    config = training_config(session.config, made["served"])
    version = session.store.data_version(config.data.name, made["version"])
    best = sweep_models(session.with_config(config), version).best
    # The trigger joins the candidate's lineage here, and with it that of the model version.
    lineage = best.lineage | {"trigger": training.trigger | {"training": training.id, "served": made["served"]}}
    session.store.record_step(f"candidate/{best.run_id}", "candidate", asdict(replace(best, lineage=lineage)))
    return {"run_id": best.run_id, "family": best.family, "metrics": best.metrics}


def _register(session: Session, training: Training) -> dict[str, Any]:
    config = training_config(session.config, training.steps["data"]["served"])
    candidate = find_candidate(session, training.steps["sweep"]["run_id"])
    registered = register_candidate(session.with_config(config), candidate.run_id, actor=ACTOR)
    return {"model": registered.model.label, "reasons": list(registered.report.reasons)}


def _deploy(session: Session, training: Training) -> dict[str, Any]:
    deployed = deploy_version(session, training.steps["register"]["model"], actor=ACTOR)
    return {"slot": deployed.slot, "is_primary": deployed.is_primary}


def _rollout(session: Session, training: Training) -> dict[str, Any]:
    from runtime.rollout.commands import start

    if training.steps["deploy"]["is_primary"]:
        return {"state": "primary: the endpoint's first version"}
    if not session.config.continuous.rollout:
        return {"state": "awaiting rollout: `teal rollout start` begins it"}
    store = RolloutStore.of(session.config.paths)
    try:
        rollout = start(
            store,
            training.endpoint,
            session.config.rollout,
            "continuous",
            author=ACTOR,
            reason=f"training {training.id}: {training.trigger['trigger']}",
            key=f"training {training.id}",
        )
    finally:
        store.close()
    return {"state": f"{rollout.id} started", "rollout": rollout.id}


def _end(session: Session, training: Training, phase: Any, reason: str, at: float) -> Training:
    return session.store.end_training(training.id, phase, reason=reason, actor=ACTOR, at=at)
