"""The control store: every change is one transaction with its audit row, and only if nobody changed first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError

from runtime.core.clock import utc_now
from runtime.core.errors import ConflictError, NotFoundError, RefusedError, UnreachableError, UsageError
from runtime.store import tables
from runtime.store.audit import GENESIS, chain_hash
from runtime.store.records import (
    FULL_SHARE,
    SLOTS,
    DataVersion,
    EndpointState,
    GateRecord,
    ModelVersion,
    Slot,
    SlotState,
    Transition,
    other_slot,
)

BUSY_TIMEOUT_S = 10


class ControlStore:
    """Desired state, audit chain, lineage. Safe to open in many processes at once.

    Methods that change an endpoint take `expected_generation`; a different one in the database raises ConflictError
    and changes nothing. Without it the change is made to whatever is there now.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _create_engine(url)

    def create_schema(self) -> None:
        """Make the tables that are missing. Idempotent."""
        with self._write() as connection:
            tables.metadata.create_all(connection)

    def close(self) -> None:
        self._engine.dispose()

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
            _upsert(
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
                _upsert(connection, tables.edge_acks, key, values)

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

    # -- data and models -------------------------------------------------------------------------------------------

    def record_data_version(self, version: DataVersion) -> None:
        """Remember a committed table version. Recording the same one again changes nothing."""
        with self._write() as connection:
            values = {name: getattr(version, name) for name in DataVersion.__slots__}
            values["table_name"] = values.pop("table")
            key = {name: values.pop(name) for name in ("table_name", "version")}
            _upsert(connection, tables.data_versions, key, values)

    def data_version(self, table: str, version: int | None = None) -> DataVersion:
        """A version of a table, by default its newest. NotFoundError if there is none."""
        columns = tables.data_versions.c
        query = select(tables.data_versions).where(columns.table_name == table).order_by(columns.version.desc())
        if version is not None:
            query = query.where(columns.version == version)
        with self._read() as connection:
            row = connection.execute(query.limit(1)).mappings().first()
        if row is None:
            wanted = table if version is None else f"{table}@{version}"
            raise NotFoundError(f"no data version {wanted!r}; `teal prepare` makes one")
        return _data_version(row)

    def data_versions(self) -> list[DataVersion]:
        columns = tables.data_versions.c
        with self._read() as connection:
            rows = connection.execute(select(tables.data_versions).order_by(columns.table_name, columns.version))
            return [_data_version(row) for row in rows.mappings()]

    def record_model_version(self, model: ModelVersion) -> None:
        """Remember a registered model version. Recording the same one again changes nothing."""
        with self._write() as connection:
            values = {name: getattr(model, name) for name in ModelVersion.__slots__}
            key = {name: values.pop(name) for name in ("name", "version")}
            _upsert(connection, tables.model_versions, key, values)

    def model_version(self, name: str, version: int | None = None) -> ModelVersion:
        """A model version, by default the newest. NotFoundError if there is none."""
        with self._read() as connection:
            return _read_model(connection, name, version)

    def model_versions(self, name: str | None = None) -> list[ModelVersion]:
        columns = tables.model_versions.c
        query = select(tables.model_versions).order_by(columns.name, columns.version)
        if name is not None:
            query = query.where(columns.name == name)
        with self._read() as connection:
            return [ModelVersion(**row) for row in connection.execute(query).mappings()]

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        with self._write() as connection:
            _read_model(connection, model_name, version)
            _upsert(connection, tables.aliases, dict(model_name=model_name, alias=alias), dict(version=version))

    def alias(self, model_name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points to, None if it points to none."""
        columns = tables.aliases.c
        query = select(columns.version).where(columns.model_name == model_name, columns.alias == alias)
        with self._read() as connection:
            version = connection.execute(query).scalar()
            return None if version is None else _read_model(connection, model_name, version)

    # -- gates and steps -------------------------------------------------------------------------------------------

    def record_gate(self, record: GateRecord) -> None:
        with self._write() as connection:
            connection.execute(
                insert(tables.gates).values(**{name: getattr(record, name) for name in GateRecord.__slots__})
            )

    def gates(self, *, holdout: str | None = None, candidate: str | None = None) -> list[GateRecord]:
        """Past gate decisions in order, those on one holdout or of one candidate."""
        table = tables.gates
        query = select(*(table.c[name] for name in GateRecord.__slots__)).order_by(table.c.id)
        if holdout is not None:
            query = query.where(table.c.holdout == holdout)
        if candidate is not None:
            query = query.where(table.c.candidate == candidate)
        with self._read() as connection:
            return [GateRecord(**row) for row in connection.execute(query).mappings()]

    def step_outputs(self, key: str) -> dict[str, Any] | None:
        """What the step with these inputs gave before, None if it has not run."""
        with self._read() as connection:
            return connection.execute(select(tables.steps.c.outputs).where(tables.steps.c.key == key)).scalar()

    def record_step(self, key: str, name: str, outputs: Mapping[str, Any]) -> None:
        with self._write() as connection:
            _upsert(connection, tables.steps, dict(key=key), dict(name=name, outputs=dict(outputs), at=utc_now()))

    # -- connections -----------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection
        except OperationalError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise self._unreachable(error) from error
        except IntegrityError as error:
            raise ConflictError(f"somebody else changed the same row of the control store: {error.orig}") from error

    def _unreachable(self, error: OperationalError) -> UnreachableError:
        shown = make_url(self.url).render_as_string(hide_password=True)
        return UnreachableError(f"control store {shown} does not answer: {error.orig}; run `teal up` first")


def _create_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin on its own: see begin()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads before it writes fails at once where another has written since.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


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
        found[slot] = _read_model(connection, model_name, version)
    blue, green = (SlotState(slot=slot, model=found.get(slot)) for slot in SLOTS)
    primary: Slot = "blue" if row.primary_slot == "blue" else other_slot("blue")
    return EndpointState(name=name, generation=row.generation, primary=primary, share=row.share, blue=blue, green=green)


def _read_model(connection: Connection, name: str, version: int | None) -> ModelVersion:
    columns = tables.model_versions.c
    query = select(tables.model_versions).where(columns.name == name).order_by(columns.version.desc())
    if version is not None:
        query = query.where(columns.version == version)
    row = connection.execute(query.limit(1)).mappings().first()
    if row is None:
        last = connection.execute(select(func.max(columns.version)).where(columns.name == name)).scalar()
        known = f"its newest version is {last}" if last else "`teal model list` shows what is registered"
        wanted = name if version is None else f"{name}:{version}"
        raise NotFoundError(f"no model version {wanted!r}; {known}")
    return ModelVersion(**row)


def _data_version(row: Any) -> DataVersion:
    values = dict(row)
    values["table"] = values.pop("table_name")
    return DataVersion(**values)


def _upsert(connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
