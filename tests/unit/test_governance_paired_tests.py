"""DeLong against its definition and a simulation of the null, McNemar against published figures."""

import numpy as np
import pytest
from scipy import stats

from runtime.data.metrics import Floats, auc
from runtime.governance.paired_tests import delong_test, mcnemar_test


def draw(seed: int, num_rows: int, gain: float) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(num_rows) < 0.3).astype(float)
    shared, own, other = generator.normal(size=(3, num_rows)) / 2**0.5
    return labels, stats.norm.cdf(labels * (1 + gain) + shared + own), stats.norm.cdf(labels + shared + other)


def components(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """DeLong's structural components by comparing every pair: [positives] and [negatives]."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(axis=1), wins.mean(axis=0)


@pytest.mark.parametrize("decimals", [1, 8])
def test_delong_is_its_definition_over_all_pairs(decimals: int) -> None:
    labels, candidate, champion = (np.round(values, decimals) for values in draw(0, 120, 0.3))
    one, other = components(labels, candidate), components(labels, champion)
    variance = 0.0
    for first, second in zip(one, other, strict=True):
        covariance = np.cov(first, second)
        variance += (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / first.size
    result = delong_test(labels, candidate, champion)
    assert result.difference == pytest.approx(one[0].mean() - other[0].mean(), abs=1e-12)
    assert result.standard_error == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(result.difference) / np.sqrt(variance)), rel=1e-6)


def test_delong_differs_by_the_aucs() -> None:
    labels, candidate, champion = draw(1, 400, 0.2)
    difference = auc(labels, candidate) - auc(labels, champion)
    assert delong_test(labels, candidate, champion).difference == pytest.approx(difference)


def test_delong_rejects_a_true_null_at_its_level() -> None:
    rejected = sum(delong_test(*draw(seed, 200, 0.0)).p_value < 0.05 for seed in range(1000))
    low, high = stats.binom.ppf([0.0005, 0.9995], 1000, 0.05)
    assert low <= rejected <= high


def test_delong_against_a_constant() -> None:
    labels, candidate, _ = draw(2, 300, 0.0)
    result = delong_test(labels, candidate, np.full(300, 0.5))
    assert 0 < result.standard_error < 0.1
    assert result.p_value < 1e-6


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (2, 8, 112 / 1024),  # 2 * (1 + 10 + 45) / 2**10
        (0, 6, 2 / 64),
        (5, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_exact_by_hand(wins: int, losses: int, p_value: float) -> None:
    labels = np.ones(wins + losses + 4)
    candidate = np.array([0.9] * wins + [0.1] * losses + [0.9, 0.9, 0.1, 0.1])
    champion = np.array([0.1] * wins + [0.9] * losses + [0.9, 0.9, 0.1, 0.1])
    result = mcnemar_test(labels, candidate, champion)
    assert (result.only_candidate_right, result.only_champion_right) == (wins, losses)
    assert result.p_value == pytest.approx(p_value)
