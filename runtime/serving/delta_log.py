"""Rows written behind the answers' back: buffered, appended to a Delta table by a thread of their own.

Logging never slows or fails an answer. What waits in the buffer is lost if the process is killed; what does not fit
is dropped and counted.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa
from deltalake import ColumnProperties, CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError

from runtime.data.delta import check_plain_schema

logger = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 128 * 1024 * 1024
ROW_BYTES = 1024
"""What a row that is held as objects is taken to need."""
EARLY_SHARE = 0.25
"""A buffer this full is written at once."""
APPEND_ATTEMPTS = 10
OPEN_COMMITS = 100
"""After which a table is opened anew, as many as lie between two checkpoints: what it holds of each of its own commits
makes the next one slower, and is never given back."""
PARTITION = "at_day"
"""A table that begins with this column is kept in one folder for each of its values."""
ID_COLUMN = "prediction_id"
CLOSE_TIMEOUT_S = 10.0

Batch = TypeVar("Batch")


class DeltaLog(Generic[Batch]):
    """Takes batches from one thread, appends what came each `flush_s` as one commit."""

    def __init__(
        self,
        uri: str,
        build: Callable[[Sequence[Batch]], pa.Table],
        *,
        flush_s: float,
        max_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self.uri = uri
        self._build = build
        self._appender = Appender(uri)
        self._flush_s = flush_s
        self._max_bytes = max_bytes
        self._early_bytes = max_bytes * EARLY_SHARE
        self._batches: deque[tuple[Batch, int, int]] = deque()
        self._buffered_rows = 0
        self._buffered_bytes = 0
        self._dropped_rows = 0
        self._written_rows = 0
        self._failures = 0
        self._closing = threading.Event()
        self._waking = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"log of {uri}", daemon=True)
        self._thread.start()

    def add(self, batch: Batch, num_rows: int, num_bytes: int | None = None) -> bool:
        """Buffer a batch; False if it was dropped because the buffer is full. Never waits for the disk.

        `num_bytes` is what it holds in memory, by default that of so many rows as objects.
        """
        if num_bytes is None:
            num_bytes = num_rows * ROW_BYTES
        with self._lock:
            if self._buffered_bytes + num_bytes > self._max_bytes:
                self._dropped_rows += num_rows
                return False
            self._buffered_rows += num_rows
            self._buffered_bytes += num_bytes
            self._batches.append((batch, num_rows, num_bytes))
            is_early = self._buffered_bytes >= self._early_bytes
        if is_early and not self._waking.is_set():
            self._waking.set()
        return True

    def status(self) -> dict[str, int]:
        with self._lock:
            return {
                "buffered_rows": self._buffered_rows,
                "written_rows": self._written_rows,
                "dropped_rows": self._dropped_rows,
                "failures": self._failures,
            }

    def close(self) -> None:
        """Write what is buffered and end the thread."""
        self._closing.set()
        self._waking.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._waking.wait(self._flush_s)
            self._waking.clear()
            if not self._flush():
                # What waits is no less the next time, so without this a full disk would be asked without pause.
                self._closing.wait(self._flush_s)
        self._flush()

    def _flush(self) -> bool:
        """False if the rows are still to be written."""
        with self._lock:
            held = list(self._batches)
        if not held:
            return True
        rows = sum(num_rows for _, num_rows, _ in held)
        try:
            table = self._build([batch for batch, _, _ in held])
        except Exception:
            logger.exception("%d rows cannot be written to %s and are dropped", rows, self.uri)
            self._forget(len(held), rows, is_written=False)
            return True
        try:
            self._appender.append(table)
        except Exception:
            # The batches stay: the disk may be full now and not later. A full buffer drops what comes new.
            logger.exception("cannot append %d rows to %s", rows, self.uri)
            with self._lock:
                self._failures += 1
            return False
        self._forget(len(held), rows, is_written=True)
        return True

    def _forget(self, num_batches: int, rows: int, *, is_written: bool) -> None:
        with self._lock:
            for _ in range(num_batches):
                self._buffered_bytes -= self._batches.popleft()[2]
            self._buffered_rows -= rows
            if is_written:
                self._written_rows += rows
            else:
                self._dropped_rows += rows
                self._failures += 1


class Appender:
    """Appends to one table, kept open: reading its log anew costs more than the rows. For one thread."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._table: DeltaTable | None = None
        self._num_commits = 0

    def append(self, rows: pa.Table) -> None:
        """One commit, with columns that are new to the table; makes the table if there is none.

        Columns may be dictionaries, which are stored as the values they stand for. Two writers may both find no table,
        or commit at once: whoever comes second tries again.
        """
        check_plain_schema(_stored_schema(rows.schema))
        properties = CommitProperties(max_commit_retries=APPEND_ATTEMPTS)
        for attempt in range(APPEND_ATTEMPTS):
            try:
                if self._table is None and DeltaTable.is_deltatable(self._uri):
                    self._table = DeltaTable(self._uri)
                is_new = self._table is None
                write_deltalake(
                    self._uri if self._table is None else self._table,
                    rows,
                    mode="append",
                    schema_mode="merge",
                    partition_by=[PARTITION] if is_new and PARTITION in rows.column_names else None,
                    configuration=_table_settings(rows.schema) if is_new else None,
                    commit_properties=properties,
                    writer_properties=_writer_properties(rows.schema),
                )
            except DeltaError:
                self._table = None
                if attempt == APPEND_ATTEMPTS - 1:
                    raise
            else:
                self._num_commits += 1
                if self._num_commits % OPEN_COMMITS == 0:
                    self._table = None
                return


def _stored_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema]
    )


def _writer_properties(schema: pa.Schema) -> WriterProperties:
    """Without dictionaries of measured numbers, which seldom repeat: to look costs more than all else of a column."""
    numbers = [field.name for field in _stored_schema(schema) if pa.types.is_floating(field.type)]
    return WriterProperties(
        compression="SNAPPY",
        column_properties={name: ColumnProperties(dictionary_enabled=False) for name in numbers},
    )


def _table_settings(schema: pa.Schema) -> dict[str, str | None]:
    """Readers seek by id and time only, and statistics are a pass over each other column."""
    stored = _stored_schema(schema)
    sought = [field.name for field in stored if field.name == ID_COLUMN or pa.types.is_timestamp(field.type)]
    return {"delta.dataSkippingStatsColumns": ",".join(sought)} if sought else {}


def append(uri: str, rows: pa.Table) -> None:
    """One append, see Appender."""
    Appender(uri).append(rows)
