"""Values of another kind than the reference had: more missing, categories it never saw, numbers beyond its range.

Shares with the lowest value that the rows leave plausible (Wilson, 99.9 %, one look). Looked at again and again it has
no false alarm rate: the detector has, and it counts missing and unknown values as cells of their own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from runtime.data.counts import MISSING, OVERFLOW, UNDERFLOW, Counts
from runtime.data.encoding import MISSING_INDEX, OTHER_INDEX
from runtime.data.profile import Profile

QUANTILE = 3.09
MIN_RISE = 0.01
"""A share must be above the reference's by this much to be named."""

SchemaKind = Literal["missing", "unknown category", "out of range"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaDrift:
    feature: str
    kind: SchemaKind
    share: float
    lowest_share: float
    reference_share: float
    num_rows: int

    @property
    def is_notable(self) -> bool:
        return self.lowest_share > self.reference_share + MIN_RISE


def schema_drift(profile: Profile, counts: Counts) -> list[SchemaDrift]:
    """What rose, the largest rise first. Empty if the counts are of other features or hold no rows."""
    if not counts.rows or counts.shape != profile.counts.shape:
        return []
    found = [one for one in _shares(profile, counts) if one.is_notable]
    return sorted(found, key=lambda one: (one.reference_share - one.share, one.feature))


def _shares(profile: Profile, counts: Counts) -> Iterator[SchemaDrift]:
    for name, expected, seen in zip(profile.numeric, profile.counts.numeric, counts.numeric, strict=True):
        yield _share(name, "missing", int(seen[MISSING]), int(seen.sum()), int(expected[MISSING]), int(expected.sum()))
        beyond, usual = (int(cells[UNDERFLOW] + cells[OVERFLOW]) for cells in (seen, expected))
        yield _share(name, "out of range", beyond, int(seen.sum()), usual, int(expected.sum()))
    for name, expected, seen in zip(profile.categorical, profile.counts.categorical, counts.categorical, strict=True):
        kinds: tuple[tuple[SchemaKind, int], ...] = (("missing", MISSING_INDEX), ("unknown category", OTHER_INDEX))
        for kind, index in kinds:
            yield _share(name, kind, int(seen[index]), int(seen.sum()), int(expected[index]), int(expected.sum()))


def _share(feature: str, kind: SchemaKind, hits: int, rows: int, usual: int, reference_rows: int) -> SchemaDrift:
    return SchemaDrift(
        feature=feature,
        kind=kind,
        share=hits / max(rows, 1),
        lowest_share=_wilson_low(hits, rows),
        reference_share=usual / max(reference_rows, 1),
        num_rows=rows,
    )


def _wilson_low(hits: int, rows: int) -> float:
    if not rows:
        return 0.0
    share, square = hits / rows, QUANTILE**2
    middle = share + square / (2 * rows)
    reach = QUANTILE * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    return max((middle - reach) / (1 + square / rows), 0.0)
