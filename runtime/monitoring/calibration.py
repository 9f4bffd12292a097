"""What a score is worth as a probability, by isotonic regression on rows whose labels are known.

Pool adjacent violators (Barlow et al. 1972; Best & Chakravarti, Mathematical Programming 47:425, 1990), linear between
blocks as scikit-learn does it. It does not know which model the scores are of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from runtime.core.errors import ContractError, UsageError
from runtime.data.metrics import Floats, check_scores, tie_ends


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationMap:
    """A rising map from scores to probabilities; flat beyond its ends."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.probabilities):
            raise ContractError(
                f"a calibration map needs as many probabilities as scores, at least one, but got "
                f"{len(self.probabilities)} and {len(self.scores)}"
            )
        if (np.diff(self.scores) < 0).any() or (np.diff(self.probabilities) < 0).any():
            raise ContractError("a calibration map must not fall")

    def apply(self, scores: ArrayLike) -> Floats:
        """Probability of label 1 at each score."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities)

    def to_json(self) -> dict[str, Any]:
        return {"scores": list(self.scores), "probabilities": list(self.probabilities)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CalibrationMap":
        """ContractError if the value is no calibration map."""
        try:
            return cls(
                scores=tuple(float(score) for score in value["scores"]),
                probabilities=tuple(float(probability) for probability in value["probabilities"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"not a calibration map: {error!r}") from error


def fit_calibration(labels: ArrayLike, scores: ArrayLike) -> CalibrationMap:
    """The least squares fit among rising maps. UsageError without rows."""
    y, s, _ = check_scores(labels, scores, None)
    if not y.size:
        raise UsageError("a calibration needs labelled rows but got none")
    order = np.argsort(s, kind="stable")
    ends = tie_ends(s[order])
    weights = np.diff(ends, prepend=-1).astype(np.float64)
    sums = np.diff(np.cumsum(y[order])[ends], prepend=0.0)
    positions = s[order][ends]
    first, last, means = _pool(sums / weights, weights)
    knots: dict[tuple[float, float], None] = {}
    for start, end, mean in zip(first, last, means, strict=True):
        knots[float(positions[start]), float(mean)] = None
        knots[float(positions[end]), float(mean)] = None
    return CalibrationMap(scores=tuple(score for score, _ in knots), probabilities=tuple(value for _, value in knots))


def _pool(values: Floats, weights: Floats) -> tuple[list[int], list[int], list[float]]:
    """First and last position and mean of each block of the rising fit."""
    first: list[int] = []
    masses: list[float] = []
    means: list[float] = []
    for position, (value, weight) in enumerate(zip(values.tolist(), weights.tolist(), strict=True)):
        first.append(position)
        masses.append(weight)
        means.append(value)
        while len(means) > 1 and means[-2] >= means[-1]:
            mass = masses[-2] + masses[-1]
            means[-2] = (means[-2] * masses[-2] + means[-1] * masses[-1]) / mass
            masses[-2] = mass
            del first[-1], masses[-1], means[-1]
    last = [start - 1 for start in first[1:]] + [values.size - 1]
    return first, last, means
