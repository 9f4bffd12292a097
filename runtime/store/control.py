"""The control store: every change is one transaction with its audit row, and only if nobody changed first."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from runtime.core.clock import utc_now
from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.store import tables
from runtime.store.audit import GENESIS, chain_hash
from runtime.store.database import upsert
from runtime.store.lineage import LineageStore, read_model
from runtime.store.records import (
    FULL_SHARE,
    SLOTS,
    EndpointState,
    ModelVersion,
    Slot,
    SlotState,
    Transition,
    other_slot,
)


class ControlStore(LineageStore):
    """Desired state and audit chain, beside the lineage. Safe to open in many processes at once.

    Methods that change an endpoint take `expected_generation`; a different one in the database raises ConflictError
    and changes nothing. Without it the change is made to whatever is there now.
    """

    # -- endpoints -------------------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> EndpointState:
        """The endpoint's desired state. NotFoundError names those that exist."""
        with self._read() as connection:
            return _read_endpoint(connection, name)

    def endpoints(self) -> list[EndpointState]:
        with self._read() as connection:
            names = connection.execute(select(tables.endpoints.c.name).order_by(tables.endpoints.c.name)).scalars()
            return [_read_endpoint(connection, name) for name in names.all()]

    def assign_slot(
        self,
        endpoint: str,
        slot: Slot | None,
        model: ModelVersion,
        *,
        actor: str,
        forced: bool = False,
        reason: str = "",
        expected_generation: int | None = None,
    ) -> EndpointState:
        """Put a model version into a slot that gets no traffic, by default the canary's.

        The first assignment creates the endpoint with that slot as primary. RefusedError if the slot has traffic.
        """
        with self._write() as connection:
            row = connection.execute(select(tables.endpoints).where(tables.endpoints.c.name == endpoint)).first()
            if row is None:
                slot = slot or "blue"
                connection.execute(
                    insert(tables.endpoints).values(name=endpoint, generation=0, primary_slot=slot, share=0)
                )
                generation = 0
            else:
                state = _read_endpoint(connection, endpoint)
                slot = slot or state.canary
                generation = state.generation
                if state.slot_share(slot) > 0:
                    raise RefusedError(
                        f"slot {slot} of {endpoint!r} gets {state.slot_share(slot) / 100:g} % of the traffic; "
                        "promote the canary or roll it back before deploying over it"
                    )
            upsert(
                connection,
                tables.slots,
                dict(endpoint=endpoint, slot=slot),
                dict(model_name=model.name, model_version=model.version),
            )
            detail = {"slot": slot, "model": model.label, "bundle_sha256": model.bundle_sha256, "reason": reason}
            _advance(connection, endpoint, _expected(expected_generation, generation), actor, "assign", forced, detail)
            return _read_endpoint(connection, endpoint)

    def set_share(
        self,
        endpoint: str,
        share: int,
        *,
        actor: str,
        action: str = "shift",
        reason: str = "",
        expected_generation: int | None = None,
    ) -> EndpointState:
        """Give the canary `share` basis points. RefusedError if its slot is empty."""
        if not 0 <= share <= FULL_SHARE:
            raise UsageError(f"a share must be within 0..100 % but got {share / 100:g} %")
        with self._write() as connection:
            state = _read_endpoint(connection, endpoint)
            if share and state.slot(state.canary).model is None:
                raise RefusedError(f"slot {state.canary} of {endpoint!r} holds no model; deploy one before shifting")
            detail = {"from": state.share, "to": share, "canary": state.canary, "reason": reason}
            _advance(
                connection,
                endpoint,
                _expected(expected_generation, state.generation),
                actor,
                action,
                False,
                detail,
                share=share,
            )
            return _read_endpoint(connection, endpoint)

    def promote(self, endpoint: str, *, actor: str, expected_generation: int | None = None) -> EndpointState:
        """Make the canary the primary. It must have all traffic already, so that no request moves."""
        with self._write() as connection:
            state = _read_endpoint(connection, endpoint)
            if state.share != FULL_SHARE:
                raise RefusedError(
                    f"the canary of {endpoint!r} has {state.share / 100:g} % of the traffic; shift it to 100 % first"
                )
            _advance(
                connection,
                endpoint,
                _expected(expected_generation, state.generation),
                actor,
                "promote",
                False,
                {"primary": state.canary},
                share=0,
                primary_slot=state.canary,
            )
            return _read_endpoint(connection, endpoint)

    # -- edges -----------------------------------------------------------------------------------------------------

    def acknowledge(self, edge_id: str, generations: Mapping[str, int], at: float) -> None:
        """Record that an edge now applies these generations. `at` is seconds since 1970; also its sign of life."""
        with self._write() as connection:
            for endpoint, generation in generations.items():
                key = dict(edge_id=edge_id, endpoint=endpoint)
                values = dict(generation=generation, at=at)
                upsert(connection, tables.edge_acks, key, values)

    def acknowledged(self, endpoint: str, *, alive_since: float) -> dict[str, int]:
        """Generation that each edge seen since `alive_since` (seconds since 1970) applies."""
        table = tables.edge_acks
        with self._read() as connection:
            rows = connection.execute(
                select(table.c.edge_id, table.c.generation).where(
                    table.c.endpoint == endpoint, table.c.at >= alive_since
                )
            )
            return {row.edge_id: row.generation for row in rows}

    # -- audit -----------------------------------------------------------------------------------------------------

    def transitions(self, endpoint: str | None = None) -> list[Transition]:
        """The audit chain in order, of one endpoint or of all."""
        query = select(tables.transitions).order_by(tables.transitions.c.sequence)
        if endpoint is not None:
            query = query.where(tables.transitions.c.endpoint == endpoint)
        with self._read() as connection:
            return [Transition(**row) for row in connection.execute(query).mappings()]


