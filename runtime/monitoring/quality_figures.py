"""Figures of labelled rows with their intervals, for any grouping. It does not know where rows come from.

Intervals take clusters (or rows, without a cluster column) as independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with a two-sided interval; None where it is undefined, as the AUC of one class."""

    value: float | None
    low: float | None
    high: float | None


UNKNOWN = Estimate(value=None, low=None, high=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one group of rows shows."""

    num_rows: int
    """Predictions logged."""
    num_labelled: int
    """Of which a label came back; every figure below is of these, or of an even sample of very many."""
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


def group_rows(columns: Sequence[pa.ChunkedArray]) -> list[tuple[tuple[Any, ...], Ints]]:
    """The distinct values of the columns together, in their order, each with the positions of its rows."""
    num_rows = len(columns[0])
    codes = np.zeros(num_rows, dtype=np.int64)
    for column in columns:
        _, codes = np.unique(codes * (num_rows + 1) + _codes(column), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    parts = np.split(order, starts[1:]) if num_rows else []
    found = [(tuple(column[int(part[0])].as_py() for column in columns), part) for part in parts]
    return sorted(found, key=lambda item: tuple(str(value) for value in item[0]))


def number_clusters(column: pa.ChunkedArray) -> Ints:
    """The rows' clusters as numbers from 0; a missing value is a cluster too."""
    _, numbers = np.unique(_codes(column), return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


def measure(labels: Floats, scores: Floats, clusters: Ints | None, confidence: float) -> Figures:
    """`labels` are NaN where none came back, shape [n] as the others."""
    is_labelled = ~np.isnan(labels)
    y, s = labels[is_labelled], scores[is_labelled]
    n = y.size
    numbers = np.arange(n)
    if clusters is not None:
        _, numbers = np.unique(clusters[is_labelled], return_inverse=True)
    has_both = 0 < y.sum() < n
    losses, squares, gaps = log_losses(y, s), (s - y) ** 2, y - s

    def estimate_mean(value: float, of_rows: Floats) -> Estimate:
        return sandwich(value, (of_rows - of_rows.mean()) / n, numbers, confidence) if n else UNKNOWN

    return Figures(
        num_rows=labels.size,
        num_labelled=n,
        auc=sandwich(auc(y, s), auc_influence(y, s), numbers, confidence) if has_both else UNKNOWN,
        log_loss=estimate_mean(log_loss(y, s), losses),
        brier=estimate_mean(brier(y, s), squares),
        calibration_gap=estimate_mean(float(gaps.mean()) if n else 0.0, gaps),
        calibration_error=expected_calibration_error(y, s) if n else None,
        mean_score=float(s.mean()) if n else None,
        observed_rate=float(y.mean()) if n else None,
        calibration=tuple(
            (float(mean), float(rate), int(count)) for mean, rate, count in zip(*calibration_curve(y, s), strict=True)
        ),
    )


def sandwich(value: float, influence: Floats, clusters: Ints, confidence: float) -> Estimate:
    """Interval of the rows' influence summed by cluster, t with one degree less than there are clusters.

    For AUC this is Obuchowski's clustered DeLong variance (Biometrics 53:567, 1997).
    """
    sums = np.bincount(clusters, weights=influence)
    if sums.size < 2:
        return Estimate(value=value, low=None, high=None)
    error = float(np.sqrt((sums**2).sum() * sums.size / (sums.size - 1)))
    reach = float(stats.t.ppf((1 + confidence) / 2, sums.size - 1)) * error
    return Estimate(value=value, low=value - reach, high=value + reach)


def _codes(column: pa.ChunkedArray) -> Ints:
    """One number for each distinct value, 0 for a missing one."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1), dtype=np.int64) + 1
