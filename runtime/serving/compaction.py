"""Many small files of a log into few large ones, so that the log stays quick to open and to search."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, WriterProperties

from runtime.core.errors import NotFoundError
from runtime.serving.delta_log import PARTITION

TARGET_BYTES = 256 * 1024 * 1024
ROW_GROUP_ROWS = 64 * 1024
"""What one look-up reads of a file that is sorted by id."""
KEPT_HOURS = 24
"""How long files that were merged stay, for whoever still reads an older version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compaction:
    num_days: int
    """Days whose files were merged."""
    num_files_before: int
    num_files_after: int
    num_files_deleted: int


def compact(
    uri: str,
    *,
    before: date | None = None,
    target_bytes: int = TARGET_BYTES,
    kept_hours: int = KEPT_HOURS,
) -> Compaction:
    """Merge the files of each day before `before` (today, in UTC), sorted by prediction id, and drop what is unused.

    Days of one file are left alone, so a second run changes nothing. Replicas may append meanwhile: a day is merged
    in one commit, and appends never touch a file that is there. NotFoundError if there is no log.
    """
    if not DeltaTable.is_deltatable(uri):
        raise NotFoundError(f"no payload log at {uri!r}; it starts with the endpoint's first answer")
    before = datetime.now(UTC).date() if before is None else before
    table = DeltaTable(uri)
    num_before = len(table.file_uris())
    days = _days_of_many_files(table, before, target_bytes) if PARTITION in table.metadata().partition_columns else []
    for day in days:
        table.optimize.z_order(
            ["prediction_id"],
            partition_filters=[(PARTITION, "=", day.isoformat())],
            target_size=target_bytes,
            writer_properties=WriterProperties(max_row_group_size=ROW_GROUP_ROWS, compression="ZSTD"),
        )
    if days:
        table.create_checkpoint()
    deleted = table.vacuum(retention_hours=kept_hours, dry_run=False, enforce_retention_duration=False)
    return Compaction(
        num_days=len(days),
        num_files_before=num_before,
        num_files_after=len(DeltaTable(uri).file_uris()),
        num_files_deleted=len(deleted),
    )


def _days_of_many_files(table: DeltaTable, before: date, target_bytes: int) -> list[date]:
    """Days with more than one file that is smaller than half of what a merged one may be."""
    actions = pa.table(table.get_add_actions(flatten=True))
    small = actions.filter(pc.less(actions["size_bytes"], target_bytes // 2))
    counted = small.group_by(f"partition.{PARTITION}").aggregate([("path", "count")]).to_pylist()
    days = [(_as_date(entry[f"partition.{PARTITION}"]), entry["path_count"]) for entry in counted]
    return sorted(day for day, count in days if day < before and count > 1)


def _as_date(value: date | str) -> date:
    return date.fromisoformat(value) if isinstance(value, str) else value
