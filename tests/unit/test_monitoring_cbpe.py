"""Calibration against scikit-learn, and estimates without labels against the labels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from runtime.core.errors import ContractError, UsageError
from runtime.data.counts import NUM_CELLS, count_scores
from runtime.data.metrics import brier, log_loss
from runtime.monitoring.calibration import CalibrationMap, fit_calibration
from runtime.monitoring.cbpe import estimate_quality
from runtime.monitoring.quality_figures import Estimate

IDENTITY = CalibrationMap(scores=(0.0, 1.0), probabilities=(0.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60),
    asked=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_the_map_is_that_of_scikit_learn(rows: list[tuple[int, bool]], asked: list[float]) -> None:
    scores = np.array([score / 12 for score, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    ours = fit_calibration(labels, scores)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    np.testing.assert_allclose(ours.apply(asked), theirs.predict(asked), atol=1e-9)
    np.testing.assert_allclose(ours.apply(scores), theirs.predict(scores), atol=1e-9)


def test_a_map_is_small_and_goes_through_json() -> None:
    generator = np.random.default_rng(0)
    scores = generator.beta(2, 3, 30_000)
    found = fit_calibration((generator.random(30_000) < scores).astype(float), scores)
    text = json.dumps(found.to_json())
    assert len(text) < 20_000
    assert CalibrationMap.from_json(json.loads(text)) == found


def test_a_broken_map_is_refused() -> None:
    with pytest.raises(UsageError, match="needs labelled rows"):
        fit_calibration([], [])
    with pytest.raises(ContractError, match="must not fall"):
        CalibrationMap(scores=(0.0, 1.0), probabilities=(0.5, 0.2))
    with pytest.raises(ContractError, match="as many probabilities as scores"):
        CalibrationMap.from_json({"scores": [0.1], "probabilities": []})
    with pytest.raises(ContractError, match="not a calibration map"):
        CalibrationMap.from_json({"scores": [0.1]})


def test_estimates_hold_the_truth_where_scores_are_calibrated() -> None:
    """200 draws; each interval of 95 % must hold its figure in at least as many as chance allows."""
    held = {"auc": 0, "log_loss": 0, "brier": 0, "accuracy": 0}
    repetitions = 200
    for seed in range(repetitions):
        generator = np.random.default_rng((7, seed))
        scores = generator.beta(1.5, 4, 2_000)
        labels = (generator.random(2_000) < scores).astype(float)
        estimated = estimate_quality(count_scores(scores)[0], IDENTITY)
        truth = {
            "auc": roc_auc_score(labels, scores),
            "log_loss": log_loss(labels, scores),
            "brier": brier(labels, scores),
            "accuracy": float(((scores >= 0.5) == labels).mean()),
        }
        for name, value in truth.items():
            found: Estimate = getattr(estimated, name)
            assert found.low is not None
            assert found.high is not None
            held[name] += found.low <= value <= found.high
        kinds = (
            estimated.true_positives + estimated.false_positives + estimated.true_negatives + estimated.false_negatives
        )
        assert kinds == pytest.approx(2_000)
    assert min(held.values()) >= stats.binom.ppf(0.001, repetitions, 0.95)


def test_a_badly_calibrated_model_is_estimated_right_through_its_map() -> None:
    generator = np.random.default_rng(3)
    true = generator.beta(2, 3, 40_000)
    labels = (generator.random(40_000) < true).astype(float)
    scores = true**3
    half = 20_000
    calibration = fit_calibration(labels[:half], scores[:half])
    cells = count_scores(scores[half:])[0]
    through = estimate_quality(cells, calibration)
    naive = estimate_quality(cells, IDENTITY)
    truth = log_loss(labels[half:], scores[half:])
    assert through.log_loss.value == pytest.approx(truth, rel=0.03)
    assert naive.log_loss.value != pytest.approx(truth, rel=0.3)
    assert through.auc.value == pytest.approx(roc_auc_score(labels[half:], scores[half:]), abs=0.015)
    assert through.expected_rate == pytest.approx(labels.mean(), abs=0.01)


def test_it_is_blind_to_concept_drift_as_it_says() -> None:
    generator = np.random.default_rng(4)
    scores = generator.beta(2, 3, 20_000)
    labels = (generator.random(20_000) < 1 - scores).astype(float)
    estimated = estimate_quality(count_scores(scores)[0], IDENTITY)
    assert estimated.auc.low is not None
    assert estimated.auc.low > 0.65
    assert roc_auc_score(labels, scores) < 0.35


def test_without_rows_or_with_one_class_nothing_is_claimed() -> None:
    none = estimate_quality(np.zeros(NUM_CELLS, dtype=np.int64), IDENTITY)
    assert (none.num_rows, none.auc.value, none.expected_rate) == (0, None, None)
    certain = CalibrationMap(scores=(0.5,), probabilities=(0.0,))
    assert estimate_quality(count_scores(np.full(100, 0.3))[0], certain).auc.value is None
    with pytest.raises(ContractError, match="score histogram"):
        estimate_quality(np.zeros(10, dtype=np.int64), IDENTITY)
