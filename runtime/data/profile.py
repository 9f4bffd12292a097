"""The statistics of a data version: the reference that live traffic is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.counts import (
    Binning,
    Counts,
    Float32s,
    Float64s,
    count_indices,
    count_moments,
    count_scores,
)
from runtime.data.encoding import Encoded, Encoding

LOW_QUANTILE, HIGH_QUANTILE = 0.001, 0.999


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Profile:
    """Bin ranges of each numeric feature, and the reference's counts. Names are in the encoding's order."""

    numeric: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    categorical: tuple[str, ...]
    counts: Counts

    @property
    def binning(self) -> Binning:
        return Binning.between(self.low, self.high)

    @property
    def cardinalities(self) -> list[int]:
        return [len(counts) for counts in self.counts.categorical]

    def to_json(self) -> dict[str, Any]:
        return {
            "numeric": list(self.numeric),
            "low": list(self.low),
            "high": list(self.high),
            "categorical": list(self.categorical),
            "counts": self.counts.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Profile":
        """ContractError if the value is no profile."""
        try:
            return cls(
                numeric=tuple(value["numeric"]),
                low=tuple(value["low"]),
                high=tuple(value["high"]),
                categorical=tuple(value["categorical"]),
                counts=Counts.from_json(value["counts"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"not a profile: {error!r}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]


def build_profile(encoded: Encoded, encoding: Encoding, scores: Float64s | None = None) -> Profile:
    """Bins between each feature's 0.1 % and 99.9 % quantiles, and the counts of `encoded` in them."""
    low, high = _bin_ranges(encoded.numeric)
    binning = Binning.between(low, high)
    zero = Counts.zero(len(encoding.numeric), encoding.cardinalities)
    counts = replace(
        zero,
        rows=len(encoded),
        numeric=binning.count(encoded.numeric),
        moments=count_moments(encoded.numeric),
        categorical=count_indices(encoded.categorical, encoding.cardinalities),
    )
    profile = Profile(
        numeric=encoding.numeric, low=tuple(low), high=tuple(high), categorical=encoding.categorical, counts=counts
    )
    return profile if scores is None else with_scores(profile, scores)


def with_scores(profile: Profile, scores: Float64s) -> Profile:
    """The profile with a model's outputs on the reference, in place of any before."""
    score, score_moments = count_scores(scores)
    return replace(profile, counts=replace(profile.counts, score=score, score_moments=score_moments))


def _bin_ranges(values: Float32s) -> tuple[list[float], list[float]]:
    lows, highs = [], []
    for column in values.T:
        present = column[~np.isnan(column)].astype(np.float64)
        low, high = np.quantile(present, [LOW_QUANTILE, HIGH_QUANTILE]).tolist() if len(present) else (0.0, 1.0)
        if high - low <= 1e-6 * max(1.0, abs(low)):
            # A constant still needs a width, wide enough to survive float32.
            width = max(0.5, abs(low) * 1e-3)
            low, high = low - width, high + width
        lows.append(low)
        highs.append(high)
    return lows, highs
