"""Requests by the hour: the budget under the model, an outage found in minutes, what is history and what is not."""

import json
import math

import numpy as np
import pytest

from runtime.core.errors import ContractError
from runtime.data.counts import Counts
from runtime.monitoring.deltas import Series, Tally
from runtime.monitoring.volume import ExpectedVolume, VolumeState, expect_volume
from runtime.monitoring.windows import Stretch, hour_of_week
from runtime.telemetry.latency import count_latencies

USUAL = ExpectedVolume(requests_per_s=5.0, level_variance=0.05, num_weeks=4)
TICK_S = 30.0


def simulate(seed: int, num_ticks: int, factor: float = 1.0, drop_at: int | None = None) -> list[float]:
    """Log M after each tick of traffic as the model has it, times `factor` from tick `drop_at` on."""
    generator = np.random.default_rng(seed)
    state, logs, level = VolumeState(), [], 1.0
    for tick in range(num_ticks):
        at = tick * TICK_S
        if at % 3600 == 0:
            level = generator.gamma(1 / USUAL.level_variance, USUAL.level_variance)
        mean = USUAL.requests_per_s * TICK_S * level * (factor if drop_at is not None and tick >= drop_at else 1.0)
        burst = generator.gamma(50.0, 1 / 50.0)
        state = state.advance(int(generator.poisson(mean * burst)), at=at, seconds=TICK_S, expected=USUAL)
        logs.append(state.log_m)
    return logs


def test_under_the_model_false_alarms_keep_the_budget() -> None:
    budget, num_ticks = 200, 1_200
    lengths = []
    for seed in range(12):
        over = [tick for tick, log_m in enumerate(simulate(seed, num_ticks)) if log_m >= math.log(budget)]
        lengths.append(over[0] if over else num_ticks)
    assert np.mean(lengths) >= budget


@pytest.mark.parametrize(("factor", "within"), [(0.0, 4), (0.25, 6), (4.0, 6)])
def test_an_outage_or_a_flood_is_found_within_minutes(factor: float, within: int) -> None:
    threshold = math.log(30 * 86_400 / TICK_S / 0.1)
    for seed in range(5):
        logs = simulate(seed, 250, factor, drop_at=200)
        assert max(logs[:200]) < threshold
        assert max(logs[200 : 200 + within]) >= threshold


def test_without_history_nothing_is_claimed() -> None:
    state = VolumeState().advance(0, at=0.0, seconds=10.0, expected=None)
    assert (state.log_m, state.expected) == (-math.inf, None)


def test_the_state_survives_as_json() -> None:
    state = VolumeState()
    for tick in range(20):
        state = state.advance(tick * 20, at=tick * 10.0, seconds=10.0, expected=USUAL)
    assert VolumeState.from_json(json.loads(json.dumps(state.to_json()))) == state
    with pytest.raises(ContractError, match="volume detector's state is broken"):
        VolumeState.from_json({"other": 1})


def stretch(requests: int, covered_s: float = 3600.0) -> Stretch:
    tally = Tally(
        requests=requests,
        rows=0,
        errors=0,
        refused=0,
        latency=count_latencies([]),
        counts=Counts.zero(0, []),
        first_at=0.0,
        last_at=0.0,
    )
    series = Series(endpoint="flights", slot="blue", model_version="flights:1")
    return Stretch(start=0, tallies={series: tally}, covered_s=covered_s, is_alarmed=False)


def test_only_hours_that_were_watched_are_history() -> None:
    hours = [stretch(3600), stretch(7200), stretch(0, covered_s=600.0)]
    found = expect_volume("flights", hours, 2)
    assert found is not None
    assert (found.requests_per_s, found.num_weeks) == (1.5, 2)
    assert expect_volume("flights", hours, 3) is None
    assert expect_volume("flights", hours, 0) is None
    assert expect_volume("trains", hours, 2) is None


def test_hours_of_the_week_count_from_monday() -> None:
    assert hour_of_week(0.0) == 3 * 24  # 1970-01-01 was a Thursday
    assert hour_of_week(4 * 86_400.0) == 0
    assert hour_of_week(4 * 86_400.0 - 1) == 167
