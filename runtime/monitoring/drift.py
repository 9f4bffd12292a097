"""How far live counts are from the reference, a feature at a time: PSI, Jensen-Shannon, Wasserstein.

These are effect sizes. None is a test, none has a false alarm rate: with few rows PSI is large without any drift, which
is why `psi_without_drift` stands beside it. It knows neither slots nor time.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.counts import MISSING, NUM_BINS, Counts, Float64s, Int64s
from runtime.data.profile import Profile

NUM_FOLDED = 20
MIN_CATEGORY_SHARE = 0.005
"""Categories rarer than this in the reference are compared as one."""
PSEUDO_COUNT = 0.5
SCORE = "score"

Kind = Literal["numeric", "categorical", "score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDrift:
    """One feature's distance from the reference."""

    feature: str
    kind: Kind
    psi: float
    """Population stability index, nats: Kullback-Leibler both ways."""
    psi_without_drift: float
    """What sampling alone gives on average with this many rows: (cells - 1) (1/live + 1/reference)."""
    jensen_shannon: float
    """Divergence in bits, 0 equal to 1 disjoint."""
    wasserstein: float | None
    """Distance in standard deviations of the reference, within its bin range; None for categories or a constant."""
    num_rows: int
    missing_share: float
    reference_missing_share: float


def drift_report(profile: Profile, counts: Counts) -> list[FeatureDrift]:
    """Every feature, and the score where the profile has one, the largest PSI first. Empty without live rows.

    ContractError if the counts are of other features than the profile.
    """
    if profile.counts.shape != counts.shape:
        raise ContractError(f"counts of {counts.shape} features do not fit a profile of {profile.counts.shape}")
    found = []
    if counts.rows and profile.counts.rows:
        reference = profile.counts
        for index, name in enumerate(profile.numeric):
            width = (profile.high[index] - profile.low[index]) / NUM_BINS
            deviation = _deviation(reference.moments[index])
            found.append(_numeric(name, "numeric", reference.numeric[index], counts.numeric[index], width, deviation))
        for name, expected, seen in zip(profile.categorical, reference.categorical, counts.categorical, strict=True):
            found.append(_categorical(name, expected, seen))
        if reference.score.sum() and counts.score.sum():
            deviation = _deviation(reference.score_moments)
            found.append(_numeric(SCORE, "score", reference.score, counts.score, 1 / NUM_BINS, deviation))
    return sorted(found, key=lambda drift: (-drift.psi, drift.feature))


def fold_numeric(reference: Int64s, counts: Int64s) -> tuple[Float64s, Float64s]:
    """Both [259] counts in the same cells: about 20 neighbouring groups of near-equal reference mass, then missing."""
    groups = fold_groups(reference)
    num_groups = int(groups.max()) + 1
    return (
        np.append(np.bincount(groups, weights=reference[:MISSING], minlength=num_groups), reference[MISSING]),
        np.append(np.bincount(groups, weights=counts[:MISSING], minlength=num_groups), counts[MISSING]),
    )


def fold_groups(reference: Int64s) -> Int64s:
    """[258] number of the group of each bin, underflow and overflow included; missing has a group of its own."""
    ordered = reference[:MISSING].astype(np.float64)
    middles = (np.cumsum(ordered) - ordered / 2) / max(ordered.sum(), 1.0)
    groups = np.minimum((middles * NUM_FOLDED).astype(np.int64), NUM_FOLDED - 1)
    numbered: Int64s = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return numbered


def compare_scores(one: Counts, other: Counts) -> FeatureDrift | None:
    """How far the outputs of two models are apart on the same kind of traffic; None where one has none.

    Two models differ by design: an effect size to look at, never an alarm.
    """
    if not one.score.sum() or not other.score.sum():
        return None
    return _numeric(SCORE, "score", one.score, other.score, 1 / NUM_BINS, _deviation(one.score_moments))


def fold_categorical(reference: Int64s, counts: Int64s) -> tuple[Float64s, Float64s]:
    """Both in the same cells: missing, other, the common categories, and all rare ones as one."""
    is_rare = reference < MIN_CATEGORY_SHARE * reference.sum()
    is_rare[:2] = False
    kept = ~is_rare
    if not is_rare.any():
        return reference.astype(np.float64), counts.astype(np.float64)
    return (
        np.append(reference[kept], reference[is_rare].sum()).astype(np.float64),
        np.append(counts[kept], counts[is_rare].sum()).astype(np.float64),
    )


def psi(reference: Float64s, counts: Float64s) -> float:
    """Population stability index of two arrays of counts; half a count is added to each cell, so that it is finite.

    Cells that are empty on both sides say nothing, and are left out: their half count would weigh more the fewer rows.
    """
    is_used = (reference > 0) | (counts > 0)
    p, q = _shares(reference[is_used]), _shares(counts[is_used])
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(reference: Float64s, counts: Float64s) -> float:
    """Divergence in bits, 0..1, of two arrays of counts."""
    p, q = reference / reference.sum(), counts / counts.sum()
    middle = (p + q) / 2
    total = 0.0
    for share in (p, q):
        seen = share > 0
        total += float((share[seen] * np.log2(share[seen] / middle[seen])).sum()) / 2
    return max(total, 0.0)


def wasserstein(reference: Int64s, counts: Int64s, width: float) -> float:
    """Earth mover's distance of two [258] counts of bins `width` apart; values beyond the range lie at its ends."""
    p, q = _clip_ends(reference), _clip_ends(counts)
    return float(np.abs(np.cumsum(p / p.sum()) - np.cumsum(q / q.sum())).sum() * width)


def _numeric(name: str, kind: Kind, reference: Int64s, counts: Int64s, width: float, deviation: float) -> FeatureDrift:
    expected, seen = fold_numeric(reference, counts)
    has_values = reference[:MISSING].sum() > 0 and counts[:MISSING].sum() > 0
    distance = wasserstein(reference[:MISSING], counts[:MISSING], width) if has_values and deviation > 0 else None
    return _feature(name, kind, expected, seen, distance / deviation if distance is not None else None, missing=-1)


def _categorical(name: str, reference: Int64s, counts: Int64s) -> FeatureDrift:
    expected, seen = fold_categorical(reference, counts)
    return _feature(name, "categorical", expected, seen, None, missing=0)


def _feature(
    name: str, kind: Kind, expected: Float64s, seen: Float64s, distance: float | None, *, missing: int
) -> FeatureDrift:
    num_cells = int(((expected > 0) | (seen > 0)).sum())
    return FeatureDrift(
        feature=name,
        kind=kind,
        psi=psi(expected, seen),
        psi_without_drift=float((num_cells - 1) * (1 / seen.sum() + 1 / expected.sum())),
        jensen_shannon=jensen_shannon(expected, seen),
        wasserstein=distance,
        num_rows=int(seen.sum()),
        missing_share=float(seen[missing] / seen.sum()),
        reference_missing_share=float(expected[missing] / expected.sum()),
    )


def _shares(counts: Float64s) -> Float64s:
    shares: Float64s = (counts + PSEUDO_COUNT) / (counts.sum() + PSEUDO_COUNT * counts.size)
    return shares


def _clip_ends(counts: Int64s) -> Float64s:
    inner = counts[1:-1].astype(np.float64)
    inner[0] += counts[0]
    inner[-1] += counts[-1]
    return inner


def _deviation(moments: Float64s) -> float:
    number, total, squares = moments
    return float(np.sqrt(max(squares / number - (total / number) ** 2, 0.0))) if number else 0.0
