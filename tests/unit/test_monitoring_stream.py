"""Control charts against textbook run lengths; ADWIN and Page-Hinkley on streams whose change is known."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ConfigError, ContractError
from runtime.monitoring.stream import Adwin, Cusum, Ewma, PageHinkley, Shewhart, StreamDetector, load_detector

MAKERS: dict[str, Callable[[], StreamDetector]] = {
    "shewhart": lambda: Shewhart(mean=0.5, deviation=0.2),
    "cusum": lambda: Cusum(mean=0.5, deviation=0.2),
    "ewma": lambda: Ewma(mean=0.5, deviation=0.2),
    "page_hinkley": lambda: PageHinkley(limit=3.0),
    "adwin": lambda: Adwin(check_every=1),
}
every_kind = pytest.mark.parametrize("kind", MAKERS)


def alarms_of(detector: StreamDetector, values: list[float]) -> list[int]:
    return [index for index, value in enumerate(values) if detector.update(value)]


def mean_run_length(detector: StreamDetector, *, shift: float, num_values: int) -> float:
    values = np.random.default_rng(7).normal(shift, 1.0, num_values).tolist()
    return num_values / len(alarms_of(detector, values))


@pytest.mark.parametrize(
    ("chart", "shift", "expected"),
    [
        (Shewhart(mean=0, deviation=1), 0.0, 370.4),
        (Cusum(mean=0, deviation=1), 0.0, 465.0),
        (Ewma(mean=0, deviation=1), 0.0, 500.0),
        (Cusum(mean=0, deviation=1), 1.0, 10.4),
        (Ewma(mean=0, deviation=1), 1.0, 10.3),
        (Cusum(mean=0, deviation=1), -1.0, 10.4),
    ],
)
def test_run_lengths_are_the_textbooks(chart: StreamDetector, shift: float, expected: float) -> None:
    num_values = 1_200_000 if shift == 0 else 60_000
    assert mean_run_length(chart, shift=shift, num_values=num_values) == pytest.approx(expected, rel=0.05)


def test_charts_measure_in_deviations_from_the_mean_given() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 5_000)
    for make in (Shewhart, Cusum, Ewma):
        plain = alarms_of(make(mean=0.0, deviation=1.0), values.tolist())
        scaled = alarms_of(make(mean=8.0, deviation=4.0), (8.0 + 4.0 * values).tolist())
        assert plain == scaled
        assert plain


@pytest.mark.parametrize("kind", ["page_hinkley", "adwin"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_change_of_level_is_found_and_calm_is_left_alone(kind: str, direction: int) -> None:
    generator = np.random.default_rng(11)
    calm = (generator.random(2_000) < 0.5).astype(float)
    moved = (generator.random(1_000) < 0.5 + 0.3 * direction).astype(float)
    detector = PageHinkley(limit=30.0) if kind == "page_hinkley" else Adwin()
    found = alarms_of(detector, [*calm.tolist(), *moved.tolist()])
    assert found
    assert 2_000 <= found[0] < 2_250


def test_adwin_keeps_the_new_level_and_little_memory() -> None:
    detector = Adwin()
    generator = np.random.default_rng(5)
    for level in (0.2, 0.8):
        alarms_of(detector, (generator.random(20_000) < level).astype(float).tolist())
    assert detector.mean == pytest.approx(0.8, abs=0.02)
    assert 19_000 < detector.width <= 20_100
    assert sum(map(len, detector.to_json()["state"]["rows"])) <= 6 * 16


def test_adwin_rarely_cuts_a_calm_stream() -> None:
    cuts = 0
    for seed in range(20):
        values = (np.random.default_rng(seed).random(3_000) < 0.3).astype(float)
        cuts += bool(alarms_of(Adwin(), values.tolist()))
    assert cuts <= 2


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=300))
def test_adwin_without_cuts_knows_the_mean_of_all(values: list[float]) -> None:
    detector = Adwin(check_every=1_000)
    alarms_of(detector, values)
    assert detector.width == len(values)
    assert detector.mean == pytest.approx(np.mean(values), abs=1e-9)


@every_kind
@settings(max_examples=40, deadline=None)
@given(before=st.lists(st.floats(-2, 2), max_size=80), after=st.lists(st.floats(-2, 2), max_size=80))
def test_a_detector_goes_on_from_its_state(kind: str, before: list[float], after: list[float]) -> None:
    detector = MAKERS[kind]()
    alarms_of(detector, before)
    loaded = load_detector(json.loads(json.dumps(detector.to_json())))
    assert loaded.to_json() == detector.to_json()
    assert alarms_of(loaded, after) == alarms_of(detector, after)
    assert loaded.to_json() == detector.to_json()


@every_kind
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_change_nothing(kind: str, value: float) -> None:
    detector = MAKERS[kind]()
    detector.update(0.7)
    before = detector.to_json()
    with pytest.raises(ContractError, match="finite"):
        detector.update(value)
    assert detector.to_json() == before


@every_kind
def test_reset_forgets(kind: str) -> None:
    detector = MAKERS[kind]()
    alarms_of(detector, [0.4, 0.6, 0.9])
    detector.reset()
    assert detector.to_json() == MAKERS[kind]().to_json()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shewhart(mean=math.nan, deviation=1), "mean must be finite but got nan"),
        (lambda: Cusum(mean=0, deviation=0), "deviation must be finite and above 0 but got 0"),
        (lambda: Cusum(mean=0, deviation=1, slack=-1), "slack must be at least 0 but got -1"),
        (lambda: Ewma(mean=0, deviation=1, weight=2), "weight must be above 0 and at most 1 but got 2"),
        (lambda: PageHinkley(limit=-1), "limit must be finite and above 0 but got -1"),
        (lambda: PageHinkley(forgetting=0), "forgetting must be above 0 and at most 1 but got 0"),
        (lambda: PageHinkley(min_values=0), "min_values must be at least 1 but got 0"),
        (lambda: Adwin(confidence=1), "confidence must be between 0 and 1 but got 1"),
        (lambda: Adwin(check_every=0), "check_every must be at least 1 but got 0"),
    ],
)
def test_bad_parameters_are_named(make: Callable[[], StreamDetector], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_broken_states_are_refused() -> None:
    with pytest.raises(ContractError, match="unknown stream detector 'oracle'"):
        load_detector({"kind": "oracle"})
    with pytest.raises(ContractError, match="'cusum' is broken"):
        load_detector({"kind": "cusum", "parameters": {"mean": 0, "deviation": 1}, "state": {}})
