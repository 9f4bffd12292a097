"""Delta tables of plain Arrow types: read a version, commit files in one step. Knows nothing of Ray or contracts."""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from runtime.core.errors import ConfigError, ConflictError, ContractError, NotFoundError
from runtime.data.parquet import check_plain_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PLAIN = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_date,
)
BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A written Parquet file that no commit names yet."""

    path: str
    """Relative to the table."""
    size_bytes: int
    num_rows: int
    stats: str
    """Delta's statistics as JSON."""
    sha256: str


def table_uri(warehouse: str, name: str) -> str:
    """ConfigError for a name that is no plain folder name, or a warehouse that is no local path."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"table name {name!r} must be letters, digits, '_', '-' and '.', and start with no '_'")
    if "://" in warehouse and not warehouse.startswith("file://"):
        raise ConfigError(f"warehouse {warehouse!r} must be a local path; object stores are not supported yet")
    return str(Path(warehouse.removeprefix("file://")).absolute() / name)


def newest_version(uri: str) -> int | None:
    """The newest committed version, None where there is no table."""
    return DeltaTable(uri).version() if DeltaTable.is_deltatable(uri) else None


def history(uri: str) -> list[dict[str, Any]]:
    """Commits, newest first, with their custom metadata. Empty where there is no table."""
    return DeltaTable(uri).history() if DeltaTable.is_deltatable(uri) else []


def read_table(
    uri: str,
    version: int | None,
    columns: Sequence[str] | None = None,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    time_column: str | None = None,
) -> pa.Table:
    """Rows of a version (None: the newest) in the order of its files, `since` <= time < `until`.

    NotFoundError if there is no such version or column, ContractError where a file holds an extension type.
    """
    dataset, row_filter = _rows(uri, version, columns, since, until, time_column)
    return dataset.to_table(columns=list(columns) if columns is not None else None, filter=row_filter)


def read_batches(
    uri: str,
    version: int | None,
    columns: Sequence[str],
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    time_column: str | None = None,
) -> Iterator[pa.Table]:
    """As `read_table`, some ten thousand rows at a time, for what need not hold all of them."""
    dataset, row_filter = _rows(uri, version, columns, since, until, time_column)
    batches = dataset.to_batches(columns=list(columns), filter=row_filter, batch_size=BATCH_ROWS, batch_readahead=1)
    for batch in batches:
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _rows(
    uri: str,
    version: int | None,
    columns: Sequence[str] | None,
    since: str | datetime | None,
    until: str | datetime | None,
    time_column: str | None,
) -> tuple[ds.Dataset, ds.Expression | None]:
    table = _open(uri, version)
    for file in table.file_uris():
        check_plain_file(Path(file.removeprefix("file://")))
    known = [field.name for field in table.schema().fields]
    for name in [*(columns or ()), *([time_column] if time_column else ())]:
        if name not in known:
            raise NotFoundError(f"table {uri!r} has no column {name!r}; it has {known}")
    row_filter = None
    for text, is_since in ((since, True), (until, False)):
        if text is None:
            continue
        if time_column is None:
            raise ContractError(f"since and until need a column with role time, which table {uri!r} lacks")
        moment = ds.scalar(parse_moment(text))
        field = ds.field(time_column)
        bound = field >= moment if is_since else field < moment
        row_filter = bound if row_filter is None else row_filter & bound
    return table.to_pyarrow_dataset(), row_filter


def commit_overwrite(uri: str, files: Sequence[DataFile], schema: pa.Schema, metadata: Mapping[str, str]) -> int:
    """Replace the table's content and schema by `files` in one commit; returns its version.

    Hold `table_lock`. ConflictError if somebody committed in between all the same; nothing is changed then.
    """
    check_plain_schema(schema)
    before = newest_version(uri)
    adds = [
        AddAction(file.path, file.size_bytes, {}, _modification_ms(Path(uri) / file.path), True, file.stats)
        for file in files
    ]
    properties = CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0)
    try:
        create_table_with_add_actions(
            uri,
            Schema.from_arrow(schema),
            adds,
            mode="error" if before is None else "overwrite",
            commit_properties=properties,
        )
    except (CommitFailedError, DeltaError) as error:
        if newest_version(uri) != before:
            raise ConflictError(f"somebody else wrote to table {uri!r} first: {error}; run it again") from error
        raise
    return 0 if before is None else before + 1


def check_plain_schema(schema: pa.Schema) -> None:
    """ContractError for nested, extension and other types that are not plain, and for timestamps outside UTC."""
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise ContractError(f"column {field.name!r} has extension type {field.type}; only plain types are stored")
        if pa.types.is_timestamp(field.type):
            if field.type.tz != "UTC":
                raise ContractError(f"column {field.name!r} must be a timestamp in UTC but is {field.type}")
        elif not any(is_plain(field.type) for is_plain in _PLAIN):
            raise ContractError(f"column {field.name!r} has type {field.type}; only plain types are stored")


@contextmanager
def table_lock(uri: str) -> Iterator[None]:
    """One writer of whole versions at a time on this machine; released when its process dies."""
    path = Path(uri).parent / f".{Path(uri).name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def parse_moment(text: str | datetime) -> datetime:
    """An ISO 8601 text as a moment in UTC; without an offset it is UTC. ConfigError if it is none."""
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no moment; write it as 2013-01-31 or 2013-01-31T12:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _open(uri: str, version: int | None) -> DeltaTable:
    newest = newest_version(uri)
    if newest is None:
        raise NotFoundError(f"no table at {uri!r}; `teal prepare` makes one")
    if version is not None and not 0 <= version <= newest:
        raise NotFoundError(f"table {uri!r} has no version {version}; its newest is {newest}")
    return DeltaTable(uri, version=version)


def _modification_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000
