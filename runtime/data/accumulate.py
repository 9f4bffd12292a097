"""Live rows as counts, cheaply: rows wait in a fixed buffer and are counted when it is full."""

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.counts import Counts, Float32s, Float64s, Int64s, count_indices, count_moments, count_scores
from runtime.data.profile import Profile

__all__ = ["Accumulator", "Counts"]


class Accumulator:
    """Counts in the reference's bins. For one thread: a replica adds and takes from its event loop."""

    def __init__(self, profile: Profile, buffer_rows: int = 1024) -> None:
        if buffer_rows < 1:
            raise ContractError(f"buffer_rows must be at least 1 but got {buffer_rows}")
        self._binning = profile.binning
        self._cardinalities = profile.cardinalities
        self._numeric = np.empty((buffer_rows, len(profile.numeric)), dtype=np.float32)
        self._categorical = np.empty((buffer_rows, len(profile.categorical)), dtype=np.int64)
        self._scores = np.empty(buffer_rows, dtype=np.float64)
        self._capacity = buffer_rows
        self._filled = 0
        self._counts = Counts.zero(len(profile.numeric), self._cardinalities)

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
        taken = self._counts
        self._counts = Counts.zero(*taken.shape)
        return taken

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
        score, score_moments = count_scores(self._scores[:rows])
        counted = Counts(
            rows=rows,
            numeric=self._binning.count(self._numeric[:rows]),
            moments=count_moments(self._numeric[:rows]),
            categorical=count_indices(self._categorical[:rows], self._cardinalities),
            score=score,
            score_moments=score_moments,
        )
        self._counts = self._counts.merge(counted)
        self._filled = 0
