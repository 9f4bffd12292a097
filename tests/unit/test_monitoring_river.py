"""ADWIN and Page-Hinkley against river's on the same recorded streams: levels that change twice, or not at all.

Page-Hinkley must alarm at the very same values. river's ADWIN leaves the newest bucket of each size out when it looks
for a cut, so that the two drop different amounts after a change: ours must find each change that river finds, within
two checks of it, and nothing where river finds nothing before the change.
"""

from typing import Any

import numpy as np
import pytest
from river import drift

from runtime.data.counts import Float64s
from runtime.monitoring.stream import Adwin, PageHinkley

RIVERS_PAGE_HINKLEY: Any = drift.PageHinkley
RIVERS_ADWIN: Any = drift.ADWIN
CHECK_EVERY = 32
CHANGE_AT = 1_500


def make_stream(kind: str, step: int) -> Float64s:
    generator = np.random.default_rng(step)
    if kind == "losses":
        levels = [(1_500, 0.4), (1_500, 0.4 + 0.05 * step), (1_000, 0.5)]
        return np.concatenate([generator.normal(level, 0.1, number) for number, level in levels])
    levels = [(1_500, 0.2), (1_500, 0.2 + 0.1 * step), (2_000, 0.3)]
    return np.concatenate([(generator.random(number) < level).astype(float) for number, level in levels])


every_stream = pytest.mark.parametrize(("kind", "step"), [(k, s) for k in ("losses", "errors") for s in range(6)])


@every_stream
@pytest.mark.parametrize("limit", [5.0, 30.0])
def test_page_hinkley_is_rivers(kind: str, step: int, limit: float) -> None:
    ours, rivers = PageHinkley(limit=limit), RIVERS_PAGE_HINKLEY(threshold=limit)
    for value in make_stream(kind, step).tolist():
        rivers.update(value)
        assert ours.update(value) == rivers.drift_detected


@every_stream
def test_adwin_finds_what_rivers_finds(kind: str, step: int) -> None:
    ours, rivers = Adwin(check_every=CHECK_EVERY), RIVERS_ADWIN(clock=CHECK_EVERY)
    own: list[int] = []
    others: list[int] = []
    for index, value in enumerate(make_stream(kind, step).tolist()):
        rivers.update(value)
        if rivers.drift_detected:
            others.append(index)
        if ours.update(value):
            own.append(index)
    assert bool(own) == bool(others)
    for alarm in others:
        assert min(abs(alarm - one) for one in own) <= 2 * CHECK_EVERY
    if others and others[0] > CHANGE_AT:
        assert own[0] > CHANGE_AT
