"""Groups gathered part by part: the same figures as at once, and an even sample where there are too many."""

import numpy as np
import pytest

from runtime.data.metrics import Floats, Ints
from runtime.monitoring import quality_tally
from runtime.monitoring.quality_figures import Figures, measure
from runtime.monitoring.quality_tally import GroupTally

HOUR_US = 3_600_000_000


def draw(num_rows: int, *, hours: float, labelled: float = 0.5) -> tuple[Ints, Floats, Floats]:
    generator = np.random.default_rng(5)
    at = np.sort(generator.integers(0, int(hours * HOUR_US), num_rows))
    scores = generator.beta(2, 3, num_rows)
    labels = (generator.random(num_rows) < scores).astype(float)
    labels[generator.random(num_rows) > labelled] = np.nan
    return at, scores, labels


def tally(rows: tuple[Ints, Floats, Floats], part_rows: int) -> GroupTally:
    at, scores, labels = rows
    made = GroupTally()
    for start in range(0, at.size, part_rows):
        part = slice(start, start + part_rows)
        made.add(at[part], scores[part], labels[part])
    return made


@pytest.mark.parametrize(("hours", "cluster"), [(2.0, "row"), (30.0, "hour"), (200.0, "day")])
@pytest.mark.parametrize("part_rows", [1, 70, 10_000])
def test_part_by_part_is_as_at_once(hours: float, cluster: str, part_rows: int) -> None:
    rows = draw(900, hours=hours)
    at, scores, labels = rows
    width = {"row": None, "hour": HOUR_US, "day": 24 * HOUR_US}[cluster]
    found = tally(rows, part_rows)
    assert found.figures(0.95) == (cluster, measure(labels, scores, None if width is None else at // width, 0.95))
    assert found.cells.sum() == 900


def test_a_group_without_labels_is_counted_all_the_same() -> None:
    found = tally(draw(100, hours=1, labelled=0), 30)
    assert found.figures(0.95)[1].num_rows == 100
    assert found.figures(0.95)[1].num_labelled == 0
    assert found.figures(0.95)[1].auc.value is None


@pytest.mark.parametrize("part_rows", [333, 2500, 40_000])
def test_of_very_many_an_even_sample_tells(monkeypatch: pytest.MonkeyPatch, part_rows: int) -> None:
    _, scores, labels = rows = draw(40_000, hours=3)
    whole: Figures = measure(labels, scores, None, 0.95)
    monkeypatch.setattr(quality_tally, "MAX_KEPT_ROWS", 3000)
    _, sampled = tally(rows, part_rows).figures(0.95)
    assert (sampled.num_rows, sampled.num_labelled) == (whole.num_rows, whole.num_labelled)
    # Every 8th labelled row of all hours, whatever the parts were.
    is_labelled = ~np.isnan(labels)
    expected = measure(labels[is_labelled][::8], scores[is_labelled][::8], None, 0.95)
    assert sampled.auc == expected.auc
    assert sampled.auc.value == pytest.approx(whole.auc.value, abs=0.03)
    assert sum(bins[2] for bins in sampled.calibration) <= 3000
