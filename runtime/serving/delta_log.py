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
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from runtime.data.delta import check_plain_schema

logger = logging.getLogger(__name__)

MAX_BUFFERED_ROWS = 100_000
APPEND_ATTEMPTS = 10
PARTITION = "at_day"
"""A table that begins with this column is kept in one folder for each of its values."""
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
        max_rows: int = MAX_BUFFERED_ROWS,
    ) -> None:
        self.uri = uri
        self._build = build
        self._appender = Appender(uri)
        self._flush_s = flush_s
        self._max_rows = max_rows
        self._batches: deque[tuple[Batch, int]] = deque()
        self._buffered_rows = 0
        self._dropped_rows = 0
        self._written_rows = 0
        self._failures = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"log of {uri}", daemon=True)
        self._thread.start()

    def add(self, batch: Batch, num_rows: int) -> bool:
        """Buffer a batch; False if it was dropped because the buffer is full. Never waits for the disk."""
        with self._lock:
            if self._buffered_rows + num_rows > self._max_rows:
                self._dropped_rows += num_rows
                return False
            self._buffered_rows += num_rows
            self._batches.append((batch, num_rows))
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
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.wait(self._flush_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            held = list(self._batches)
        if not held:
            return
        rows = sum(num_rows for _, num_rows in held)
        try:
            table = self._build([batch for batch, _ in held])
        except Exception:
            logger.exception("%d rows cannot be written to %s and are dropped", rows, self.uri)
            self._forget(len(held), rows, is_written=False)
            return
        try:
            self._appender.append(table)
        except Exception:
            # The batches stay: the disk may be full now and not later. A full buffer drops what comes new.
            logger.exception("cannot append %d rows to %s", rows, self.uri)
            with self._lock:
                self._failures += 1
            return
        self._forget(len(held), rows, is_written=True)

    def _forget(self, num_batches: int, rows: int, *, is_written: bool) -> None:
        with self._lock:
            for _ in range(num_batches):
                self._batches.popleft()
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

    def append(self, rows: pa.Table) -> None:
        """One commit, with columns that are new to the table; makes the table if there is none.

        Two writers may both find no table, or commit at once: whoever comes second tries again.
        """
        check_plain_schema(rows.schema)
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
                    commit_properties=properties,
                )
            except DeltaError:
                self._table = None
                if attempt == APPEND_ATTEMPTS - 1:
                    raise
            else:
                return


def append(uri: str, rows: pa.Table) -> None:
    """One append, see Appender."""
    Appender(uri).append(rows)
