"""Training-serving skew: do the first rows that a new version is served look like those it was trained on?

Null hypothesis: the rows are independent draws from the reference, up to the margin. Per feature the bet is a mixture
over all distributions near the reference (Dirichlet-multinomial), so that it needs no earlier ticks; the mean over
features is a test martingale, and reaches 1 / LEVEL with probability LEVEL at most (Ville), however often it is looked
at. What it finds is a difference, of the season or of the code that makes the features; the features say which.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import gammaln

from runtime.data.counts import Float64s

LEVEL = 0.01
CONCENTRATIONS = (20.0, 200.0)
"""How near the reference the bets are, as rows: few are far."""


def skew_evidence(
    counts: Mapping[str, Float64s], reference: Mapping[str, Float64s], margins: Mapping[str, float]
) -> dict[str, float]:
    """Feature to the natural log of its evidence, for cell counts of all rows so far."""
    found = {}
    for name, seen in counts.items():
        shares, rows = reference[name], float(seen.sum())
        bets = []
        for concentration in CONCENTRATIONS:
            prior = concentration * shares
            log_bet = (
                gammaln(concentration) - gammaln(concentration + rows) + (gammaln(prior + seen) - gammaln(prior)).sum()
            )
            bets.append(float(log_bet))
        null = float((seen * np.log(shares)).sum())
        found[name] = float(np.logaddexp.reduce(bets)) - math.log(len(bets)) - null - rows * math.log1p(margins[name])
    return found


def skewed_features(evidence: Mapping[str, float]) -> list[str]:
    """Those whose own evidence alone reaches the level, strongest first. Empty where all together do not."""
    if not evidence or float(np.logaddexp.reduce(list(evidence.values()))) < math.log(len(evidence) / LEVEL):
        return []
    least = math.log(len(evidence) / LEVEL)
    ordered = sorted(evidence, key=lambda name: -evidence[name])
    return [name for name in ordered if evidence[name] >= least] or ordered[:1]
