"""Endpoints: every change is one transaction with its audit row, and only if nobody changed first."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UsageError
from runtime.store import tables
from runtime.store.chain import AuditStore, append_transition
from runtime.store.database import retried, upsert
from runtime.store.leases import check_fencing
from runtime.store.lineage import read_model
from runtime.store.records import (
    FULL_SHARE,
    SLOTS,
    EndpointState,
    Fencing,
    ModelVersion,
    Slot,
    SlotState,
    other_slot,
)


class EndpointStore(AuditStore):
    """Desired state.

    Methods that change an endpoint take `expected_generation`; a different one in the database raises ConflictError
    and changes nothing. Without it the change is made to whatever is there now. `fencing` is the lease under which the
    change is made; ConflictError if another has taken it since.
    """

    def endpoint(self, name: str) -> EndpointState:
        """The endpoint's desired state. NotFoundError names those that exist."""
        with self._read() as connection:
            return read_endpoint(connection, name)

    def endpoints(self) -> list[EndpointState]:
        with self._read() as connection:
            return read_endpoints(connection)

    def generations(self) -> dict[str, int]:
        """Each endpoint's generation, in one cheap query: what a poller asks to learn whether anything changed."""
        with self._read() as connection:
            rows = connection.execute(select(tables.endpoints.c.name, tables.endpoints.c.generation))
            return {row.name: row.generation for row in rows}

    @retried
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
        fencing: Fencing | None = None,
    ) -> EndpointState:
        """Put a model version into a slot that gets no traffic, by default the canary's.

        The first assignment creates the endpoint with that slot as primary. RefusedError if the slot has traffic.
        """
        with self._write() as connection:
            check_fencing(connection, fencing)
            row = connection.execute(select(tables.endpoints).where(tables.endpoints.c.name == endpoint)).first()
            if row is None:
                slot = slot or "blue"
                connection.execute(
                    insert(tables.endpoints).values(name=endpoint, generation=0, primary_slot=slot, share=0)
                )
                generation = 0
            else:
                state = read_endpoint(connection, endpoint)
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
            detail |= _fenced(fencing)
            expected = _expected(expected_generation, generation)
            _advance(connection, endpoint, expected, actor, "assign", detail, forced=forced)
            return read_endpoint(connection, endpoint)

    @retried
    def set_share(
        self,
        endpoint: str,
        share: int,
        *,
        actor: str,
        action: str = "shift",
        reason: str = "",
        rollout: str | None = None,
        expected_generation: int | None = None,
        fencing: Fencing | None = None,
    ) -> EndpointState:
        """Give the canary `share` basis points; `rollout`: whose step it is. RefusedError if its slot is empty."""
        if not 0 <= share <= FULL_SHARE:
            raise UsageError(f"a share must be within 0..100 % but got {share / 100:g} %")
        with self._write() as connection:
            check_fencing(connection, fencing)
            state = read_endpoint(connection, endpoint)
            if share and state.slot(state.canary).model is None:
                raise RefusedError(f"slot {state.canary} of {endpoint!r} holds no model; deploy one before shifting")
            detail: dict[str, Any] = {"from": state.share, "to": share, "canary": state.canary, "reason": reason}
            if rollout is not None:
                detail["rollout"] = rollout
            expected = _expected(expected_generation, state.generation)
            _advance(connection, endpoint, expected, actor, action, detail | _fenced(fencing), share=share)
            return read_endpoint(connection, endpoint)

    @retried
    def promote(
        self, endpoint: str, *, actor: str, expected_generation: int | None = None, fencing: Fencing | None = None
    ) -> EndpointState:
        """Make the canary the primary. It must have all traffic already, so that no request moves."""
        with self._write() as connection:
            check_fencing(connection, fencing)
            state = read_endpoint(connection, endpoint)
            if state.share != FULL_SHARE:
                raise RefusedError(
                    f"the canary of {endpoint!r} has {state.share / 100:g} % of the traffic; shift it to 100 % first"
                )
            expected = _expected(expected_generation, state.generation)
            detail = {"primary": state.canary} | _fenced(fencing)
            _advance(connection, endpoint, expected, actor, "promote", detail, share=0, primary_slot=state.canary)
            return read_endpoint(connection, endpoint)


def _expected(asked: int | None, found: int) -> int:
    return found if asked is None else asked


def _fenced(fencing: Fencing | None) -> dict[str, Any]:
    """What the audit row says of the lease under which its change was made."""
    return {} if fencing is None else {"lease": list(fencing)}


def _advance(
    connection: Connection,
    endpoint: str,
    expected_generation: int,
    actor: str,
    action: str,
    detail: dict[str, Any],
    *,
    forced: bool = False,
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
    append_transition(
        connection,
        endpoint,
        actor=actor,
        action=action,
        detail=detail,
        generation=expected_generation + 1,
        forced=forced,
    )


def read_endpoints(connection: Connection) -> list[EndpointState]:
    """Every endpoint, ordered by name, in two queries however many there are."""
    found: dict[str, dict[str, ModelVersion]] = {}
    models = tables.model_versions
    is_its_model = (models.c.name == tables.slots.c.model_name) & (models.c.version == tables.slots.c.model_version)
    for row in connection.execute(select(tables.slots, models).join(models, is_its_model, isouter=True)).mappings():
        if row["name"] is None:
            read_model(connection, row["model_name"], row["model_version"])  # says that there is none
        of_model = {name: row[name] for name in ModelVersion.__slots__}
        found.setdefault(row["endpoint"], {})[row["slot"]] = ModelVersion(**of_model)
    rows = connection.execute(select(tables.endpoints).order_by(tables.endpoints.c.name))
    return [_endpoint(row, found.get(row.name, {})) for row in rows]


def read_endpoint(connection: Connection, name: str) -> EndpointState:
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
    return _endpoint(row, found)


def _endpoint(row: Row[Any], models: Mapping[str, ModelVersion]) -> EndpointState:
    blue, green = (SlotState(slot=slot, model=models.get(slot)) for slot in SLOTS)
    primary: Slot = "blue" if row.primary_slot == "blue" else other_slot("blue")
    return EndpointState(
        name=row.name, generation=row.generation, primary=primary, share=row.share, blue=blue, green=green
    )
