"""The steps of the loop, each a function of a session: prepare, sweep, compare, register, deploy.

A step says what it did and returns values; how that is shown is for the caller. Ray is joined only by the steps that
need it.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.config.compose import CONFIG_DIR, compose_family
from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, RefusedError
from runtime.core.git import CodeVersion, read_code_version
from runtime.pipeline.progress import Progress, Silent
from runtime.registry.mlflow_registry import Registry
from runtime.rollout.aliases import announce_alias
from runtime.store.records import SLOTS, DataVersion, EndpointState, ModelVersion, Slot
from runtime.store.rollouts import RolloutStore

if TYPE_CHECKING:
    from runtime.data.prepare import Prepared
    from runtime.governance.gate import GateReport
    from runtime.training.sweep import Candidate, SweepResult

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(kw_only=True)
class Session:
    """A configuration with its open store; everything a step needs."""

    config: Config
    store: RolloutStore
    registry: Registry
    progress: Progress = field(default_factory=Silent)

    @classmethod
    @contextmanager
    def open(cls, config: Config, progress: Progress | None = None) -> Iterator["Session"]:
        """Open the store; leaves Ray when done, if a step joined it."""
        store = RolloutStore(config.paths.control)
        session = cls(config=config, store=store, registry=Registry(config.paths, store), progress=progress or Silent())
        try:
            yield session
        finally:
            session.disconnect()
            store.close()

    def connect(self) -> None:
        """Join the running cluster. UnreachableError if there is none."""
        import ray

        if not ray.is_initialized():
            from runtime.cluster.ray_process import connect

            connect(self.config)

    def disconnect(self) -> None:
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()

    def code(self) -> CodeVersion:
        return read_code_version(CONFIG_DIR)

    def with_config(self, config: Config) -> "Session":
        """The same session under another configuration of the same cluster."""
        return replace(self, config=config)


def prepare_data(session: Session, *, origin: Mapping[str, Any] | None = None) -> "Prepared":
    """Write one version of the configured table, or find that one has the same inputs; `origin` joins its lineage."""
    from runtime.data.prepare import prepare

    session.connect()
    config = session.config
    return prepare(
        config.data,
        paths=config.paths,
        store=session.store,
        code=session.code(),
        origin=origin,
        on_progress=session.progress.update,
    )


def sweep_models(session: Session, version: DataVersion | None = None) -> "SweepResult":
    """Train candidates of every family on one data version, by default the one that `prepare` gave last."""
    from runtime.data.current import current_version
    from runtime.training.sweep import sweep

    config = session.config
    version = version or current_version(session.store, config.data.name)
    families = {
        name: config.model if name == config.model.name else compose_family(name) for name in config.tune.families
    }
    session.connect()
    result = sweep(
        config,
        families,
        version,
        registry=session.registry,
        code=session.code(),
        on_progress=session.progress.update,
    )
    for candidate in result.candidates:
        session.store.record_step(f"candidate/{candidate.run_id}", "candidate", asdict(candidate))
    session.store.record_step(f"sweep/{config.serving.endpoint}", "sweep", {"best": result.best.run_id})
    return result


def find_candidate(session: Session, run_id: str | None = None) -> "Candidate":
    """A candidate by its run, by default the best of the last sweep."""
    from runtime.training.sweep import Candidate

    if run_id is None:
        last = session.store.step_outputs(f"sweep/{session.config.serving.endpoint}")
        if last is None:
            raise NotFoundError(f"no sweep yet for {session.config.serving.endpoint!r}; `teal sweep` makes candidates")
        run_id = str(last["best"])
    outputs = session.store.step_outputs(f"candidate/{run_id}")
    if outputs is None:
        raise NotFoundError(f"no candidate with run {run_id!r}; `teal sweep` shows the runs it made")
    return Candidate(**outputs)


def champion_of(session: Session) -> ModelVersion | None:
    return session.store.alias(session.config.serving.endpoint, CHAMPION)


def compare_candidate(session: Session, run_id: str | None = None) -> "GateReport":
    """The gate: candidate against champion on the same rows. Every comparison is recorded with its holdout."""
    from runtime.pipeline.holdout import compare_on_holdout

    return compare_on_holdout(session, find_candidate(session, run_id), champion_of(session))


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    model: ModelVersion
    report: "GateReport"
    is_forced: bool


def register_candidate(
    session: Session, run_id: str | None = None, *, actor: str, force: bool = False, reason: str = ""
) -> Registered:
    """Gate a candidate and register it as a model version with alias challenger, and keep its quality's reference.

    RefusedError if the gate rejects it, unless forced; who forced it and why goes into its lineage.
    """
    from runtime.pipeline.quality_reference import record_reference

    candidate = find_candidate(session, run_id)
    session.progress.update("comparing with the champion")
    report = compare_candidate(session, candidate.run_id)
    is_forced = force and report.verdict != "Passed"
    if report.verdict != "Passed" and not force:
        raise RefusedError(f"candidate {candidate.run_id} is rejected: {'; '.join(report.reasons)}")
    session.progress.update("registering")
    lineage = candidate.lineage | {
        "family": candidate.family,
        "data_version": "{table}@{version}".format(**candidate.lineage["data"]),
        "gate": {
            "verdict": report.verdict,
            "reasons": list(report.reasons),
            "forced_by": actor if is_forced else None,
            "forced_reason": reason if is_forced else None,
        },
    }
    name = session.config.serving.endpoint
    model = session.registry.register(
        name, Path(candidate.bundle_dir), candidate.run_id, lineage, metrics=candidate.metrics
    )
    session.registry.set_alias(name, CHALLENGER, model.version)
    record_reference(session.config, session.store, model)
    return Registered(model=model, report=report, is_forced=is_forced)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    model: ModelVersion
    slot: Slot
    is_new: bool
    is_primary: bool
    is_rehearsed: bool = False
    """Nothing was written or started: so it would be."""


def deploy_version(
    session: Session,
    reference: str,
    *,
    actor: str,
    force: bool = False,
    reason: str = "",
    key: str | None = None,
    is_rehearsed: bool = False,
) -> Deployed:
    """Put a registered version into the idle slot of its endpoint and wait until it can answer. No traffic moves.

    The endpoint has the model's name. RefusedError if the gate has not passed the version, unless forced, which the
    audit chain records; or if no slot is idle. A repeated `key` puts nothing into a slot again, whatever has become of
    it since. `is_rehearsed`: check all that can be checked without starting it, and write nothing.
    """
    from runtime.cluster.token import read_token
    from runtime.rollout.capacity import capacity_of_endpoints
    from runtime.serving.reconcile import reconcile
    from runtime.store.rollouts import RolloutStore

    model = session.registry.resolve(reference)
    verdict = model.lineage.get("gate", {}).get("verdict")
    is_forced = force and verdict != "Passed"
    if verdict != "Passed" and not force:
        raise RefusedError(
            f"{model.label} has not passed the gate (verdict {verdict}); --force deploys it and leaves an audit record"
        )

    def assign() -> dict[str, Any]:
        slot = _slot_of(model, [state for state in session.store.endpoints() if state.name == model.name])
        if slot is None:
            state = session.store.assign_slot(model.name, None, model, actor=actor, forced=is_forced, reason=reason)
            slot = _slot_of(model, [state])
        return {"slot": slot, "is_primary": session.store.endpoint(model.name).primary == slot}

    if is_rehearsed:
        return Deployed(model=model, is_new=False, is_rehearsed=True, **session.store.rehearse(assign))
    if key is None:
        slot = assign()["slot"]
    else:
        request = {"command": "deploy", "model": model.label, "force": force, "actor": actor}
        answer = session.store.idempotent(key, request, assign)
        slot = answer.value["slot"]
        if answer.is_repeated and session.store.endpoint(model.name).slot(slot).model != model:
            return Deployed(model=model, is_new=False, **answer.value)
    session.progress.update(f"starting {model.label} in slot {slot}")
    config = replace(session.config, serving=replace(session.config.serving, endpoint=model.name))
    reconciled = reconcile(
        session.store,
        config,
        token=read_token(config.paths.run),
        capacity=capacity_of_endpoints(RolloutStore.of(config.paths), config.rollout.rollback_window_s, time.time()),
        on_progress=session.progress.update,
    )
    is_primary = session.store.endpoint(model.name).primary == slot
    if is_primary and session.store.alias(model.name, CHAMPION) is None:
        _make_champion(session, model)
    return Deployed(model=model, slot=slot, is_new=reconciled.is_changed, is_primary=is_primary)


def _slot_of(model: ModelVersion, states: Sequence[EndpointState]) -> Slot | None:
    return next((slot for state in states for slot in SLOTS if state.slot(slot).model == model), None)


def monitor_status(session: Session) -> dict[str, Any]:
    """What the monitoring actor has counted."""
    from runtime.monitoring.actor import monitor_status as read_status

    session.connect()
    return read_status(session.config)


def promote_canary(session: Session, endpoint: str, *, actor: str) -> EndpointState:
    """Make the canary the primary and the model in it the champion."""
    state = session.store.promote(endpoint, actor=actor)
    model = state.slot(state.primary).model
    if model is not None:
        session.progress.update(f"{model.label} becomes the champion")
        _make_champion(session, model)
    return state


def _make_champion(session: Session, model: ModelVersion) -> None:
    """In the store; MLflow follows by the outbox, so that one that is away, or was lost, holds up no deployment."""
    with session.store.transaction():
        session.store.set_alias(model.name, CHAMPION, model.version)
        announce_alias(session.store, model.name, CHAMPION, model.version, at=time.time())
