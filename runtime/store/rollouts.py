"""Rollouts in the control store: each change one transaction with the endpoint's own change and its audit row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from runtime.core.errors import ConflictError, NotFoundError, RefusedError
from runtime.store.control import ControlStore
from runtime.store.database import retried, upsert
from runtime.store.endpoints import read_endpoint
from runtime.store.leases import check_fencing
from runtime.store.records import EndpointState, Fencing
from runtime.store.rollout_tables import analysis_ticks, rollouts, shadow_counts

SHADOWING = "Shadowing"
"""The phase in which replicas of the primary ask the canary too, as the plan's `shadow` says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One canary's way to 100 % or back to 0. What the phases mean is known to the rollout room."""

    id: str
    endpoint: str
    revision: int
    """Rises with every change; a change that was decided on an older one is refused."""
    phase: str
    step: int
    """Index into the plan's steps; -1 before the first."""
    plan: dict[str, Any]
    plan_name: str
    author: str
    canary_slot: str
    canary_model: str
    primary_model: str
    generation: int
    """Of the endpoint, as this rollout last left or found it."""
    outcome: str | None
    """The phase that it ends in, once that is decided."""
    reason: str
    """Why it is in this phase."""
    is_step_passed: bool
    resumed_step: int | None
    """The last step before which somebody resumed."""
    created_at: float
    phase_since: float
    step_since: float | None
    """When all edges gave the canary this step's share, seconds since 1970."""
    ended_at: float | None
    changed_by: str
    changed_how: str
    changed_at: float
    progress: dict[str, Any]
    """The evidence so far and the readings it was counted from."""
    certificate: str | None
    """sha256 of the certificate's content."""

    @property
    def is_active(self) -> bool:
        return self.ended_at is None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisTick:
    """What one look found."""

    rollout: str
    number: int
    at: float
    step: int
    generation: int
    share: int
    counts: dict[str, Any]
    """By metric; null where it could not be counted."""
    verdict: dict[str, Any]


