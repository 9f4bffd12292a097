"""Groups of rows gathered part by part, for figures of more rows than memory should hold. Pure."""

from dataclasses import replace
from typing import Literal

import numpy as np

from runtime.data.counts import NUM_CELLS, Int64s, count_scores
from runtime.data.metrics import Floats, Ints
from runtime.monitoring.quality_figures import Figures, measure

Cluster = Literal["day", "hour", "row"]
CLUSTERS: tuple[tuple[Cluster, int], ...] = (("day", 86_400_000_000), ("hour", 3_600_000_000))
"""Lengths in microseconds."""
MIN_CLUSTERS = 5
MAX_KEPT_ROWS = 200_000
"""Labelled rows that a group keeps. Of more every second one is kept, then every fourth: with so many, what chance
does to a figure is a fifth of a percent."""


class GroupTally:
    """One group's rows: all are counted, those with a label are kept until there are too many."""

    def __init__(self) -> None:
        self.num_rows = self.num_labelled = 0
        self.cells: Int64s = np.zeros(NUM_CELLS, dtype=np.int64)
        """[259] counts of the scores of all rows."""
        self._stretches: dict[Cluster, set[int]] = {name: set() for name, _ in CLUSTERS}
        self._kept: list[tuple[Ints, Floats, Floats]] = []
        self._stride = 1

    def add(self, at: Ints, scores: Floats, labels: Floats) -> None:
        """Arrays of one length: microseconds since 1970, scores, and labels that are NaN where none came back."""
        self.num_rows += at.size
        self.cells += count_scores(scores)[0]
        for name, width in CLUSTERS:
            self._stretches[name].update(np.unique(at // width).tolist())
        labelled = np.flatnonzero(~np.isnan(labels))
        taken = labelled[-self.num_labelled % self._stride :: self._stride]
        self.num_labelled += labelled.size
        if taken.size:
            self._kept.append((at[taken], scores[taken], labels[taken]))
        while sum(kept.size for kept, *_ in self._kept) > MAX_KEPT_ROWS:
            at, scores, labels = self._arrays()
            self._kept = [(at[::2], scores[::2], labels[::2])]
            self._stride *= 2

    def figures(self, confidence: float) -> tuple[Cluster, Figures]:
        """What is taken as independent, and the figures."""
        at, scores, labels = self._arrays()
        cluster, clusters = self._choose_clusters(at)
        found = measure(labels, scores, clusters, confidence)
        return cluster, replace(found, num_rows=self.num_rows, num_labelled=self.num_labelled)

    def _arrays(self) -> tuple[Ints, Floats, Floats]:
        if not self._kept:
            return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)
        at, scores, labels = zip(*self._kept, strict=True)
        return np.concatenate(at), np.concatenate(scores), np.concatenate(labels)

    def _choose_clusters(self, at: Ints) -> tuple[Cluster, Ints | None]:
        """Rows of one day share what the day brought: the coarsest stretch of time of which there are enough."""
        for name, width in CLUSTERS:
            if len(self._stretches[name]) >= MIN_CLUSTERS:
                return name, at // width
        return "row", None
