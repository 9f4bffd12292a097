"""A Ray Data sink that checks rows against a contract and writes them beside a Delta table. It commits nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink
from ray.data.block import BlockAccessor

from runtime.config.schema import DataConfig
from runtime.core.errors import ContractError
from runtime.data.conform import conform
from runtime.data.contract import Violation, label_name, rejection_reasons, split_valid, time_name
from runtime.data.delta import DataFile, parse_moment
from runtime.data.fingerprint import Fingerprint, fingerprint_table
from runtime.data.parquet import delta_statistics, write_parquet

REASON_COLUMN = "_reason"


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenPart:
    """What one write task did with its rows."""

    task: int
    file: DataFile | None
    """None where no row was left."""
    rejected_file: str | None
    """Path of the rejected rows, relative to the table."""
    num_built: int
    num_outside: int
    """Rows outside since and until."""
    num_unlabelled: int
    num_rejected: int
    violations: tuple[Violation, ...]
    dropped_columns: tuple[str, ...]
    fingerprint: Fingerprint
    fault: str | None = None
    """A contract broken as a whole. Returned, not raised: Ray would wrap it in a traceback and try again."""


class TableDatasink(Datasink[WrittenPart]):
    """Writes each task's rows to `<table>/part-<stem>-<task>.parquet`; after the write `parts` holds what was done."""

    def __init__(self, *, uri: str, stem: str, config: DataConfig) -> None:
        self.parts: list[WrittenPart] = []
        self._uri = uri
        self._stem = stem
        self._config = config

    def write(self, blocks: Iterable[Any], ctx: Any) -> WrittenPart:
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return _empty_part(ctx.task_idx)
        try:
            return self._write_table(pa.concat_tables(tables), ctx.task_idx)
        except ContractError as error:
            return _empty_part(ctx.task_idx, fault=str(error))
        except pa.ArrowInvalid as error:
            return _empty_part(ctx.task_idx, fault=f"the builder's blocks do not fit together: {error}")

    def on_write_complete(self, write_result: Any) -> None:
        self.parts = sorted(write_result.write_returns, key=lambda part: part.task)

    def _write_table(self, built: pa.Table, task: int) -> WrittenPart:
        columns = self._config.columns
        table, dropped = conform(built, columns)
        inside = _within(table, self._config)
        labelled = inside.filter(pc.is_valid(inside.column(label_name(columns))))
        valid, violations, mask = split_valid(labelled, columns)
        rejected_file = None
        if violations:
            rejected = labelled.filter(pa.array(~mask))
            reasons = pa.array(rejection_reasons(rejected, columns), pa.string())
            rejected_file = f"_rejected/{self._stem}/part-{task:05d}.parquet"
            write_parquet(Path(self._uri) / rejected_file, rejected.append_column(REASON_COLUMN, reasons))
        return WrittenPart(
            task=task,
            file=self._write_file(valid, task) if valid.num_rows else None,
            rejected_file=rejected_file,
            num_built=built.num_rows,
            num_outside=built.num_rows - inside.num_rows,
            num_unlabelled=inside.num_rows - labelled.num_rows,
            num_rejected=labelled.num_rows - valid.num_rows,
            violations=tuple(violations),
            dropped_columns=tuple(dropped),
            fingerprint=fingerprint_table(valid),
        )

    def _write_file(self, table: pa.Table, task: int) -> DataFile:
        name = f"part-{self._stem}-{task:05d}.parquet"
        path = Path(self._uri) / name
        digest = write_parquet(path, table)
        # Statistics outlive an erasure in the log, so personal columns get none.
        personal = frozenset(name for name, column in self._config.columns.items() if column.pii)
        return DataFile(
            path=name,
            size_bytes=path.stat().st_size,
            num_rows=table.num_rows,
            stats=delta_statistics(table, without=personal),
            sha256=digest,
        )


def _within(table: pa.Table, config: DataConfig) -> pa.Table:
    """Rows with since <= time < until. A row without a time stays, for the contract to judge."""
    column = time_name(config.columns)
    if column is None:
        return table
    times = table.column(column)
    for text, is_inside in ((config.since, pc.greater_equal), (config.until, pc.less)):
        if text is not None:
            keep = is_inside(times, pa.scalar(parse_moment(text), times.type))
            table = table.filter(pc.fill_null(keep, True))
            times = table.column(column)
    return table


def _empty_part(task: int, fault: str | None = None) -> WrittenPart:
    return WrittenPart(
        task=task,
        file=None,
        rejected_file=None,
        num_built=0,
        num_outside=0,
        num_unlabelled=0,
        num_rejected=0,
        violations=(),
        dropped_columns=(),
        fingerprint=Fingerprint(),
        fault=fault,
    )
