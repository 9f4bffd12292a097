"""Predictions joined with labels as they come: late ones, repeated ones, ones that contradict. Pure.

A row is known by its prediction id and its number in the request. It does not know files or versions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.data.metrics import Ints

ROW_KEY = ("prediction_id", "row")
MOMENT = pa.timestamp("us", tz="UTC")
LABEL_COLUMNS = (*ROW_KEY, "label", "received_at")
LABEL_SCHEMA = pa.schema(
    [("prediction_id", pa.string()), ("row", pa.int32()), ("label", pa.int8()), ("received_at", MOMENT)]
)
UUID_BYTES = 36
_TIME_PLACES = [*range(8), *range(9, 13)]
_VERSION_PLACE = 14
_HEX = np.full(256, -1, dtype=np.int64)
for _value, _digit in enumerate("0123456789abcdef"):
    _HEX[[ord(_digit), ord(_digit.upper())]] = _value


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    rows: pa.Table
    """The predictions with `label` and `received_at`, null where none came."""
    fresh: pa.Table
    """Those that got their first label now."""
    unknown: pa.Table
    """Labels of rows that are not there."""
    num_repeated: int
    """The label that the row had already."""
    num_conflicting: int
    """Another label than the row had."""
    num_late: int


def join_labels(rows: pa.Table, labels: pa.Table, policy: Literal["first", "last"], late_after_s: float) -> Joined:
    """Apply labels in the order they came. `rows` hold each key once."""
    labels = labels.sort_by("received_at")
    row_of = _places(labels, rows)
    is_known = row_of >= 0
    unknown, labels = labels.filter(pa.array(~is_known)), labels.filter(pa.array(is_known))
    row_of = row_of[is_known]
    order = np.argsort(row_of, kind="stable")
    row_of = row_of[order]
    given = np.asarray(labels["label"], dtype=np.int64)[order]
    received = np.asarray(labels["received_at"].cast(pa.int64()), dtype=np.int64)[order]
    held = np.asarray(rows["label"].fill_null(-1), dtype=np.int64)
    is_first = np.diff(row_of, prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1
    had = held[row_of]
    anchor = np.where(had >= 0, had, given[starts][group] if given.size else given)
    before = np.where(is_first, had, anchor if policy == "first" else np.roll(given, 1))
    is_repeated = before == given
    is_conflicting = (before >= 0) & ~is_repeated
    is_fresh = is_first & (had < 0)
    settled = is_fresh if policy == "first" else ~is_repeated
    new_label = held.copy()
    new_received = np.asarray(rows["received_at"].cast(pa.int64()).fill_null(0), dtype=np.int64).copy()
    new_label[row_of[settled]], new_received[row_of[settled]] = given[settled], received[settled]
    after = _with_labels(rows, new_label, new_received)
    delay_us = received - np.asarray(rows["at"].cast(pa.int64()), dtype=np.int64)[row_of]
    return Joined(
        rows=after,
        fresh=after.take(pa.array(row_of[is_fresh])),
        unknown=unknown,
        num_repeated=int(is_repeated.sum()),
        num_conflicting=int(is_conflicting.sum()),
        num_late=int((is_fresh & (delay_us > late_after_s * 1e6)).sum()),
    )


def add_predictions(rows: pa.Table | None, logged: pa.Table) -> tuple[pa.Table, int]:
    """The rows with newly logged ones, without labels yet; and how many were there before."""
    numbered = logged.append_column("_position", pa.array(np.arange(logged.num_rows)))
    first = numbered.group_by(list(ROW_KEY)).aggregate([("_position", "min")])["_position_min"]
    distinct = logged.take(first.combine_chunks().sort())
    empty = np.full(distinct.num_rows, -1)
    fresh = _with_labels(distinct, empty, empty)
    if rows is not None:
        is_new = _places(fresh, rows) < 0
        fresh = pa.concat_tables([rows, fresh.filter(pa.array(is_new))], promote_options="permissive")
    num_before = 0 if rows is None else rows.num_rows
    return fresh, logged.num_rows - (fresh.num_rows - num_before)


def as_labels(tables: Iterable[pa.Table]) -> pa.Table:
    """Rows of LABEL_SCHEMA."""
    return pa.concat_tables(
        [LABEL_SCHEMA.empty_table(), *(table.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA) for table in tables)]
    )


def made_ms(prediction_ids: pa.ChunkedArray, otherwise: pa.ChunkedArray) -> Ints:
    """Milliseconds since 1970 that the ids were made at; for an id that tells no time those of `otherwise`."""
    encoded = prediction_ids.combine_chunks().dictionary_encode()
    fallback = np.asarray(otherwise.cast(pa.int64()), dtype=np.int64) // 1000
    if not len(encoded):
        return fallback
    found = _id_ms(encoded.dictionary)[np.asarray(encoded.indices, dtype=np.int64)]
    return np.where(found >= 0, found, fallback)


def _id_ms(texts: pa.Array) -> Ints:
    """Of each uuid7 (see `runtime.core.ids`), -1 for other texts; all at once, as there are as many as requests."""
    stamps = np.full(len(texts), -1, dtype=np.int64)
    has_length = np.asarray(pc.equal(pc.binary_length(texts), UUID_BYTES))
    letters = "".join(texts.filter(pa.array(has_length)).to_pylist()).encode()
    if not letters or len(letters) % UUID_BYTES:
        return stamps
    table = np.frombuffer(letters, dtype=np.uint8).reshape(-1, UUID_BYTES)
    digits = _HEX[table[:, _TIME_PLACES]]
    is_id = (digits >= 0).all(axis=1) & (table[:, _VERSION_PLACE] == ord("7"))
    stamps[has_length] = np.where(is_id, digits @ (16 ** np.arange(len(_TIME_PLACES), dtype=np.int64)[::-1]), -1)
    return stamps


def _places(few: pa.Table, rows: pa.Table) -> Ints:
    """For each of a few keys the row that has it, -1 where none does. Costs memory by the few, not by the rows."""
    is_near = pc.is_in(rows["prediction_id"], value_set=pc.unique(few["prediction_id"]))
    near = np.flatnonzero(np.asarray(is_near))
    if not near.size:
        return np.full(few.num_rows, -1, dtype=np.int64)
    found = pc.index_in(_keys(few), value_set=_keys(rows.select(ROW_KEY).take(pa.array(near))).combine_chunks())
    at = np.asarray(found.fill_null(-1), dtype=np.int64)
    return np.where(at >= 0, near[at], -1)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["prediction_id"], table["row"].cast(pa.string()), "/")


def _with_labels(table: pa.Table, labels: Ints, received: Ints) -> pa.Table:
    missing = labels < 0
    kept = table.drop_columns([name for name in ("label", "received_at") if name in table.column_names])
    return kept.append_column("label", pa.array(labels.astype(np.int8), pa.int8(), mask=missing)).append_column(
        "received_at", pa.array(received.astype(np.int64), pa.int64(), mask=missing).cast(MOMENT)
    )
