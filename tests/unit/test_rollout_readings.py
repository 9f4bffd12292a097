"""Counters that only grow, differences between readings, and what a tick makes of them."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.rollout.event_counts import LatencyPast
from runtime.rollout.readings import Counted, Reading, counts_between, has_traffic, metric_counts
from runtime.serving.edge_counters import parse_backends
from tests.rollout_world import example_plan

STAT = """# pxname,svname,qcur,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,
e-blue,BACKEND,0,0,90,0,7,3,0,
e-green,BACKEND,0,0,10,0,0,,1,
e-green.ray,BACKEND,0,0,0,0,0,0,0,

"""


def reading(requests: dict[str, int], *, errors: int = 0, epoch: str = "1", generation: int = 4) -> Reading:
    slots: dict[str, Counted] = {slot: {"requests": [n], "errors": [errors]} for slot, n in requests.items()}
    return Reading(source="edge", at=1.0, generation=generation, epoch=epoch, slots=slots)


def test_a_difference_is_what_happened_since() -> None:
    counts = counts_between(
        reading({"blue": 100, "green": 10}, errors=3), reading({"blue": 190, "green": 20}, errors=4)
    )
    assert counts == {
        "blue": {"requests": [90], "errors": [1]},
        "green": {"requests": [10], "errors": [1]},
    }


def test_another_generation_is_never_compared() -> None:
    assert counts_between(reading({"blue": 1}), reading({"blue": 2}, generation=5)) is None


@pytest.mark.parametrize("after", [{"blue": 40}, {"blue": 140}])
def test_counters_that_began_again_count_from_nothing(after: dict[str, int]) -> None:
    counts = counts_between(reading({"blue": 100}), reading(after, epoch="2"))
    assert counts is not None
    assert counts["blue"]["requests"] == [after["blue"]]
    fallen = counts_between(reading({"blue": 100}), reading({"blue": 40}))
    assert fallen is not None
    assert fallen["blue"]["requests"] == [40]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=10), st.integers(1, 9))
def test_differences_add_up_however_often_one_reads(steps: list[int], every: int) -> None:
    totals = np.cumsum([0, *steps]).tolist()
    looked = [0, *totals[1:][::every], totals[-1]]
    counted = 0
    for before, after in itertools.pairwise(looked):
        counts = counts_between(reading({"blue": before}), reading({"blue": after}))
        assert counts is not None
        counted += int(counts["blue"]["requests"][0])
    assert counted == totals[-1]


def test_a_slot_that_was_not_heard_of_has_no_traffic() -> None:
    counts = counts_between(reading({"blue": 1}), reading({"blue": 5}))
    assert not has_traffic(counts)
    assert not has_traffic(None)
    assert has_traffic(counts_between(reading({"blue": 1, "green": 1}), reading({"blue": 5, "green": 2})))


def test_a_reading_survives_json() -> None:
    original = reading({"blue": 1, "green": 2}, errors=1)
    assert Reading.from_json(original.to_json()) == original


def test_a_source_that_says_nothing_is_missing_and_never_zero() -> None:
    edge: dict[str, Counted] = {slot: {"requests": [50], "errors": [1]} for slot in ("blue", "green")}
    found: dict[str, Any] = metric_counts(example_plan(), {"edge": edge}, "green", "blue", LatencyPast.empty())
    assert found["errors"].canary_events == 1
    assert (found["latency"], found["score up"], found["score down"]) == (None, None, None)


def test_haproxy_tells_answers_and_errors_by_backend() -> None:
    found = parse_backends(STAT)
    assert found["e-blue"] == {"requests": [100], "errors": [3], "refused": [7]}
    assert found["e-green"] == {"requests": [11], "errors": [0], "refused": [0]}
