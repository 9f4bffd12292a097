"""What a Delta table got since a version that was read before: only the files that are new since then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from runtime.data.delta import BATCH_ROWS
from runtime.data.parquet import check_plain_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    version: int | None
    """The newest version, None where there is no table."""
    is_whole: bool
    """True if the rows are all of the table: what was read before does not count any more."""
    rows: ds.Dataset | None = None
    """Those that are new since then; None where none are."""
    columns: tuple[str, ...] = ()

    def tables(self) -> Iterator[pa.Table]:
        """The new rows in the order of their files, some ten thousand at a time however small the files are."""
        if self.rows is None:
            return
        gathered: list[pa.RecordBatch] = []
        batches = self.rows.to_batches(
            columns=list(self.columns), batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1
        )
        for batch in batches:
            gathered.append(batch)
            if sum(one.num_rows for one in gathered) >= BATCH_ROWS:
                yield pa.Table.from_batches(gathered)
                gathered = []
        if gathered:
            yield pa.Table.from_batches(gathered)


def read_changes(uri: str, since: int | None, columns: Sequence[str]) -> Changes:
    """Rows of the files that version `since` did not have; columns that the table lacks are left out.

    All of the table where `since` is None or cannot be read any more, and where files of it were removed since, as by
    an erasure or a compaction.
    """
    if not DeltaTable.is_deltatable(uri):
        return Changes(version=None, is_whole=True)
    table = DeltaTable(uri)
    newest = table.version()
    files = table.file_uris()
    before = _files_at(uri, since, newest)
    is_whole = before is None or not before <= set(files)
    fresh = sorted(files if before is None or is_whole else set(files) - before)
    if not fresh:
        return Changes(version=newest, is_whole=is_whole)
    for path in fresh:
        check_plain_file(Path(path.removeprefix("file://")))
    schema = pa.schema(table.schema().to_arrow())
    rows = ds.dataset([path.removeprefix("file://") for path in fresh], schema=schema, format="parquet")
    wanted = tuple(name for name in columns if name in schema.names)
    return Changes(version=newest, is_whole=is_whole, rows=rows, columns=wanted)


def _files_at(uri: str, version: int | None, newest: int) -> set[str] | None:
    if version is None or version > newest:
        return None
    try:
        return set(DeltaTable(uri, version=version).file_uris())
    except DeltaError:
        return None  # its log was cleaned up