def _expected(asked: int | None, found: int) -> int:
    return found if asked is None else asked


def _advance(
    connection: Connection,
    endpoint: str,
    expected_generation: int,
    actor: str,
    action: str,
    forced: bool,
    detail: dict[str, Any],
    **changes: Any,
) -> None:
    """Compare-and-swap the endpoint to its next generation and append the audit row."""
    table = tables.endpoints
    swapped = connection.execute(
        update(table)
        .where(table.c.name == endpoint, table.c.generation == expected_generation)
        .values(generation=expected_generation + 1, **changes)
    )
    if swapped.rowcount != 1:
        columns = tables.transitions.c
        last = connection.execute(
            select(columns.actor, columns.action, columns.at)
            .where(columns.endpoint == endpoint)
            .order_by(columns.sequence.desc())
            .limit(1)
        ).first()
        by = f" by {last.actor} ({last.action}, {last.at})" if last else ""
        raise ConflictError(
            f"endpoint {endpoint!r} is no longer at generation {expected_generation}: changed{by}; "
            "look at `teal status` and repeat the command if it still holds"
        )
    _append_transition(connection, endpoint, expected_generation + 1, actor, action, forced, detail)


def _append_transition(
    connection: Connection,
    endpoint: str,
    generation: int,
    actor: str,
    action: str,
    forced: bool,
    detail: dict[str, Any],
) -> None:
    columns = tables.transitions.c
    last = connection.execute(select(columns.sequence, columns.hash).order_by(columns.sequence.desc()).limit(1)).first()
    row = dict(
        sequence=1 if last is None else last.sequence + 1,
        at=utc_now(),
        endpoint=endpoint,
        generation=generation,
        actor=actor,
        action=action,
        forced=forced,
        detail=detail,
        previous_hash=GENESIS if last is None else last.hash,
    )
    connection.execute(insert(tables.transitions).values(**row, hash=chain_hash(row)))


def _read_endpoint(connection: Connection, name: str) -> EndpointState:
    row = connection.execute(select(tables.endpoints).where(tables.endpoints.c.name == name)).first()
    if row is None:
        known = connection.execute(select(tables.endpoints.c.name).order_by(tables.endpoints.c.name)).scalars().all()
        raise NotFoundError(f"no endpoint {name!r}; known: {', '.join(known) or 'none, `teal deploy` makes one'}")
    found: dict[str, ModelVersion] = {}
    for slot, model_name, version in connection.execute(
        select(tables.slots.c.slot, tables.slots.c.model_name, tables.slots.c.model_version).where(
            tables.slots.c.endpoint == name
        )
    ).all():
        found[slot] = read_model(connection, model_name, version)
    blue, green = (SlotState(slot=slot, model=found.get(slot)) for slot in SLOTS)
    primary: Slot = "blue" if row.primary_slot == "blue" else other_slot("blue")
    return EndpointState(name=name, generation=row.generation, primary=primary, share=row.share, blue=blue, green=green)
