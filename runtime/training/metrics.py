"""One model's quality on labelled rows; the metrics are the data room's, shared with gate and monitoring."""

import numpy as np
from numpy.typing import ArrayLike

from runtime.data.metrics import auc, brier, expected_calibration_error, log_loss

__all__ = ["auc", "brier", "evaluate", "expected_calibration_error", "log_loss"]


def evaluate(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Every metric by name, with the number of rows and their positive rate."""
    y = np.asarray(labels, dtype=np.float64)
    return {
        "auc": auc(y, scores),
        "log_loss": log_loss(y, scores),
        "brier": brier(y, scores),
        "expected_calibration_error": expected_calibration_error(y, scores),
        "num_rows": float(y.size),
        "positive_rate": float(y.mean()) if y.size else float("nan"),
    }