class RolloutStore(ControlStore):
    """The control store with rollouts. A controller passes its lease's `fencing`; one that was replaced is refused."""

    @retried
    def create_rollout(self, rollout: Rollout, *, detail: dict[str, Any]) -> Rollout:
        """Start one and give it an id, `ENDPOINT-N`. ConflictError while another one of the endpoint is active, or if
        the endpoint is at another generation."""
        with self._write() as connection:
            state = read_endpoint(connection, rollout.endpoint)
            self._check_generation(rollout, state)
            active = _read_active(connection, rollout.endpoint)
            if active is not None:
                raise ConflictError(
                    f"rollout {active.id} of {active.endpoint!r} is {active.phase}: started by {active.author} at "
                    f"{moment(active.created_at)}; `teal rollout abort` ends it"
                )
            query = select(func.count()).where(rollouts.c.endpoint == rollout.endpoint)
            number = (connection.execute(query).scalar() or 0) + 1
            started = replace(rollout, id=f"{rollout.endpoint}-{number}")
            connection.execute(insert(rollouts).values(**_values(started)))
            self.record_event(
                started.endpoint,
                actor=started.author,
                action="rollout start",
                detail={"rollout": started.id, "plan": started.plan, **detail},
            )
            return started

    def rollout(self, rollout_id: str) -> Rollout:
        with self._read() as connection:
            return _read_rollout(connection, rollout_id)

    def rollouts(
        self, endpoint: str | None = None, *, is_active: bool | None = None, is_certified: bool | None = None
    ) -> list[Rollout]:
        """In order of their start."""
        query = select(rollouts).order_by(rollouts.c.created_at, rollouts.c.id)
        if endpoint is not None:
            query = query.where(rollouts.c.endpoint == endpoint)
        if is_active is not None:
            column = rollouts.c.active_endpoint
            query = query.where(column.is_not(None) if is_active else column.is_(None))
        if is_certified is not None:
            written = rollouts.c.certificate
            query = query.where(written.is_not(None) if is_certified else written.is_(None))
        with self._read() as connection:
            return [_rollout(row) for row in connection.execute(query).mappings()]

    def active_rollout(self, endpoint: str) -> Rollout | None:
        with self._read() as connection:
            return _read_active(connection, endpoint)

    def analysis_ticks(self, rollout_id: str) -> list[AnalysisTick]:
        query = select(analysis_ticks).where(analysis_ticks.c.rollout == rollout_id).order_by(analysis_ticks.c.number)
        with self._read() as connection:
            return [AnalysisTick(**row) for row in connection.execute(query).mappings()]

    def shadow_asked(self, endpoint: str) -> tuple[str, float] | None:
        """The rollout in whose shadow the primary's replicas ask the canary now, and of what fraction of requests."""
        columns = rollouts.c
        query = select(columns.id, columns.plan).where(columns.active_endpoint == endpoint, columns.phase == SHADOWING)
        with self._read() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.id, float(row.plan["shadow"]["fraction"]))

    @retried
    def record_shadow(self, rollout_id: str, replica: str, counts: Mapping[str, Any], *, at: float) -> bool:
        """Keep what one replica has counted since it began; False once the rollout is past its shadow."""
        with self._write() as connection:
            phase = connection.execute(select(rollouts.c.phase).where(rollouts.c.id == rollout_id)).scalar()
            if phase != SHADOWING:
                return False
            key = {"rollout": rollout_id, "replica": replica}
            upsert(connection, shadow_counts, key, {"at": at, "counts": dict(counts)})
            return True

    def shadow_counts(self, rollout_id: str) -> list[dict[str, Any]]:
        """What each replica counted in the rollout's shadow."""
        query = select(shadow_counts.c.counts).where(shadow_counts.c.rollout == rollout_id)
        with self._read() as connection:
            return [dict(counts) for counts in connection.execute(query.order_by(shadow_counts.c.replica)).scalars()]

    @retried
    def change_rollout(
        self,
        before: Rollout,
        after: Rollout,
        *,
        share: int | None = None,
        is_promotion: bool = False,
        detail: dict[str, Any] | None = None,
        fencing: Fencing | None = None,
    ) -> Rollout:
        """Replace `before` by `after`, and move the endpoint's traffic with it where `share` differs from what it has.

        The audit row is `after.changed_by`'s. ConflictError if the rollout or the endpoint was changed since; nothing
        is changed then.
        """
        with self._write() as connection:
            check_fencing(connection, fencing)
            state = read_endpoint(connection, before.endpoint)
            moves = share is not None and share != state.share
            if moves or is_promotion:
                self._check_generation(before, state)
            noted = {"rollout": before.id, "was": before.phase, "phase": after.phase, "reason": after.reason}
            generation = after.generation
            if share is not None and moves:
                moved = self.set_share(
                    before.endpoint,
                    share,
                    actor=after.changed_by,
                    action="rollback" if share < state.share else "shift",
                    reason=f"rollout {before.id}: {after.reason}",
                    rollout=before.id,
                )
                generation = moved.generation
            if is_promotion:
                generation = self.promote(before.endpoint, actor=after.changed_by).generation
            changed = replace(after, generation=generation)
            self._swap(connection, before, changed)
            self.record_event(
                before.endpoint,
                actor=after.changed_by,
                action=f"rollout {after.changed_how}",
                detail=noted | (detail or {}),
            )
            return replace(changed, revision=before.revision + 1)

    @retried
    def record_tick(
        self, before: Rollout, after: Rollout, tick: AnalysisTick | None, *, fencing: Fencing | None = None
    ) -> Rollout:
        """Keep what was counted together with the readings that it was counted from: never one without the other."""
        with self._write() as connection:
            check_fencing(connection, fencing)
            self._swap(connection, before, after)
            if tick is not None:
                values = {name: getattr(tick, name) for name in AnalysisTick.__slots__}
                connection.execute(insert(analysis_ticks).values(**values))
            return replace(after, revision=before.revision + 1)

    @retried
    def record_certificate(
        self, rollout: Rollout, sha256: str, *, actor: str, fencing: Fencing | None = None
    ) -> Rollout:
        """Link a certificate's hash into the audit chain, once: repeating it changes nothing."""
        with self._write() as connection:
            check_fencing(connection, fencing)
            found = _read_rollout(connection, rollout.id)
            if found.certificate is not None:
                return found
            self._swap(connection, found, replace(found, certificate=sha256))
            self.record_event(
                found.endpoint, actor=actor, action="certificate", detail={"rollout": found.id, "sha256": sha256}
            )
            return replace(found, certificate=sha256, revision=found.revision + 1)

    @contextmanager
    def superseding(self, endpoint: str, *, actor: str, how: str, at: float) -> Iterator[Rollout | None]:
        """A transaction in which somebody moves the endpoint's traffic by hand; it ends an active rollout as Aborted.

        Gives that rollout as it was, None if there is none.
        """
        with self._write() as connection:
            active = _read_active(connection, endpoint)
            yield active
            if active is None:
                return
            reason = f"{how} by {actor}"
            ended = replace(
                active,
                phase="Aborted",
                outcome="Aborted",
                reason=reason,
                phase_since=at,
                ended_at=at,
                changed_by=actor,
                changed_how="superseded",
                changed_at=at,
                generation=read_endpoint(connection, endpoint).generation,
            )
            self._swap(connection, active, ended)
            noted = {"rollout": active.id, "was": active.phase, "phase": "Aborted", "reason": reason}
            self.record_event(endpoint, actor=actor, action="rollout superseded", detail=noted)

    def _check_generation(self, rollout: Rollout, state: EndpointState) -> None:
        if state.generation == rollout.generation:
            return
        last = next((row for row in reversed(self.transitions(state.name)) if row.generation == state.generation), None)
        by = f": {last.actor} did {last.action} at {last.at}" if last else ""
        raise ConflictError(
            f"endpoint {state.name!r} is at generation {state.generation}, not {rollout.generation}{by}; "
            "look at `teal status` and repeat the command if it still holds"
        )

    def _swap(self, connection: Connection, before: Rollout, after: Rollout) -> None:
        values = _values(replace(after, revision=before.revision + 1))
        swapped = connection.execute(
            update(rollouts).where(rollouts.c.id == before.id, rollouts.c.revision == before.revision).values(values)
        )
        if swapped.rowcount != 1:
            found = _read_rollout(connection, before.id)
            raise ConflictError(
                f"rollout {before.id} changed meanwhile: {found.changed_by} did {found.changed_how!r} at "
                f"{moment(found.changed_at)}, and it is {found.phase} now; nothing was changed"
            )


