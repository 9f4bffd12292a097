"""Live rows as counts, cheaply: rows wait in a fixed buffer and are counted when it is full."""

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.counts import (
    NUM_CELLS,
    SCORE_BINNING,
    Binning,
    Counts,
    Float32s,
    Float64s,
    Int64s,
    count_indices,
    count_moments_by_feature,
)
from runtime.data.profile import Profile

__all__ = ["Accumulator", "Counts"]


class Accumulator:
    """Counts in the reference's bins. For one thread: a replica adds and takes from its event loop.

    The buffer holds feature by feature, with the score as the last one, so that one pass counts them all.
    """

    def __init__(self, profile: Profile, buffer_rows: int = 2048) -> None:
        if buffer_rows < 1:
            raise ContractError(f"buffer_rows must be at least 1 but got {buffer_rows}")
        binning = profile.binning
        self._binning = Binning(
            low=np.append(binning.low, SCORE_BINNING.low), scale=np.append(binning.scale, SCORE_BINNING.scale)
        )
        self._cardinalities = profile.cardinalities
        self._values = np.empty((len(profile.numeric) + 1, buffer_rows), dtype=np.float32)
        self._indices = np.empty((len(profile.categorical), buffer_rows), dtype=np.int64)
        # The buffer as rows, which is how they come.
        self._numeric = self._values[:-1].T
        self._categorical = self._indices.T
        self._scores = self._values[-1]
        self._capacity = buffer_rows
        self._filled = 0
        self._reset()

    def add(self, numeric: Float32s, categorical: Int64s, scores: Float64s) -> None:
        """Take [rows, F] values, [rows, C] indices and [rows] scores. The arrays are copied."""
        rows = len(scores)
        start = self._filled
        end = start + rows
        if end > self._capacity:
            self._add_in_parts(numeric, categorical, scores)
            return
        if rows == 1:
            # The same by index, at half the price: most requests have one row.
            self._numeric[start] = numeric
            self._categorical[start] = categorical
            self._scores[start] = scores.item()
        else:
            self._numeric[start:end] = numeric
            self._categorical[start:end] = categorical
            self._scores[start:end] = scores
        self._filled = end

    def take(self) -> Counts:
        """Everything added since the last take."""
        self._count_buffer()
        taken = Counts(
            rows=self._rows,
            numeric=self._cells[:-1],
            moments=self._moments[:-1],
            categorical=self._categories,
            score=self._cells[-1],
            score_moments=self._moments[-1],
        )
        self._reset()
        return taken

    def _reset(self) -> None:
        num_values = len(self._values)
        self._rows = 0
        self._cells: Int64s = np.zeros((num_values, NUM_CELLS), dtype=np.int64)
        self._moments: Float64s = np.zeros((num_values, 3))
        self._categories: tuple[Int64s, ...] = tuple(np.zeros(size, dtype=np.int64) for size in self._cardinalities)

    def _add_in_parts(self, numeric: Float32s, categorical: Int64s, scores: Float64s) -> None:
        done = 0
        while done < len(scores):
            if self._filled == self._capacity:
                self._count_buffer()
            part = slice(done, done + self._capacity - self._filled)
            self.add(numeric[part], categorical[part], scores[part])
            done = part.stop

    def _count_buffer(self) -> None:
        rows = self._filled
        if not rows:
            return
        values = self._values[:, :rows]
        self._rows += rows
        self._cells += self._binning.count_by_feature(values)
        self._moments += count_moments_by_feature(values)
        counted = count_indices(self._categorical[:rows], self._cardinalities)
        self._categories = tuple(a + b for a, b in zip(self._categories, counted, strict=True))
        self._filled = 0
