"""How long a request was on its way, by clocks that agree and by clocks that do not."""

import asyncio
import re
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.models.bundle import Bundle
from runtime.serving.arrival import MAX_EDGES, WINDOW_S, ArrivalClock
from runtime.serving.tracing import child_traceparent
from tests.serving_caller import Caller
from tests.serving_example import example_row
from tests.serving_protocols import row_json

NOW_MS = 1_800_000_000_000
PREDICT = "/v1/models/example:predict"
SECOND_NS = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def waited_ms(clock: ArrivalClock, host: str, delay_ms: int) -> float:
    return clock.waited_ns(f"{host}/{NOW_MS - delay_ms}".encode(), NOW_MS * 1_000_000) / 1e6


def test_on_one_machine_it_is_what_the_clock_says() -> None:
    clock = ArrivalClock(host="here")
    assert [waited_ms(clock, "here", delay) for delay in (250, 3, 0, -5)] == [250, 3, 0, 0]


@given(skew=st.integers(-100_000, 100_000), waits=st.lists(st.integers(0, 5000), min_size=1))
def test_another_machines_clock_may_be_wrong_by_any_constant(skew: int, waits: list[int]) -> None:
    clock = ArrivalClock(host="here")
    assert waited_ms(clock, "there", skew) == 0
    # One that stood in no line has shown how wrong the clock is; from then on all are right.
    assert [waited_ms(clock, "there", skew + wait) for wait in waits] == waits


@given(skew=st.integers(-100_000, 100_000), waits=st.lists(st.integers(0, 5000), min_size=1))
def test_nobody_is_said_to_have_waited_longer_than_he_has(skew: int, waits: list[int]) -> None:
    clock = ArrivalClock(host="here")
    assert all(waited_ms(clock, "there", skew + wait) <= wait for wait in waits)


def test_edges_are_told_apart_and_a_clock_that_was_set_is_followed() -> None:
    monotonic = Clock()
    clock = ArrivalClock(host="here", monotonic=monotonic)
    waited_ms(clock, "ahead", -3000)
    waited_ms(clock, "behind", 3000)
    assert (waited_ms(clock, "ahead", -2900), waited_ms(clock, "behind", 3100)) == (100, 100)
    # Set back by a minute: until the windows have passed requests seem to have waited, and then no longer.
    assert waited_ms(clock, "behind", 63_000) == 60_000
    for _ in range(2):
        monotonic.now_s += WINDOW_S
        waited_ms(clock, "behind", 63_000)
    assert waited_ms(clock, "behind", 63_100) == 100


@pytest.mark.parametrize("header", [b"", b"here", b"here/", b"here/x", b"here/-5", b"here/" + b"9" * 30, b"\xff/\xff"])
def test_what_is_no_time_counts_as_none(header: bytes) -> None:
    assert ArrivalClock(host="here").waited_ns(header, time.time_ns()) == 0


def test_it_remembers_no_endless_number_of_edges() -> None:
    clock = ArrivalClock(host="here")
    for number in range(MAX_EDGES + 10):
        waited_ms(clock, str(number), 0)
    assert waited_ms(clock, "0", 70) == 70
    assert waited_ms(clock, str(MAX_EDGES + 5), 70) == 0


def test_a_deadline_counts_from_the_edge(bundle: Bundle, tmp_path: Path) -> None:
    call = Caller(bundle, tmp_path)
    call.service.arrivals = ArrivalClock(host="edge")
    body = row_json([example_row(0)])

    def status(ago_ms: int, timeout_ms: int) -> int:
        arrived = time.time_ns() // 1_000_000 - ago_ms
        return call.ask(PREDICT, body, x_timeout_ms=str(timeout_ms), x_teal_arrived=f"edge/{arrived}").status

    assert status(400, 10_000) == 200
    assert status(400, 300) == 408
    assert call.service.status()["expired"] == 1


def test_a_path_of_v1_answers_in_v1s_words_whatever_the_endpoint_is_called(bundle: Bundle, tmp_path: Path) -> None:
    call = Caller(bundle, tmp_path)
    assert type(orjson.loads(call.ask("/v1/models/v2/v2").body)["error"]) is dict
    assert type(orjson.loads(call.ask("/v2/models/other/infer").body)["error"]) is str
    assert type(orjson.loads(call.ask("/example-blue/v2/models/other/infer").body)["error"]) is str


def test_a_check_for_life_says_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    assert asyncio.run(Caller(bundle, tmp_path).answer("/v2/health/live", method="GET")).body == b'{"live":true}'


# -- traces ----------------------------------------------------------------------------------------------------------


def test_a_child_has_the_trace_and_a_span_of_its_own() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    children = {child_traceparent(parent) for _ in range(50)}
    assert len(children) == 50
    assert all(re.fullmatch(f"00-{'a' * 32}-[0-9a-f]{{16}}-01", child or "") for child in children)
    assert parent not in children


@pytest.mark.parametrize(
    "given", ["", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", "00-a-b-01"]
)
def test_what_is_no_trace_has_no_child(given: str) -> None:
    assert child_traceparent(given) is None
