"""A feature's counts with names for its cells: what a person looks at after an alarm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.data.counts import NUM_BINS, Counts
from runtime.data.encoding import FIRST_INDEX
from runtime.data.profile import Profile
from runtime.monitoring.detector import fold_cells
from runtime.monitoring.drift import MIN_CATEGORY_SHARE, SCORE, fold_groups

MISSING_LABEL, OTHER_LABEL, RARE_LABEL = "missing", "unknown", "rare ones"


def describe_histogram(
    profile: Profile,
    feature: str,
    *,
    current: Counts,
    reference: Counts,
    vocabularies: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Shares of rows by cell: in the training rows, in the reference matched to the time, and now.

    Numeric cells hold near-equal shares of the training rows, and so differ in width: `edges` says where they lie, None
    for the open ends.
    """
    labels, edges = _cells(profile, feature, vocabularies)
    shares = {
        name: _shares(profile, counts, feature)
        for name, counts in (("trained", profile.counts), ("reference", reference), ("current", current))
    }
    return {"feature": feature, "labels": labels, "edges": edges, **shares}


def _shares(profile: Profile, counts: Counts, feature: str) -> list[float]:
    cells = fold_cells(profile, counts)[feature]
    return [float(share) for share in cells / max(float(cells.sum()), 1.0)]


def _cells(
    profile: Profile, feature: str, vocabularies: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[list[float | None]] | None]:
    if feature in profile.categorical:
        counts = profile.counts.categorical[profile.categorical.index(feature)]
        words = vocabularies.get(feature, [])
        names = [MISSING_LABEL, OTHER_LABEL, *(_word(words, index) for index in range(len(counts) - FIRST_INDEX))]
        is_rare = counts < MIN_CATEGORY_SHARE * counts.sum()
        is_rare[:FIRST_INDEX] = False
        kept = [name for name, rare in zip(names, is_rare, strict=True) if not rare]
        return [*kept, *([RARE_LABEL] if is_rare.any() else [])], None
    if feature == SCORE:
        cells, low, high = profile.counts.score, 0.0, 1.0
    else:
        index = profile.numeric.index(feature)
        cells, low, high = profile.counts.numeric[index], profile.low[index], profile.high[index]
    bounds = [None, *np.linspace(low, high, NUM_BINS + 1).tolist(), None]
    groups = fold_groups(cells)
    edges: list[list[float | None]] = []
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        edges.append([bounds[int(members[0])], bounds[int(members[-1]) + 1]])
    labels = [_range(start, end) for start, end in edges]
    return [*labels, MISSING_LABEL], edges


def _word(words: Sequence[str], index: int) -> str:
    return words[index] if index < len(words) else f"#{index}"


def _range(start: float | None, end: float | None) -> str:
    if start is None:
        return "any" if end is None else f"< {end:.4g}"
    return f"≥ {start:.4g}" if end is None else f"{start:.4g} – {end:.4g}"
