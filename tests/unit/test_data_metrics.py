"""The metrics against scikit-learn, and against their definitions where it has none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn import metrics as oracle

from runtime.core.errors import UsageError
from runtime.data.metrics import (
    SCORE_FLOOR,
    Floats,
    auc,
    brier,
    calibration_curve,
    expected_calibration_error,
    log_loss,
    midranks,
)


def draw(seed: int, num_rows: int, levels: int) -> tuple[Floats, Floats, Floats]:
    """Labels of both classes, scores with ties, weights with zeros."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels + 1, num_rows) / levels
    labels = (generator.random(num_rows) < 0.2 + 0.6 * scores).astype(np.float64)
    labels[:2] = (0.0, 1.0)
    weights = generator.poisson(1.0, num_rows).astype(np.float64)
    weights[:2] = 1.0
    return labels, scores, weights


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(2, 400), levels=st.sampled_from([1, 3, 50, 10**6]))
def test_agree_with_scikit_learn(seed: int, num_rows: int, levels: int) -> None:
    labels, scores, weights = draw(seed, num_rows, levels)
    clipped = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    for sample_weight in (None, weights):
        expected = oracle.roc_auc_score(labels, scores, sample_weight=sample_weight)
        assert auc(labels, scores, sample_weight) == pytest.approx(expected, abs=1e-12)
        expected = oracle.log_loss(labels, clipped, sample_weight=sample_weight, labels=[0, 1])
        assert log_loss(labels, scores, sample_weight) == pytest.approx(expected, rel=1e-9)
        expected = oracle.brier_score_loss(labels, scores, sample_weight=sample_weight)
        assert brier(labels, scores, sample_weight) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_weight_is_a_repetition(seed: int) -> None:
    labels, scores, weights = draw(seed, 60, 5)
    repeats = weights.astype(int)
    assert auc(labels, scores, weights) == pytest.approx(auc(np.repeat(labels, repeats), np.repeat(scores, repeats)))


@given(values=st.lists(st.integers(-3, 3), max_size=40))
def test_midranks_are_scipys(values: list[int]) -> None:
    array = np.array(values, dtype=np.float64)
    assert midranks(array).tolist() == rankdata(array).tolist()


def test_calibration_error_is_the_gap_where_scores_are_constant() -> None:
    labels = np.array([1.0] * 30 + [0.0] * 70)
    assert expected_calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0.2)


def test_calibration_error_of_calibrated_scores_is_small() -> None:
    generator = np.random.default_rng(3)
    scores = generator.random(60_000)
    labels = (generator.random(60_000) < scores).astype(float)
    assert expected_calibration_error(labels, scores) < 0.01
    assert expected_calibration_error(labels, scores**2) > 0.1


def test_calibration_bins_have_equal_mass_and_ignore_row_order() -> None:
    generator = np.random.default_rng(4)
    scores = np.round(generator.random(3000), 2)
    labels = (generator.random(3000) < scores).astype(float)
    _, _, counts = calibration_curve(labels, generator.permutation(np.arange(3000) / 3000), num_bins=15)
    assert counts.tolist() == [200] * 15
    order = generator.permutation(3000)
    assert expected_calibration_error(labels, scores) == pytest.approx(
        expected_calibration_error(labels[order], scores[order]), abs=1e-12
    )


def test_one_class_and_no_rows_have_no_figure() -> None:
    assert np.isnan(auc([1, 1], [0.2, 0.4]))
    assert np.isnan(log_loss([], []))
    assert np.isnan(expected_calibration_error([], []))


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([0, 2], [0.1, 0.2], None, "label must be 0 or 1 but got 2"),
        ([0, float("nan")], [0.1, 0.2], None, "label must be 0 or 1 but got nan"),
        ([0, 1], [0.1, 1.2], None, r"within \[0, 1\] but got 1.2"),
        ([0, 1], [0.1, float("nan")], None, "but got nan"),
        ([0, 1], [0.1], None, "one length"),
        ([0, 1], [0.1, 0.2], [1, -1], "weight must be finite and not negative but got -1"),
    ],
)
def test_bad_input_is_named(labels: object, scores: object, weights: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        auc(labels, scores, weights)  # type: ignore[arg-type]
