"""The bootstrap against the definition of a resample, and its error rate where the truth is known."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from runtime.data.metrics import Floats, Ints, auc, brier, log_loss
from runtime.governance import bootstrap
from runtime.governance.bootstrap import expanded_percentiles, resample_improvements


def draw(seed: int, num_rows: int, num_clusters: int) -> tuple[Floats, Floats, Floats, Ints]:
    generator = np.random.default_rng(seed)
    scores = np.round(generator.random((2, num_rows)), 2)
    labels = (generator.random(num_rows) < scores.mean(axis=0)).astype(float)
    clusters = generator.integers(0, num_clusters, num_rows)
    clusters[:num_clusters] = np.arange(num_clusters)
    return labels, scores[0], scores[1], clusters


@pytest.mark.parametrize("num_clusters", [7, 400])
def test_each_resample_is_the_metric_of_the_drawn_rows(num_clusters: int) -> None:
    labels, candidate, champion, clusters = draw(1, 500, num_clusters)
    gains = resample_improvements(labels, candidate, champion, clusters, num_resamples=5, seed=11)
    generator = np.random.default_rng(11)
    for index in range(5):
        drawn = generator.integers(0, num_clusters, num_clusters)
        rows = np.concatenate([np.flatnonzero(clusters == cluster) for cluster in drawn])
        y, a, b = labels[rows], candidate[rows], champion[rows]
        assert gains["auc"][index] == pytest.approx(auc(y, a) - auc(y, b), abs=1e-12)
        assert gains["log_loss"][index] == pytest.approx(log_loss(y, b) - log_loss(y, a), abs=1e-12)
        assert gains["brier"][index] == pytest.approx(brier(y, b) - brier(y, a), abs=1e-12)


def test_both_ways_to_the_auc_agree_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, candidate, champion, clusters = draw(2, 800, 50)
    whole = resample_improvements(labels, candidate, champion, clusters, num_resamples=40, seed=3)
    monkeypatch.setattr(bootstrap, "MATRIX_CLUSTERS", 0)
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", 7 * 800)
    by_rows = resample_improvements(labels, candidate, champion, clusters, num_resamples=40, seed=3)
    for name, values in whole.items():
        np.testing.assert_allclose(values, by_rows[name], atol=1e-12)


def test_a_resample_of_one_class_is_undefined_and_left_out() -> None:
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    gains = resample_improvements(
        labels, np.array([0.9, 0.8, 0.1, 0.2]), np.full(4, 0.5), np.array([0, 0, 1, 1]), num_resamples=64, seed=0
    )
    assert 0 < np.isnan(gains["auc"]).sum() < 64
    assert np.isfinite(gains["log_loss"]).all()
    assert expanded_percentiles(gains["auc"], confidence=0.975, num_clusters=2).lower == pytest.approx(0.5)


def test_expanded_level_is_the_t_interval_for_normal_resamples() -> None:
    resamples = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    interval = expanded_percentiles(resamples, confidence=0.975, num_clusters=31)
    assert interval.lower == pytest.approx(-stats.t.ppf(0.975, 30) * np.sqrt(31 / 30), abs=1e-3)
    wide = expanded_percentiles(resamples, confidence=0.975, num_clusters=10**6)
    assert wide.upper == pytest.approx(1.96, abs=1e-2)


def test_false_passes_at_the_margin_in_a_mean_with_31_correlated_days() -> None:
    """Day effects make the rows of a day dependent; the true loss in Brier score is exactly the margin."""
    passes = sum(passes_brier_gate(generator, margin=0.02) for generator in generators(1500))
    assert passes <= most_false_passes(1500)


def test_taking_rows_of_a_day_as_independent_passes_too_often() -> None:
    passes = sum(passes_brier_gate(generator, margin=0.02, ignore_days=True) for generator in generators(200))
    assert passes > most_false_passes(200)


def test_false_passes_at_the_margin_in_auc_with_31_correlated_days() -> None:
    """Every row comes three times in its day; binormal scores, the candidate's AUC lower by exactly the margin."""
    passes = sum(passes_auc_gate(generator, margin=0.05) for generator in generators(1500))
    assert passes <= most_false_passes(1500)


CONFIDENCE = 0.975
NUM_DAYS = 31


def generators(repetitions: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((20, repetition)) for repetition in range(repetitions))


def most_false_passes(repetitions: int) -> float:
    """What 2.5 % exceed once in a thousand times."""
    return float(stats.binom.isf(0.001, repetitions, 1 - CONFIDENCE))


def passes_brier_gate(generator: np.random.Generator, *, margin: float, ignore_days: bool = False) -> bool:
    # With scores 1/2 and 1/2 + lift the improvement of a row is 2·lift·(y - 1/2) - lift²: the rate sets its mean.
    lift, rows_each = 0.2, 8
    rate = 0.5 + lift / 2 - margin / (2 * lift) + 0.3 * np.sign(generator.normal(size=NUM_DAYS))
    days = np.repeat(np.arange(NUM_DAYS), rows_each)
    labels = (generator.random(days.size) < np.repeat(rate, rows_each)).astype(float)
    champion = np.full(days.size, 0.5)
    clusters = np.arange(days.size) if ignore_days else days
    return lower_bound(generator, "brier", labels, champion + lift, champion, clusters) > -margin


def passes_auc_gate(generator: np.random.Generator, *, margin: float) -> bool:
    separation = 1.2
    lower_separation = stats.norm.ppf(stats.norm.cdf(separation / 2**0.5) - margin) * 2**0.5
    labels = np.tile([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], NUM_DAYS)
    shared, own, other = generator.normal(size=(3, labels.size)) / 2**0.5
    champion = stats.norm.cdf(labels * separation + shared + own)
    candidate = stats.norm.cdf(labels * lower_separation + shared + other)
    days = np.repeat(np.arange(NUM_DAYS), 18)
    labels, candidate, champion = (np.repeat(values, 3) for values in (labels, candidate, champion))
    return lower_bound(generator, "auc", labels, candidate, champion, days) > -margin


def lower_bound(
    generator: np.random.Generator, metric: str, labels: Floats, candidate: Floats, champion: Floats, clusters: Ints
) -> float:
    gains = resample_improvements(
        labels, candidate, champion, clusters, num_resamples=1000, seed=int(generator.integers(2**32))
    )
    return expanded_percentiles(gains[metric], confidence=CONFIDENCE, num_clusters=int(clusters.max()) + 1).lower
