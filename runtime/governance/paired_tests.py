"""Two classical tests of a pair of models on the same rows: DeLong for AUC, McNemar for decisions.

Both take rows as independent. Where rows come in clusters their p values are too small: they are reported beside the
clustered bootstrap and decide nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from runtime.data.metrics import Floats, auc, auc_influence


@dataclass(frozen=True, kw_only=True, slots=True)
class DeLong:
    """Null: both AUCs are equal. Asymptotic in both classes."""

    difference: float
    """AUC of the candidate minus that of the champion."""
    standard_error: float
    p_value: float
    """Two-sided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """Null: a row on which exactly one of the two is right is as likely to be either's. Exact binomial."""

    threshold: float
    """Scores at or above it are decided 1."""
    only_candidate_right: int
    only_champion_right: int
    p_value: float
    """Two-sided."""


def delong_test(labels: Floats, candidate: Floats, champion: Floats) -> DeLong:
    """DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), of probabilities.

    Both classes need at least two rows.
    """
    difference = auc(labels, candidate) - auc(labels, champion)
    influence = auc_influence(labels, candidate) - auc_influence(labels, champion)
    variance = 0.0
    for label in (0, 1):
        of_class = influence[labels == label]
        variance += float(of_class @ of_class) * of_class.size / (of_class.size - 1)
    error = float(np.sqrt(variance))
    if error == 0:
        return DeLong(difference=difference, standard_error=0.0, p_value=1.0 if difference == 0 else 0.0)
    return DeLong(
        difference=difference, standard_error=error, p_value=float(2 * stats.norm.sf(abs(difference) / error))
    )


def mcnemar_test(labels: Floats, candidate: Floats, champion: Floats, *, threshold: float = 0.5) -> McNemar:
    """McNemar 1947, in its exact form."""
    candidate_right = (candidate >= threshold) == (labels == 1)
    champion_right = (champion >= threshold) == (labels == 1)
    wins = int((candidate_right & ~champion_right).sum())
    losses = int((~candidate_right & champion_right).sum())
    p_value = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return McNemar(threshold=threshold, only_candidate_right=wins, only_champion_right=losses, p_value=p_value)
