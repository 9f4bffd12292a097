"""Loss watches: quiet while losses stay as they were, loud when they rise, the same after any restart."""

import json

import numpy as np
import pytest

from runtime.core.errors import ContractError
from runtime.data.metrics import Floats
from runtime.monitoring.concept import LOSS_CAP, LossReference, LossWatch, loss_reference

DAY_S = 86_400.0
ROWS_A_DAY = 200


def draw(seed: int, num_days: int, *, first: int = 0, shift: float = 0.0) -> tuple[Floats, Floats]:
    """Losses whose level varies from day to day, so that rows of a day are not independent; and their times."""
    generator = np.random.default_rng(seed)
    levels = 0.6 + shift + 0.1 * generator.standard_normal(num_days)
    noise = generator.exponential(1.0, num_days * ROWS_A_DAY)
    losses = (np.repeat(levels, ROWS_A_DAY) * noise).clip(0, LOSS_CAP)
    return losses, first * DAY_S + np.arange(losses.size) * DAY_S / ROWS_A_DAY


def reference() -> LossReference:
    found = loss_reference(*draw(1, 60), batch_s=DAY_S, min_rows=50)
    assert found is not None
    return found


def make_watch(known: LossReference | None, *, tolerance: float = 0.02) -> LossWatch:
    return LossWatch(batch_s=DAY_S, min_rows=50, tolerance=tolerance, reference=known)


def test_a_reference_knows_how_days_vary_and_needs_enough_of_them() -> None:
    assert reference().deviation == pytest.approx(0.11, rel=0.35)
    assert loss_reference(*draw(1, 5), batch_s=DAY_S, min_rows=50) is None
    assert loss_reference(*draw(1, 60), batch_s=DAY_S, min_rows=500) is None


def test_bad_days_among_good_ones_are_no_alarm() -> None:
    """With rows taken as independent the same days raise alarm after alarm."""
    alarms = 0
    for seed in range(20):
        watched = make_watch(reference())
        watched.observe(*draw(100 + seed, 60))
        assert (watched.num_rows, watched.num_batches) == (60 * ROWS_A_DAY, 59)
        alarms += len(watched.alarms)
    assert alarms <= 8  # 1,180 days at one alarm in 465, and some for the reference's own error
    losses, at = draw(100, 60)
    spread = LossReference(mean=float(losses.mean()), deviation=float(losses.std()) / np.sqrt(50), num_batches=60)
    independent = LossWatch(batch_s=DAY_S / 4, min_rows=50, tolerance=0.02, reference=spread)
    independent.observe(losses, at)
    assert len(independent.alarms) > 4


def test_a_rise_that_lasts_is_noticed_within_days_and_over_when_it_is_over() -> None:
    watched = make_watch(reference())
    watched.observe(*draw(3, 30))
    before = watched.has_risen
    watched.observe(*draw(4, 10, first=30, shift=0.25))
    first = watched.alarms[0]
    assert (before, first.is_rise, watched.has_risen) == (False, True, True)
    assert 31 * DAY_S <= first.at <= 38 * DAY_S
    watched.observe(*draw(5, 25, first=40))
    assert [watched.has_risen, watched.mean] == [False, pytest.approx(0.6, abs=0.15)]


def test_a_change_within_the_tolerance_is_none() -> None:
    watched = make_watch(reference(), tolerance=0.5)
    watched.observe(*draw(5, 60, shift=0.2))
    assert watched.alarms == []


def test_without_a_reference_the_first_days_are_it() -> None:
    watched = make_watch(None)
    known = []
    for seed, first, number in ((6, 0, 10), (7, 10, 20)):
        watched.observe(*draw(seed, number, first=first))
        known.append(watched.reference is not None)
    assert known == [False, True]
    watched.observe(*draw(8, 10, first=30, shift=0.5))
    assert watched.has_risen


def test_labels_that_come_late_or_thinly_wait_for_a_stretch_that_is_full() -> None:
    watched = make_watch(reference())
    losses, at = draw(9, 3)
    watched.observe(losses[:ROWS_A_DAY], at[:ROWS_A_DAY])
    watched.observe(losses[-10:], at[-10:])
    watched.observe(losses[:20], at[:20])  # late: they are counted, and open no day again
    closed = [watched.num_batches]
    watched.observe(np.array([]), np.array([]))
    watched.observe(*draw(9, 1, first=5))
    closed.append(watched.num_batches)  # thirty rows are too few for a stretch
    watched.observe(*draw(9, 1, first=6))
    closed.append(watched.num_batches)
    assert closed == [1, 1, 2]


def test_a_watch_in_parts_and_through_json_is_the_watch_in_one() -> None:
    losses = np.concatenate([draw(9, 30)[0], draw(10, 30, shift=0.3)[0]])
    _, at = draw(9, 60)
    whole, parts = make_watch(reference()), make_watch(reference())
    whole.observe(losses, at)
    for start in range(0, losses.size, 777):
        part = slice(start, start + 777)
        parts.observe(losses[part], at[part])
        parts = LossWatch.from_json(json.loads(json.dumps(parts.to_json())))
    assert parts.alarms
    assert [(one.detector, one.batch) for one in parts.alarms] == [(one.detector, one.batch) for one in whole.alarms]
    assert parts.num_batches == whole.num_batches
    assert parts.mean == pytest.approx(whole.mean)


@pytest.mark.parametrize("change", [{"adwin": {"kind": "cusum"}}, {"alarms": [{}]}, {"cusum": {"kind": "ewma"}}])
def test_a_broken_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        LossWatch.from_json(make_watch(reference()).to_json() | change)
