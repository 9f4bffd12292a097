"""How good scores of a binary classifier are, in plain numpy. One home for training, gate and monitoring.

Labels are 0 or 1, shape [n]; scores are probabilities of 1, shape [n]; weights are not negative, shape [n].
It does not know models, tables or intervals.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.core.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCORE_FLOOR = 1e-7
"""Scores are clipped to [SCORE_FLOOR, 1 - SCORE_FLOOR] before a logarithm: one certain error is not infinite."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve, ties counted half. NaN where only one class has weight."""
    y, s, w = check_scores(labels, scores, weights)
    order = np.argsort(s, kind="stable")
    ends = tie_ends(s[order])
    positive = np.cumsum((w * y)[order])[ends]
    negative = np.cumsum((w * (1 - y))[order])[ends]
    if not positive.size or positive[-1] == 0 or negative[-1] == 0:
        return float("nan")
    gained = np.diff(positive, prepend=0.0)
    below = np.concatenate([[0.0], negative[:-1]])
    return float(gained @ (below + negative) / 2 / (positive[-1] * negative[-1]))


def auc_influence(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """What each row adds to the AUC's error: their sum has the AUC's variance (DeLong's structural components).

    Both classes are needed. Sun & Xu 2014 (IEEE SPL 21:1389) for the way by midranks.
    """
    y, s, _ = check_scores(labels, scores, None)
    is_positive = y == 1
    num_positive = int(is_positive.sum())
    num_negative = y.size - num_positive
    influence = np.empty(y.size)
    below = (midranks(s)[is_positive] - midranks(s[is_positive])) / num_negative
    above = 1 - (midranks(s)[~is_positive] - midranks(s[~is_positive])) / num_positive
    influence[is_positive] = (below - below.mean()) / num_positive
    influence[~is_positive] = (above - above.mean()) / num_negative
    return influence


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean negative log likelihood, nats a row. NaN without rows."""
    y, s, w = check_scores(labels, scores, weights)
    return _mean(log_losses(y, s), w)


def brier(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared distance of score and label. NaN without rows."""
    y, s, w = check_scores(labels, scores, weights)
    return _mean((s - y) ** 2, w)


def log_losses(labels: Floats, scores: Floats) -> Floats:
    """Negative log likelihood of each row, nats."""
    clipped = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    return -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, num_bins: int = 15) -> float:
    """Mean |observed rate - mean score| over bins of equal mass (Nixon et al. 2019, adaptive calibration error).

    Equal scores stay in one bin. NaN without rows.
    """
    mean_scores, observed, counts = calibration_curve(labels, scores, num_bins)
    if not counts.size:
        return float("nan")
    return float(counts @ np.abs(observed - mean_scores) / counts.sum())


def calibration_curve(labels: ArrayLike, scores: ArrayLike, num_bins: int = 15) -> tuple[Floats, Floats, Ints]:
    """Mean score, observed rate and rows of each bin of about equal mass; empty bins are left out."""
    if num_bins < 1:
        raise UsageError(f"num_bins must be at least 1 but got {num_bins}")
    y, s, _ = check_scores(labels, scores, None)
    if not y.size:
        return np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    order = np.argsort(s, kind="stable")
    # A row's bin is that of the first row with its score: where ties fall must not depend on the order of the rows.
    starts = np.flatnonzero(np.diff(s[order], prepend=-np.inf))
    first = np.repeat(starts, np.diff(starts, append=s.size))
    bins = first * num_bins // s.size
    counts = np.bincount(bins, minlength=num_bins)
    kept = counts > 0
    sums = np.bincount(bins, weights=s[order], minlength=num_bins)[kept]
    hits = np.bincount(bins, weights=y[order], minlength=num_bins)[kept]
    return sums / counts[kept], hits / counts[kept], counts[kept].astype(np.int64)


def midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ends = tie_ends(values[order])
    lengths = np.diff(ends, prepend=-1)
    ranks = np.empty(values.size)
    ranks[order] = np.repeat(ends + 1 - (lengths - 1) / 2, lengths)
    return ranks


def tie_ends(ordered: Floats) -> Ints:
    """Position of the last row of each run of equal values in a sorted array."""
    if not ordered.size:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)).astype(np.int64)


def check_scores(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """The three as float64 arrays of one length; UsageError names what is wrong with them."""
    y = np.asarray(labels, dtype=np.float64)
    s = np.asarray(scores, dtype=np.float64)
    w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (y.ndim == s.ndim == w.ndim == 1 and y.size == s.size == w.size):
        raise UsageError(
            f"labels, scores and weights must be flat and of one length but got {y.shape}, {s.shape}, {w.shape}"
        )
    if not np.isin(y, (0.0, 1.0)).all():
        bad = y[~np.isin(y, (0.0, 1.0))][0]
        raise UsageError(f"a label must be 0 or 1 but got {bad:g}; drop the rows without a label first")
    if s.size and not (np.isfinite(s).all() and s.min() >= 0 and s.max() <= 1):
        bad = s[~(np.isfinite(s) & (s >= 0) & (s <= 1))][0]
        raise UsageError(f"a score must be a probability within [0, 1] but got {bad:g}")
    if w.size and not (np.isfinite(w).all() and w.min() >= 0):
        raise UsageError(f"a weight must be finite and not negative but got {w[~(np.isfinite(w) & (w >= 0))][0]:g}")
    return y, s, w


def _mean(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else float("nan")
