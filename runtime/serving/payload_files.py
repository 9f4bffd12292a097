"""Which files of a log can hold a value, by the statistics in its Delta log, and only those read."""

from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from runtime.data.parquet import check_plain_file


def read_files(uri: str, *, column: str, value: str) -> pa.Table:
    """Rows where `column` is `value`, of the newest version. ContractError where a file holds an extension type."""
    table = DeltaTable(uri)
    schema = pa.schema(table.schema().to_arrow())
    paths = [
        str(Path(table.table_uri.removeprefix("file://")) / name) for name in _files_that_may_hold(table, column, value)
    ]
    for path in paths:
        check_plain_file(Path(path))
    partitions = pa.schema([schema.field(name) for name in table.metadata().partition_columns])
    partitioning = ds.partitioning(partitions, flavor="hive") if len(partitions) else None
    files = ds.dataset(paths, schema=schema, format="parquet", partitioning=partitioning)
    return files.to_table(filter=ds.field(column) == value)


def _files_that_may_hold(table: DeltaTable, column: str, value: str) -> list[str]:
    actions = pa.table(table.get_add_actions(flatten=True))
    may_hold = pa.array([True] * actions.num_rows)
    for name, compare in ((f"min.{column}", pc.less_equal), (f"max.{column}", pc.greater_equal)):
        if name in actions.column_names:  # a file without statistics may hold anything
            bound = actions.column(name).cast(pa.string())
            may_hold = pc.and_(may_hold, pc.fill_null(compare(bound, pa.scalar(value, pa.string())), True))
    return [unquote(path) for path in actions.filter(may_hold).column("path").to_pylist()]
