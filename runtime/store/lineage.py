"""What was built from what: data versions, model versions, aliases, gate decisions, results of steps."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select

from runtime.core.clock import utc_now
from runtime.core.errors import NotFoundError
from runtime.store import tables
from runtime.store.database import Database, retried, upsert
from runtime.store.records import DataVersion, GateRecord, ModelVersion


class LineageStore(Database):
    """Facts that are added and never change; recording one again changes nothing."""

    @retried
    def record_data_version(self, version: DataVersion) -> None:
        """Remember a committed table version. Recording the same one again changes nothing."""
        with self._write() as connection:
            values = {name: getattr(version, name) for name in DataVersion.__slots__}
            values["table_name"] = values.pop("table")
            key = {name: values.pop(name) for name in ("table_name", "version")}
            upsert(connection, tables.data_versions, key, values)

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

    @retried
    def record_model_version(self, model: ModelVersion) -> None:
        """Remember a registered model version. Recording the same one again changes nothing."""
        with self._write() as connection:
            values = {name: getattr(model, name) for name in ModelVersion.__slots__}
            key = {name: values.pop(name) for name in ("name", "version")}
            upsert(connection, tables.model_versions, key, values)

    def model_version(self, name: str, version: int | None = None) -> ModelVersion:
        """A model version, by default the newest. NotFoundError if there is none."""
        with self._read() as connection:
            return read_model(connection, name, version)

    def model_versions(self, name: str | None = None) -> list[ModelVersion]:
        columns = tables.model_versions.c
        query = select(tables.model_versions).order_by(columns.name, columns.version)
        if name is not None:
            query = query.where(columns.name == name)
        with self._read() as connection:
            return [ModelVersion(**row) for row in connection.execute(query).mappings()]

    @retried
    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        with self._write() as connection:
            read_model(connection, model_name, version)
            upsert(connection, tables.aliases, dict(model_name=model_name, alias=alias), dict(version=version))

    def alias(self, model_name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points to, None if it points to none."""
        columns = tables.aliases.c
        query = select(columns.version).where(columns.model_name == model_name, columns.alias == alias)
        with self._read() as connection:
            version = connection.execute(query).scalar()
            return None if version is None else read_model(connection, model_name, version)

    @retried
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

    @retried
    def record_step(self, key: str, name: str, outputs: Mapping[str, Any]) -> None:
        with self._write() as connection:
            upsert(connection, tables.steps, dict(key=key), dict(name=name, outputs=dict(outputs), at=utc_now()))


def read_model(connection: Connection, name: str, version: int | None) -> ModelVersion:
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
