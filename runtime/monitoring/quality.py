"""How good logged predictions were, once their labels came back: payload joined with feedback, by period and version.

Intervals take clusters (or rows, without a cluster column) as independent. It does not know where the tables live.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.core.errors import ContractError
from runtime.monitoring.quality_figures import Estimate, Figures, group_rows, measure, number_clusters

__all__ = ["Estimate", "Quality", "QualityReport", "measure_quality"]

ROW_KEY = ["prediction_id", "row"]
PAYLOAD_COLUMNS = (*ROW_KEY, "at", "slot", "model_name", "model_version", "score")
FEEDBACK_COLUMNS = (*ROW_KEY, "label", "received_at")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality(Figures):
    """One model version in one slot in one period."""

    period: str
    slot: str
    model_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    qualities: tuple[Quality, ...]
    num_predictions: int
    num_repeated_predictions: int
    """Rows of the log that were there before, by prediction id and row."""
    num_labels: int
    num_repeated_labels: int
    """The same label again; counted once."""
    num_revised: int
    """Rows whose label changed; the one received last counts."""
    num_conflicting: int
    """Rows with different labels received at the same moment; left out."""
    num_unknown: int
    """Labels of rows that were never logged."""
    num_late: int
    """Labels that came more than `late_after` after the prediction; they count all the same."""
    confidence: float
    is_clustered: bool


def measure_quality(
    payload: pa.Table,
    feedback: pa.Table,
    *,
    period_column: str | None = None,
    cluster_column: str | None = None,
    late_after: timedelta = timedelta(days=7),
    confidence: float = 0.95,
) -> QualityReport:
    """Quality by period, slot and model version, in that order.

    A period is the value of `period_column`, by default the month of arrival. ContractError names a column that is
    missing.
    """
    extra = [name for name in (period_column, cluster_column) if name is not None]
    _check_columns("payload", payload, (*PAYLOAD_COLUMNS, *extra))
    _check_columns("feedback", feedback, FEEDBACK_COLUMNS)
    predictions = _first_of_each(payload)
    labels, num_repeated, num_revised, num_conflicting = _settle(feedback)
    num_unknown = labels.join(predictions.select(ROW_KEY), ROW_KEY, join_type="left anti").num_rows
    joined = predictions.join(labels, ROW_KEY, join_type="left outer")
    delays = pc.subtract(joined["received_at"], joined["at"].cast(joined["received_at"].type))
    limit = pa.scalar(late_after).cast(delays.type)
    num_late = pc.sum(pc.fill_null(pc.greater(delays, limit), False)).as_py() or 0
    return QualityReport(
        qualities=tuple(_by_group(joined, period_column, cluster_column, confidence)),
        num_predictions=predictions.num_rows,
        num_repeated_predictions=payload.num_rows - predictions.num_rows,
        num_labels=feedback.num_rows,
        num_repeated_labels=num_repeated,
        num_revised=num_revised,
        num_conflicting=num_conflicting,
        num_unknown=num_unknown,
        num_late=num_late,
        confidence=confidence,
        is_clustered=cluster_column is not None,
    )


def _check_columns(name: str, table: pa.Table, needed: tuple[str, ...]) -> None:
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise ContractError(f"the {name} table lacks {missing}; it has {table.column_names}")


def _first_of_each(payload: pa.Table) -> pa.Table:
    """One row of each (prediction id, row): the log may hold one twice after a retried write."""
    numbered = payload.append_column("_position", pa.array(np.arange(payload.num_rows)))
    first = numbered.group_by(ROW_KEY).aggregate([("_position", "min")])["_position_min"]
    return payload.take(first)


def _settle(feedback: pa.Table) -> tuple[pa.Table, int, int, int]:
    """One label of each row: the last received. Returns also repeats, revisions, and rows left out as conflicting."""
    distinct = feedback.group_by([*ROW_KEY, "label"]).aggregate([("received_at", "max")])
    num_repeated = feedback.num_rows - distinct.num_rows
    newest = distinct.group_by(ROW_KEY).aggregate([("received_at_max", "max"), ("label", "count")])
    joined = distinct.join(newest, ROW_KEY)
    kept = joined.filter(pc.equal(joined["received_at_max"], joined["received_at_max_max"]))
    ambiguous = kept.group_by(ROW_KEY).aggregate([("label", "min"), ("label", "max"), ("received_at_max", "min")])
    is_settled = pc.equal(ambiguous["label_min"], ambiguous["label_max"])
    settled = ambiguous.filter(is_settled)
    num_conflicting = ambiguous.num_rows - settled.num_rows
    num_revised = pc.sum(pc.greater(newest["label_count"], 1)).as_py() or 0
    table = pa.table(
        {
            **{name: settled[name] for name in ROW_KEY},
            "label": settled["label_min"],
            "received_at": settled["received_at_max_min"],
        }
    )
    return table, num_repeated, num_revised - num_conflicting, num_conflicting


def _by_group(
    joined: pa.Table, period_column: str | None, cluster_column: str | None, confidence: float
) -> list[Quality]:
    periods = pc.strftime(joined["at"], format="%Y-%m") if period_column is None else joined[period_column]
    scores = joined["score"].to_numpy()
    labels = joined["label"].cast(pa.float64()).to_numpy()
    clusters = None if cluster_column is None else number_clusters(joined[cluster_column])
    found = []
    for (period, slot, name, version), rows in group_rows(
        [periods, joined["slot"], joined["model_name"], joined["model_version"]]
    ):
        figures = measure(labels[rows], scores[rows], None if clusters is None else clusters[rows], confidence)
        found.append(
            Quality(
                period=str(period),
                slot=slot,
                model_version=f"{name}:{version}",
                **{field: getattr(figures, field) for field in Figures.__slots__},
            )
        )
    return found