def moment(at: float) -> str:
    """Seconds since 1970 as people read them."""
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")


def check_no_rollout(active: Rollout | None) -> None:
    """RefusedError if a rollout is active: it, and nobody else, moves the endpoint's traffic."""
    if active is not None:
        raise RefusedError(
            f"rollout {active.id} of {active.endpoint!r} moves its traffic ({active.phase}, started by {active.author} "
            f"at {moment(active.created_at)}); abort it first, or --force aborts it"
        )


def _values(rollout: Rollout) -> dict[str, Any]:
    values = {field.name: getattr(rollout, field.name) for field in fields(Rollout)}
    active = rollout.endpoint if rollout.is_active else None
    return values | {"active_endpoint": active, "is_step_passed": int(rollout.is_step_passed)}


def _rollout(row: Any) -> Rollout:
    values = dict(row)
    del values["active_endpoint"]
    return Rollout(**values | {"is_step_passed": bool(values["is_step_passed"])})


def _read_rollout(connection: Connection, rollout_id: str) -> Rollout:
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no rollout {rollout_id!r}; `teal rollout history` lists them")
    return _rollout(row)


def _read_active(connection: Connection, endpoint: str) -> Rollout | None:
    row = connection.execute(select(rollouts).where(rollouts.c.active_endpoint == endpoint)).mappings().first()
    return None if row is None else _rollout(row)
