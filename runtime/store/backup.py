"""Backup and restore: all that was decided, as lines of JSON, the same from SQLite and from PostgreSQL.

The first line tells the schema's revision, then one line a row, the last one counts and a hash over all before it.
What is only observed (acknowledgements, replicas, the monitor's counts) is left out: it is told or counted anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from sqlalchemy import JSON, Connection, MetaData, Table, create_engine, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from runtime.core.clock import utc_now
from runtime.core.errors import NotFoundError, RefusedError, TealError, UsageError
from runtime.store import schema, tables
from runtime.store.audit import find_breaks, find_drift
from runtime.store.chain import read_head, read_transitions
from runtime.store.endpoints import read_endpoints
from runtime.store.monitor_counts import MONITOR_TABLES
from runtime.store.records import BackupSummary, Head

FORMAT = "teal-backup/1"
OBSERVED = {tables.edge_acks.name, tables.edge_limits.name, tables.replicas.name} | MONITOR_TABLES
BATCH_ROWS = 500


def kept_tables(connection: Connection) -> list[Table]:
    """Those of the database that a backup holds, each after the tables that it refers to.

    They are asked of the database itself, so that no table is left out because nobody imported its definition.
    """
    metadata = MetaData()
    metadata.reflect(connection)
    kept = [table for table in metadata.sorted_tables if table.name not in OBSERVED | {schema.VERSION_TABLE}]
    for column in (column for table in kept for column in table.columns):
        if isinstance(column.type, JSON) and column.nullable:
            column.type = JSON(none_as_null=True)
    return kept


def dump(connection: Connection, path: Path) -> BackupSummary:
    """Write all kept rows that the connection's transaction sees; the file is whole or absent."""
    revision = schema.revision(connection) or schema.head()
    head = read_head(connection)
    faults = audit_faults(connection)
    num_rows: dict[str, int] = {}
    digest = hashlib.sha256()
    with _whole_or_absent(path) as file:

        def write(line: dict[str, Any]) -> None:
            data = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(data)
            file.write(data)

        write({"format": FORMAT, "revision": revision, "at": utc_now(), "head": None if head is None else asdict(head)})
        for table in kept_tables(connection):
            num_rows[table.name] = 0
            for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings():
                write({"table": table.name, "row": dict(row)})
                num_rows[table.name] += 1
        sha256 = digest.hexdigest()
        write({"rows": num_rows, "sha256": sha256})
    return BackupSummary(path=str(path), revision=revision, num_rows=num_rows, head=head, sha256=sha256, faults=faults)


def check(path: Path) -> BackupSummary:
    """Read a backup's first and last line and its hash. UsageError if the file is none or not whole."""
    if not path.is_file():
        raise NotFoundError(f"there is no backup {path}")
    digest = hashlib.sha256()
    first = previous = b""
    with path.open("rb") as file:
        for line in file:
            digest.update(previous)
            first, previous = first or line, line
    try:
        header, trailer = json.loads(first), json.loads(previous)
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
        head = None if header["head"] is None else Head(**header["head"])
        summary = BackupSummary(
            path=str(path),
            revision=str(header["revision"]),
            num_rows={str(name): int(count) for name, count in trailer["rows"].items()},
            head=head,
            sha256=str(trailer["sha256"]),
            faults=[],
            at=str(header["at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a whole backup of teal's control store: {error}") from error
    if digest.hexdigest() != summary.sha256:
        raise UsageError(f"{path} was changed since it was written: its hash is not the one in its last line")
    return summary


@contextmanager
def staged(path: Path, summary: BackupSummary) -> Iterator[Connection]:
    """The backup as a database at this code's revision, with its counts and its audit chain checked."""
    if summary.revision > schema.head():
        raise RefusedError(
            f"{path} has revision {summary.revision}, but this teal knows revisions up to {schema.head()}; "
            "restore it with the newer teal that wrote it"
        )
    with tempfile.TemporaryDirectory(prefix="teal-restore-") as directory:
        engine = create_engine(f"sqlite:///{directory}/staged.db")
        try:
            with engine.begin() as connection:
                schema.migrate(connection, summary.revision)
                found = _load(connection, path)
                if found != summary.num_rows:
                    raise UsageError(f"{path} holds {found} rows, but its last line promises {summary.num_rows}")
                schema.migrate(connection)
            with engine.connect() as connection:
                if faults := audit_faults(connection):
                    raise RefusedError(f"the audit chain in {path} is broken, nothing was restored: {faults[0]}")
                if read_head(connection) != summary.head:
                    raise RefusedError(f"the audit chain in {path} does not end where its first line says")
                yield connection
        finally:
            engine.dispose()


def count_rows(connection: Connection, kept: Sequence[Table]) -> dict[str, int]:
    return {table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in kept}


def replace_rows(source: Connection, target: Connection, kept: Sequence[Table]) -> None:
    """Make the target's kept rows those of the source, which has the same revision."""
    for table in reversed(kept):
        target.execute(delete(table))
    for table in kept:
        rows = source.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        for batch in rows.partitions(BATCH_ROWS):
            target.execute(insert(table), [dict(row) for row in batch])
        _continue_numbering(target, table)


def audit_faults(connection: Connection) -> list[str]:
    rows = read_transitions(connection)
    return [*find_breaks(rows), *find_drift(rows, read_endpoints(connection))]


def _load(connection: Connection, path: Path) -> dict[str, int]:
    """Insert the file's rows as they are; returns how many each table got."""
    kept = {table.name: table for table in kept_tables(connection)}
    found = dict.fromkeys(kept, 0)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            entry = json.loads(line)
            if "row" not in entry:
                continue
            name = entry.get("table")
            if name not in found:
                raise UsageError(f"line {number} of {path} has a row of {name!r}, which is no table of its revision")
            try:
                connection.execute(insert(kept[name]).values(**entry["row"]))
            except SQLAlchemyError as error:
                raise TealError(f"line {number} of {path} does not fit table {name}: {error}") from error
            found[name] += 1
    return found


def _continue_numbering(connection: Connection, table: Table) -> None:
    """PostgreSQL numbers rows from a counter of its own, which rows inserted with their number do not move."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    highest = select(func.coalesce(func.max(column), 0)).scalar_subquery()
    connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, column.name), highest + 1, False)))


@contextmanager
def _whole_or_absent(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
