"""Quality without labels: what calibrated scores lead one to expect of AUC, log loss, Brier and accuracy.

Confidence-based performance estimation as NannyML describes it: every row is taken as positive with its calibrated
probability. VALID ONLY WITHOUT CONCEPT DRIFT: where the labels no longer follow the scores as on the reference, it is
blind. Nothing may be rolled back on it alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from runtime.core.errors import ContractError
from runtime.data.counts import NUM_BINS, NUM_CELLS, OVERFLOW, UNDERFLOW, Int64s
from runtime.data.metrics import SCORE_FLOOR, Floats, auc
from runtime.monitoring.calibration import CalibrationMap
from runtime.monitoring.quality_figures import UNKNOWN, Estimate

CAVEAT = "valid only without concept drift"
THRESHOLD = 0.5
"""A score of at least this predicts label 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatedQuality:
    """Intervals hold what labels would give if the calibration still holds; its own error is not in them."""

    num_rows: int
    auc: Estimate
    log_loss: Estimate
    brier: Estimate
    accuracy: Estimate
    expected_rate: float | None
    """Share of label 1."""
    true_positives: float
    false_positives: float
    true_negatives: float
    false_negatives: float
    """Expected rows of each kind at a threshold of 0.5."""


def estimate_quality(counts: Int64s, calibration: CalibrationMap, *, confidence: float = 0.95) -> EstimatedQuality:
    """Expected figures of rows whose scores fell into these [259] cells, see `runtime.data.counts.count_scores`."""
    if counts.shape != (NUM_CELLS,):
        raise ContractError(f"a score histogram has shape ({NUM_CELLS},) but got {counts.shape}")
    n, s = _middles(counts)
    total = float(n.sum())
    if total == 0:
        return EstimatedQuality(
            num_rows=0,
            auc=UNKNOWN,
            log_loss=UNKNOWN,
            brier=UNKNOWN,
            accuracy=UNKNOWN,
            expected_rate=None,
            true_positives=0.0,
            false_positives=0.0,
            true_negatives=0.0,
            false_negatives=0.0,
        )
    p = calibration.apply(s)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    clipped = np.clip(s, SCORE_FLOOR, 1 - SCORE_FLOOR)
    predicts = s >= THRESHOLD

    def expect(if_positive: Floats, if_negative: Floats) -> Estimate:
        """Mean over rows of what each label would give, and how far chance in the labels carries it."""
        value = float(n @ (p * if_positive + (1 - p) * if_negative) / total)
        error = float(np.sqrt(n @ (p * (1 - p) * (if_positive - if_negative) ** 2))) / total
        return Estimate(value=value, low=value - z * error, high=value + z * error)

    return EstimatedQuality(
        num_rows=int(total),
        auc=_expected_auc(n, s, p, z),
        log_loss=expect(-np.log(clipped), -np.log1p(-clipped)),
        brier=expect((s - 1) ** 2, s**2),
        accuracy=expect(predicts.astype(np.float64), (~predicts).astype(np.float64)),
        expected_rate=float(n @ p / total),
        true_positives=float(n[predicts] @ p[predicts]),
        false_positives=float(n[predicts] @ (1 - p[predicts])),
        true_negatives=float(n[~predicts] @ (1 - p[~predicts])),
        false_negatives=float(n[~predicts] @ p[~predicts]),
    )


def _expected_auc(n: Floats, s: Floats, p: Floats, z: float) -> Estimate:
    """Interval by Hanley & McNeil (Radiology 143:29, 1982)."""
    positive, negative = float(n @ p), float(n @ (1 - p))
    if min(positive, negative) < 1:
        return UNKNOWN
    both = np.concatenate([s, s])
    labels = np.repeat([1.0, 0.0], s.size)
    value = auc(labels, both, np.concatenate([n * p, n * (1 - p)]))
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (positive - 1) * (q1 - value**2) + (negative - 1) * (q2 - value**2)
    error = float(np.sqrt(max(variance, 0.0) / (positive * negative)))
    return Estimate(value=value, low=max(value - z * error, 0.0), high=min(value + z * error, 1.0))


def _middles(counts: Int64s) -> tuple[Floats, Floats]:
    """Rows and middle score of each bin that has rows; what lies beyond [0, 1] counts at its end."""
    inner = counts[UNDERFLOW + 1 : OVERFLOW].astype(np.float64)
    inner[0] += counts[UNDERFLOW]
    inner[-1] += counts[OVERFLOW]
    seen = inner > 0
    return inner[seen], ((np.arange(NUM_BINS) + 0.5) / NUM_BINS)[seen]
