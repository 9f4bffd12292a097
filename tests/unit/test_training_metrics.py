import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from runtime.training.metrics import evaluate

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@given(rows)
def test_agrees_with_scikit_learn_ties_included(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs]) / 20
    metrics = evaluate(labels, scores)
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    assert metrics["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    assert metrics["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, clipped))
    assert metrics["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(labels, scores))
    assert 0 <= metrics["expected_calibration_error"] <= 1
    assert metrics["num_rows"] == len(pairs)
    assert metrics["positive_rate"] == pytest.approx(labels.mean())


def test_no_rows_give_nan() -> None:
    metrics = evaluate([], [])
    assert metrics.pop("num_rows") == 0
    assert all(math.isnan(value) for value in metrics.values())
