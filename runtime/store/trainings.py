"""Trainings that a trigger started: what led to each, and how far its steps have come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import JSON, Column, Float, String, Table, insert, select, update

from runtime.core.errors import ConflictError, NotFoundError
from runtime.core.ids import new_id
from runtime.store.chain import AuditStore, append_transition
from runtime.store.database import retried
from runtime.store.tables import metadata

TrainingPhase = Literal["running", "done", "refused", "failed"]

trainings = Table(
    "trainings",
    metadata,
    Column("id", String, primary_key=True),
    Column("endpoint", String, nullable=False, index=True),
    Column("active_endpoint", String, unique=True),
    Column("phase", String, nullable=False),
    Column("trigger", JSON, nullable=False),
    Column("steps", JSON, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("reason", String, nullable=False),
)
"""`active_endpoint` is the endpoint while the training runs, so that there is one at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Times are seconds since 1970."""

    id: str
    endpoint: str
    phase: TrainingPhase
    trigger: dict[str, Any]
    """What started it: its name, kind and evidence, as the alert or the data version."""
    steps: dict[str, dict[str, Any]]
    """What each finished step gave, in order."""
    started_at: float
    ended_at: float | None
    reason: str
    """Why it ended as it did; what it waits for while it runs."""


class TrainingStore(AuditStore):
    """One training of an endpoint at a time; the others are its history."""

    @retried
    def start_training(self, endpoint: str, trigger: Mapping[str, Any], *, actor: str, at: float) -> Training:
        """ConflictError if one runs already. The audit chain says who or what started it."""
        training = Training(
            id=new_id(),
            endpoint=endpoint,
            phase="running",
            trigger=dict(trigger),
            steps={},
            started_at=at,
            ended_at=None,
            reason="",
        )
        with self._write() as connection:
            query = select(trainings.c.id).where(trainings.c.active_endpoint == endpoint)
            running = connection.execute(query).scalar()
            if running is not None:
                raise ConflictError(f"training {running} of {endpoint!r} has not ended; `teal continuous run` goes on")
            values = {name: getattr(training, name) for name in Training.__slots__}
            connection.execute(insert(trainings).values(**values, active_endpoint=endpoint))
            detail = {"training": training.id, "trigger": dict(trigger)}
            append_transition(connection, endpoint, actor=actor, action="training started", detail=detail)
        return training

    @retried
    def record_training_step(self, training_id: str, step: str, outputs: Mapping[str, Any]) -> Training:
        """Remember what a step gave; repeating it replaces it. ConflictError if the training has ended."""
        with self._write() as connection:
            training = _read(connection, training_id)
            if training.phase != "running":
                raise ConflictError(
                    f"training {training_id} is {training.phase} already; step {step!r} is not recorded"
                )
            values = {"steps": training.steps | {step: dict(outputs)}, "reason": ""}
            connection.execute(update(trainings).where(trainings.c.id == training_id).values(**values))
            return _read(connection, training_id)

    @retried
    def note_training(self, training_id: str, reason: str) -> Training:
        """Say what a running training waits for, until its next step is done. Of one that ended nothing changes."""
        with self._write() as connection:
            is_running = (trainings.c.id == training_id) & (trainings.c.phase == "running")
            connection.execute(update(trainings).where(is_running).values(reason=reason))
            return _read(connection, training_id)

    @retried
    def end_training(self, training_id: str, phase: TrainingPhase, *, reason: str, actor: str, at: float) -> Training:
        """Ending it again changes nothing."""
        with self._write() as connection:
            training = _read(connection, training_id)
            if training.phase != "running":
                return training
            values = dict(phase=phase, reason=reason, ended_at=at, active_endpoint=None)
            connection.execute(update(trainings).where(trainings.c.id == training_id).values(**values))
            detail = {"training": training_id, "phase": phase, "reason": reason}
            append_transition(connection, training.endpoint, actor=actor, action="training ended", detail=detail)
            return _read(connection, training_id)

    def running_training(self, endpoint: str) -> Training | None:
        query = select(trainings).where(trainings.c.active_endpoint == endpoint)
        with self._read() as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else _training(row)

    def trainings(self, endpoint: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Training]:
        """Newest first."""
        query = select(trainings).where(trainings.c.started_at >= since).order_by(trainings.c.started_at.desc())
        if endpoint is not None:
            query = query.where(trainings.c.endpoint == endpoint)
        with self._read() as connection:
            return [_training(row) for row in connection.execute(query.limit(limit)).mappings()]


def _read(connection: Any, training_id: str) -> Training:
    row = connection.execute(select(trainings).where(trainings.c.id == training_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no training {training_id!r}; `teal continuous status` shows those there are")
    return _training(row)


def _training(row: Any) -> Training:
    return Training(**{name: row[name] for name in Training.__slots__})
