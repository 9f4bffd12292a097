"""How good logged predictions were, once their labels came back: payload joined with feedback, by period and version.

Intervals take clusters (or rows, without a cluster column) as independent. It does not know where the tables live.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from runtime.core.errors import ContractError
from runtime.data.metrics import (
    Floats,
    Ints,
    auc,
    auc_influence,
    brier,
    calibration_curve,
    expected_calibration_error,
    log_loss,
    log_losses,
)

ROW_KEY = ["prediction_id", "row"]
PAYLOAD_COLUMNS = (*ROW_KEY, "at", "slot", "model_name", "model_version", "score")
FEEDBACK_COLUMNS = (*ROW_KEY, "label", "received_at")


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with a two-sided interval; None where it is undefined, as the AUC of one class."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """One model version in one slot in one period."""

    period: str
    slot: str
    model_version: str
    num_rows: int
    """Predictions logged."""
    num_labelled: int
    """Of which a label came back; every figure below is of these."""
    auc: Estimate
    log_loss: Estimate
    brier: Estimate
    calibration_gap: Estimate
    """Observed rate minus mean score."""
    calibration_error: float | None
    """Expected calibration error over 15 bins of equal mass; biased upwards with few rows."""
    mean_score: float | None
    observed_rate: float | None
    calibration: tuple[tuple[float, float, int], ...]
    """Mean score, observed rate and rows of each of those bins."""


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
    columns = (periods, *(joined[name] for name in ("slot", "model_name", "model_version")))
    keys = [
        (str(period), slot, f"{name}:{version}")
        for period, slot, name, version in zip(*(column.to_pylist() for column in columns), strict=True)
    ]
    scores = joined["score"].to_numpy()
    labels = joined["label"].cast(pa.float64()).to_numpy()
    clusters = None if cluster_column is None else np.asarray(joined[cluster_column].to_pylist(), dtype=object)
    rows_of: dict[tuple[str, str, str], list[int]] = {}
    for index, key in enumerate(keys):
        rows_of.setdefault(key, []).append(index)
    found = []
    for key, rows in sorted(rows_of.items()):
        labelled = np.array([row for row in rows if not np.isnan(labels[row])], dtype=np.int64)
        numbers = np.arange(labelled.size)
        if clusters is not None:
            _, numbers = np.unique(clusters[labelled].astype(str), return_inverse=True)
        found.append(_measure(key, len(rows), labels[labelled], scores[labelled], numbers, confidence))
    return found


def _measure(
    key: tuple[str, str, str], num_rows: int, y: Floats, s: Floats, clusters: Ints, confidence: float
) -> Quality:
    n = y.size
    has_rows, has_both = n > 0, 0 < y.sum() < n
    losses, squares, gaps = log_losses(y, s), (s - y) ** 2, y - s
    unknown = Estimate(value=None, low=None, high=None)

    def estimate_mean(value: float, of_rows: Floats) -> Estimate:
        return _interval(value, (of_rows - of_rows.mean()) / n, clusters, confidence)

    return Quality(
        period=key[0],
        slot=key[1],
        model_version=key[2],
        num_rows=num_rows,
        num_labelled=n,
        auc=_interval(auc(y, s), auc_influence(y, s), clusters, confidence) if has_both else unknown,
        log_loss=estimate_mean(log_loss(y, s), losses) if has_rows else unknown,
        brier=estimate_mean(brier(y, s), squares) if has_rows else unknown,
        calibration_gap=estimate_mean(float(gaps.mean()), gaps) if has_rows else unknown,
        calibration_error=expected_calibration_error(y, s) if has_rows else None,
        mean_score=float(s.mean()) if has_rows else None,
        observed_rate=float(y.mean()) if has_rows else None,
        calibration=tuple(
            (float(mean), float(rate), int(count)) for mean, rate, count in zip(*calibration_curve(y, s), strict=True)
        ),
    )


def _interval(value: float, influence: Floats, clusters: Ints, confidence: float) -> Estimate:
    """Sandwich interval of the rows' influence summed by cluster, t with one degree less than there are clusters.

    For AUC this is Obuchowski's clustered DeLong variance (Biometrics 53:567, 1997).
    """
    sums = np.bincount(clusters, weights=influence)
    if sums.size < 2:
        return Estimate(value=value, low=None, high=None)
    error = float(np.sqrt((sums**2).sum() * sums.size / (sums.size - 1)))
    reach = float(stats.t.ppf((1 + confidence) / 2, sums.size - 1)) * error
    return Estimate(value=value, low=value - reach, high=value + reach)
