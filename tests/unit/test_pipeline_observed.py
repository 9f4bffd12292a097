"""What the demo concludes from answers."""

import numpy as np
import pytest

from runtime.pipeline.load import Answer
from runtime.pipeline.observed import binomial_interval, by_second, last_start_ms, observed_share


def answer(started_at: float, slot: str = "blue", generation: int = 1, latency_ms: float = 5.0) -> Answer:
    return Answer(
        started_at=started_at, latency_ms=latency_ms, status=200, slot=slot, generation=generation, model_version="m:1"
    )


def test_the_interval_holds_what_it_promises() -> None:
    low, high = binomial_interval(0.1, 500)
    draws = np.random.default_rng(0).binomial(500, 0.1, size=200_000) / 500
    outside = np.mean((draws < low) | (draws > high))
    assert outside <= 0.001
    assert binomial_interval(1.0, 10) == (1.0, 1.0)
    assert binomial_interval(0.0, 10) == (0.0, 0.0)


def test_a_share_counts_the_answers_of_its_generations_alone() -> None:
    answers = [answer(0, "green", 2), answer(1, "blue", 2), answer(2, "green", 3), answer(3, "blue", 1)]
    share = observed_share(answers, {2, 3}, "green", 0.5)
    assert (share.num_answers, share.is_within) == (3, True)
    assert share.observed == pytest.approx(2 / 3)
    assert not observed_share([answer(0)] * 100, {1}, "green", 0.5).is_within
    with pytest.raises(ValueError, match="no answer was routed by generations"):
        observed_share(answers, {9}, "green", 0.5)


def test_seconds_add_up() -> None:
    series = by_second([answer(10.1, "blue"), answer(10.9, "green", latency_ms=50), answer(12.0, "blue")], 10.0)
    assert [(point.second, point.slot, point.share) for point in series] == [
        (0, "blue", 0.5),
        (0, "green", 0.5),
        (2, "blue", 1.0),
    ]
    assert series[1].p95_ms == 50


def test_the_last_answer_of_a_slot_is_told_from_the_command_on() -> None:
    answers = [answer(9.9, "green"), answer(10.2, "green"), answer(10.4, "blue")]
    assert last_start_ms(answers, "green", 10.0) == pytest.approx(200)
    assert last_start_ms(answers, "green", 10.3) == 0
