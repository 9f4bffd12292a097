"""Counts of values in fixed bins: what a reference and live traffic are compared by. Counts merge exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.errors import ContractError

NUM_BINS = 256
UNDERFLOW = 0
OVERFLOW = NUM_BINS + 1
MISSING = NUM_BINS + 2
NUM_CELLS = NUM_BINS + 3
"""Cells of one numeric feature: underflow, 256 bins, overflow, missing."""

_EDGE = 255.999
"""A hair below 256, so that the highest value of the reference lies in the last bin and not beyond it."""

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Binning:
    """The affine map from values to cells. Elementwise in float32, so the batch size changes no count."""

    low: Float32s
    scale: Float32s

    @classmethod
    def between(cls, low: Sequence[float], high: Sequence[float]) -> "Binning":
        """Bins of equal width from `low` to `high` of each feature; each low must be below its high."""
        lows, highs = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if not (lows < highs).all():
            raise ContractError(f"each bin range needs low < high but got {list(low)} and {list(high)}")
        return cls(low=lows.astype(np.float32), scale=(_EDGE / (highs - lows)).astype(np.float32))

    def cells(self, values: Float32s) -> Int64s:
        """[rows, features] cell numbers 0..258; NaN is missing."""
        places = self._places(values.T)
        places[np.isnan(places)] = MISSING - 1
        return places.astype(np.int64).T + 1

    def count(self, values: Float32s) -> Int64s:
        """[features, 259] counts of the [rows, features] values."""
        return self.count_by_feature(values.T)

    def count_by_feature(self, values: Float32s) -> Int64s:
        """As `count`, of [features, rows] values: several times faster where they are laid out so."""
        places = self._places(values)
        # Small integers, which float32 holds exactly up to 60,000 features.
        first = np.arange(len(places), dtype=np.float32)[:, None] * NUM_CELLS + 1
        places += first
        if np.isnan(places).any():
            np.copyto(places, first + (MISSING - 1), where=np.isnan(places))
        counted = np.bincount(places.astype(np.int64).ravel(), minlength=len(places) * NUM_CELLS)
        return counted.reshape(len(places), NUM_CELLS)

    def _places(self, values: Float32s) -> Float32s:
        """Where [features, rows] values lie: -1 below, 0..255 the bins, 256 above, NaN missing."""
        with np.errstate(over="ignore", invalid="ignore"):
            places: Float32s = np.subtract(values, self.low[:, None], order="C")
            places *= self.scale[:, None]
        np.clip(places, -1, NUM_BINS, out=places)
        np.floor(places, out=places)
        return places


SCORE_BINNING = Binning.between([0.0], [1.0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counts:
    """What was seen. Arrays only, so that it travels cheaply."""

    rows: int
    numeric: Int64s
    """[numeric features, 259]."""
    moments: Float64s
    """[numeric features, 3]: number of values that are not missing, their sum, their sum of squares."""
    categorical: tuple[Int64s, ...]
    """For each category the counts over its indices: missing, other, vocabulary."""
    score: Int64s
    """[259] of the model's output on [0, 1]; all zero where nothing was scored."""
    score_moments: Float64s
    """[3] as in `moments`."""

    @classmethod
    def zero(cls, num_numeric: int, cardinalities: Sequence[int]) -> "Counts":
        return cls(
            rows=0,
            numeric=np.zeros((num_numeric, NUM_CELLS), dtype=np.int64),
            moments=np.zeros((num_numeric, 3)),
            categorical=tuple(np.zeros(size, dtype=np.int64) for size in cardinalities),
            score=np.zeros(NUM_CELLS, dtype=np.int64),
            score_moments=np.zeros(3),
        )

    def merge(self, other: "Counts") -> "Counts":
        """The counts of both. ContractError if they are of different features."""
        if self.shape != other.shape:
            raise ContractError(f"counts of different features do not merge: {self.shape} and {other.shape}")
        return Counts(
            rows=self.rows + other.rows,
            numeric=self.numeric + other.numeric,
            moments=self.moments + other.moments,
            categorical=tuple(a + b for a, b in zip(self.categorical, other.categorical, strict=True)),
            score=self.score + other.score,
            score_moments=self.score_moments + other.score_moments,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Few cells are hit in a second: what travels is those, a hundredth of the arrays.
        return unpack_counts, (pack_counts(self),)

    @property
    def shape(self) -> tuple[int, tuple[int, ...]]:
        """Number of numeric features and each category's number of indices."""
        return len(self.numeric), tuple(len(counts) for counts in self.categorical)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "numeric": self.numeric.tolist(),
            "moments": self.moments.tolist(),
            "categorical": [counts.tolist() for counts in self.categorical],
            "score": self.score.tolist(),
            "score_moments": self.score_moments.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Counts":
        return cls(
            rows=value["rows"],
            numeric=np.array(value["numeric"], dtype=np.int64).reshape(-1, NUM_CELLS),
            moments=np.array(value["moments"], dtype=np.float64).reshape(-1, 3),
            categorical=tuple(np.array(counts, dtype=np.int64) for counts in value["categorical"]),
            score=np.array(value["score"], dtype=np.int64),
            score_moments=np.array(value["score_moments"], dtype=np.float64),
        )


Packed = tuple[int, int, tuple[int, ...], bytes | None, str, bytes, bytes]


def pack_counts(counts: Counts) -> Packed:
    """Small and exact: the places and values of the cells that are not 0, in the narrowest integers that hold them.

    Rows, number of numeric features, cardinalities, places (None: all cells follow), values' type, values, moments.
    """
    cells = np.concatenate([counts.numeric.ravel(), *counts.categorical, counts.score])
    places = np.flatnonzero(cells)
    place_type = np.uint16 if cells.size <= 1 << 16 else np.uint32
    highest = int(cells.max(initial=0))
    value_type = np.uint8 if highest < 1 << 8 else np.uint16 if highest < 1 << 16 else np.int64
    is_sparse = places.size * (np.dtype(place_type).itemsize + np.dtype(value_type).itemsize) < (
        cells.size * np.dtype(value_type).itemsize
    )
    return (
        counts.rows,
        *counts.shape,
        places.astype(place_type).tobytes() if is_sparse else None,
        np.dtype(value_type).str,
        (cells[places] if is_sparse else cells).astype(value_type).tobytes(),
        np.concatenate([counts.moments.ravel(), counts.score_moments]).tobytes(),
    )


def unpack_counts(packed: Packed) -> Counts:
    """What `pack_counts` was given, to the last bit."""
    rows, num_numeric, cardinalities, places, value_type, values, moments = packed
    ends = np.cumsum([num_numeric * NUM_CELLS, *cardinalities, NUM_CELLS]).tolist()
    if places is None:
        cells = np.frombuffer(values, dtype=value_type).astype(np.int64)
    else:
        cells = np.zeros(ends[-1], dtype=np.int64)
        place_type = np.uint16 if ends[-1] <= 1 << 16 else np.uint32
        cells[np.frombuffer(places, dtype=place_type)] = np.frombuffer(values, dtype=value_type)
    all_moments = np.frombuffer(moments, dtype=np.float64)
    return Counts(
        rows=rows,
        numeric=cells[: ends[0]].reshape(num_numeric, NUM_CELLS),
        moments=all_moments[:-3].reshape(num_numeric, 3),
        categorical=tuple(cells[start:end] for start, end in pairwise(ends[:-1])),
        score=cells[ends[-2] :],
        score_moments=all_moments[-3:],
    )


def count_moments(values: Float32s) -> Float64s:
    """[features, 3]: count, sum and sum of squares of the [rows, features] values that are not NaN, in float64."""
    return count_moments_by_feature(values.T)


def count_moments_by_feature(values: Float32s) -> Float64s:
    """As `count_moments`, of [features, rows] values."""
    wide = values.astype(np.float64, order="C")
    rows = wide.shape[1]
    moments = np.empty((len(wide), 3))
    moments[:, 0] = rows
    missing = np.isnan(wide)
    if missing.any():
        wide[missing] = 0.0
        moments[:, 0] -= missing.sum(axis=1)
    # Sums as products: faster than sum(axis=1).
    np.matmul(wide, np.ones(rows), out=moments[:, 1])
    np.vecdot(wide, wide, out=moments[:, 2])
    return moments


def count_indices(indices: Int64s, cardinalities: Sequence[int]) -> tuple[Int64s, ...]:
    """For each column of [rows, categories] the counts over its indices."""
    return tuple(np.bincount(indices[:, c], minlength=size) for c, size in enumerate(cardinalities))


def count_scores(scores: Float64s) -> tuple[Int64s, Float64s]:
    """[259] counts on [0, 1] and [3] moments."""
    column = np.asarray(scores, dtype=np.float32).reshape(-1, 1)
    return SCORE_BINNING.count(column)[0], count_moments(column)[0]
