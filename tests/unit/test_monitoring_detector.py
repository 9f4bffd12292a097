"""The false alarm budget by simulation, shifts of known size, and that the state survives a restart to the last bit."""

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ConfigError, ContractError
from runtime.data.accumulate import Accumulator
from runtime.data.counts import Float64s
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import build_profile
from runtime.monitoring.detector import (
    REFERENCE_SHARE,
    DetectorConfig,
    DriftDetector,
    fold_cells,
    log_mean,
    reference_probabilities,
)

TWO = {"a": np.array([0.5, 0.5]), "b": np.array([0.2, 0.3, 0.5])}
MONTH = DetectorConfig.for_period(period_s=30 * 86_400, tick_s=10)


def sizes_of(reference: dict[str, Float64s]) -> dict[str, int]:
    return {name: shares.size for name, shares in reference.items()}


def draw(generator: np.random.Generator, rows: int, shares: dict[str, Float64s]) -> dict[str, Float64s]:
    return {name: generator.multinomial(rows, p).astype(np.float64) for name, p in shares.items()}


def run(detector: DriftDetector, ticks: list[dict[str, Float64s]], reference: dict[str, Float64s]) -> list[bool]:
    return [detector.update(tick, reference) for tick in ticks]


def by_definition(ticks: list[Float64s], p: Float64s, config: DetectorConfig) -> list[float]:
    """log of the mean of M for one feature, straight from the formula."""
    prior = p * p.size
    observed, expected = ([np.zeros(p.size) for _ in config.decays] for _ in range(2))
    evidence, logs = [0.0] * len(config.decays), []
    for x in ticks:
        for d, decay in enumerate(config.decays):
            ewma = (observed[d] + prior) / (expected[d].sum() + p.size)
            q = REFERENCE_SHARE * p + (1 - REFERENCE_SHARE) * ewma
            e = float(np.prod((q / p) ** x)) * (1 + config.margin) ** -x.sum()
            evidence[d] = (evidence[d] + 1) * e
            observed[d] = decay * observed[d] + x
            expected[d] = decay * expected[d] + x.sum() * p
        logs.append(math.log(sum(evidence) / len(evidence)))
    return logs


def test_evidence_is_that_of_the_formula() -> None:
    generator, p = np.random.default_rng(1), np.array([0.1, 0.2, 0.7])
    config = DetectorConfig(budget_ticks=1_000)
    ticks = [generator.multinomial(20, [0.15, 0.25, 0.6]).astype(np.float64) for _ in range(12)]
    detector = DriftDetector(config, {"x": 3})
    found = []
    for tick in ticks:
        detector.update({"x": tick}, {"x": p})
        found.append(detector.log_evidence)
    assert found == pytest.approx(by_definition(ticks, p, config), abs=1e-9)


def test_expected_evidence_without_drift_is_the_number_of_ticks() -> None:
    """E[M_t] = t without margin: what the budget rests on. A bet that had seen its own tick would fail by far."""
    num_runs, num_ticks = 20_000, 4
    reference = {str(r): np.array([0.3, 0.7]) for r in range(num_runs)}
    detector = DriftDetector(DetectorConfig(budget_ticks=1e9, margin=0.0), dict.fromkeys(reference, 2))
    generator = np.random.default_rng(2)
    for tick in range(1, num_ticks + 1):
        heads = generator.binomial(6, 0.3, num_runs)
        detector.update({str(r): np.array([h, 6 - h], float) for r, h in enumerate(heads)}, reference)
        m = np.exp(detector.log_m).mean(axis=0)
        assert m.mean() == pytest.approx(tick, abs=5 * m.std() / math.sqrt(num_runs))


@pytest.mark.parametrize(("margin", "rows"), [(0.0, 3), (0.0, 50), (0.01, 50)])
def test_the_mean_run_length_keeps_the_budget(margin: float, rows: int) -> None:
    """150 runs of 3 features that move together, of which dependence must not matter; runs end at the first alarm."""
    num_runs, budget, num_ticks = 150, 20, 200
    p = np.array([0.05, 0.25, 0.3, 0.4])
    reference = {f"{r}:{f}": p for r in range(num_runs) for f in range(3)}
    detector = DriftDetector(DetectorConfig(budget_ticks=budget, margin=margin), dict.fromkeys(reference, 4))
    generator = np.random.default_rng(3)
    lengths = np.full(num_runs, num_ticks)
    for tick in range(1, num_ticks + 1):
        counts = generator.multinomial(rows, p, num_runs).astype(np.float64)
        detector.update({f"{r}:{f}": counts[r] for r in range(num_runs) for f in range(3)}, reference)
        evidence = log_mean(detector.log_m.reshape(3, num_runs, 3), axis=(0, 2))
        lengths = np.where((evidence >= math.log(budget)) & (lengths > tick), tick, lengths)
    assert lengths.mean() >= budget


def test_a_sampled_reference_needs_the_margin() -> None:
    generator = np.random.default_rng(4)
    truth = {str(i): np.full(20, 0.05) for i in range(30)}
    reference = reference_probabilities(draw(generator, 10_000, truth))
    ticks = [draw(generator, 1_000, truth) for _ in range(150)]
    assert not any(run(DriftDetector(MONTH, sizes_of(reference)), ticks, reference))
    bare = DetectorConfig(budget_ticks=MONTH.budget_ticks, margin=0.0)
    assert any(run(DriftDetector(bare, sizes_of(reference)), ticks, reference))


def test_a_quarter_of_a_deviation_in_one_of_thirty_features_is_found_and_named() -> None:
    generator = np.random.default_rng(5)
    names = tuple(f"x{i}" for i in range(30))
    encoding = Encoding(numeric=names, categorical=(), vocabularies={})
    none = np.zeros((10_000, 0), dtype=np.int64)
    sample = generator.standard_normal((10_000, 30), dtype=np.float32)
    profile = build_profile(Encoded(numeric=sample, categorical=none), encoding)
    reference = reference_probabilities(fold_cells(profile, profile.counts))
    detector = DriftDetector(MONTH, sizes_of(reference))
    accumulator = Accumulator(profile)
    alarms = []
    for tick in range(1, 31):
        live = generator.standard_normal((1_000, 30), dtype=np.float32)
        live[:, 17] += 0.25 * (tick > 20)
        accumulator.add(live, none[:1_000], np.zeros(1_000))
        alarms.append(detector.update(fold_cells(profile, accumulator.take()), reference))
    assert not any(alarms[:20])
    assert any(alarms[20:28])
    worst, second = detector.culprits()[:2]
    assert worst.feature == "x17"
    assert worst.since_tick is not None
    assert 20 <= worst.since_tick <= 24
    assert worst.log_evidence > second.log_evidence + 10


def test_a_drift_of_a_day_ends_soon_after_it_ended_and_restart_clears_at_once() -> None:
    generator = np.random.default_rng(6)
    reference = {"a": np.full(10, 0.1)}
    moved = {"a": np.array([0.3, *[0.7 / 9] * 9])}
    detector = DriftDetector(MONTH, {"a": 10})
    assert run(detector, [draw(generator, 1_000, moved) for _ in range(2_000)], reference)[-1]
    copy = DriftDetector.from_json(detector.to_json())
    copy.restart()
    assert not copy.is_alarm
    assert copy.culprits()[0].log_evidence == -math.inf
    after = run(detector, [draw(generator, 1_000, reference) for _ in range(300)], reference)
    assert not after[-1]


def test_the_reference_of_the_hour_explains_the_hour() -> None:
    generator = np.random.default_rng(7)
    day, night = {"a": np.array([0.8, 0.2])}, {"a": np.array([0.2, 0.8])}
    ticks = [(draw(generator, 500, hour), hour) for _ in range(4) for hour in [day] * 12 + [night] * 12]
    seasonal, blind = (DriftDetector(MONTH, {"a": 2}) for _ in range(2))
    alarms = [(seasonal.update(tick, hour), blind.update(tick, day)) for tick, hour in ticks]
    assert not any(by_hour for by_hour, _ in alarms)
    assert any(by_day for _, by_day in alarms)
    moved = [
        seasonal.update(draw(generator, 500, {"a": 0.85 * h["a"] + [0.15, 0]}), h) for h in [day] * 6 + [night] * 6
    ]
    assert moved[-1]


def test_traffic_exactly_as_the_hour_expects_is_no_bet_lost_when_the_hour_changes() -> None:
    day, night = {"a": np.array([0.75, 0.25])}, {"a": np.array([0.125, 0.875])}
    detector = DriftDetector(DetectorConfig(budget_ticks=1e6, margin=0.0), {"a": 2})
    for tick, hour in enumerate(([day] * 5 + [night] * 5) * 3, start=1):
        detector.update({"a": 800 * hour["a"]}, hour)
        assert detector.log_evidence == pytest.approx(math.log(tick), abs=1e-9)


def test_no_rows_no_evidence() -> None:
    detector = DriftDetector(DetectorConfig(budget_ticks=5), sizes_of(TWO))
    empty = {"a": np.zeros(2), "b": np.zeros(3)}
    assert not any(run(detector, [empty] * 50, TWO))
    assert detector.num_ticks == 0
    detector.update({"a": np.array([9.0, 1.0]), "b": np.zeros(3)}, TWO)
    before = {c.feature: c.log_evidence for c in detector.culprits()}
    assert before["b"] == -math.inf
    assert math.isfinite(before["a"])


ticks_of_two = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5_000), min_size=2, max_size=2), st.lists(st.integers(0, 5_000), min_size=3, max_size=3)
    ),
    max_size=12,
).map(lambda ticks: [{"a": np.array(a, float), "b": np.array(b, float)} for a, b in ticks])


@settings(max_examples=60, deadline=None)
@given(before=ticks_of_two, after=ticks_of_two)
def test_a_restored_detector_goes_on_as_if_nothing_had_happened(before: Any, after: Any) -> None:
    detector = DriftDetector(MONTH, sizes_of(TWO))
    run(detector, before, TWO)
    text = json.dumps(detector.to_json(), allow_nan=False)
    for state in (json.loads(text), orjson.loads(orjson.dumps(detector.to_json()))):
        copy = DriftDetector.from_json(state)
        twin = DriftDetector.from_json(json.loads(text))
        assert copy.to_json() == detector.to_json()
        assert run(copy, after, TWO) == run(twin, after, TWO)
        assert json.dumps(copy.to_json()) == json.dumps(twin.to_json())
        assert copy.culprits() == twin.culprits()


@settings(max_examples=60, deadline=None)
@given(ticks=ticks_of_two)
def test_the_order_of_features_does_not_matter(ticks: Any) -> None:
    forwards = DriftDetector(MONTH, sizes_of(TWO))
    backwards = DriftDetector(MONTH, dict(reversed(sizes_of(TWO).items())))
    run(forwards, ticks, TWO)
    run(backwards, ticks, TWO)
    assert forwards.log_evidence == pytest.approx(backwards.log_evidence, rel=1e-9, abs=1e-9)
    assert forwards.log_m == pytest.approx(backwards.log_m[:, ::-1], rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(ticks=ticks_of_two, margins=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)))
def test_a_larger_margin_never_gives_more_evidence(ticks: Any, margins: tuple[float, float]) -> None:
    small, large = (
        DriftDetector(DetectorConfig(budget_ticks=1e6, margin=margin), sizes_of(TWO)) for margin in sorted(margins)
    )
    for tick in ticks:
        small.update(tick, TWO)
        large.update(tick, TWO)
        assert large.log_evidence <= small.log_evidence + 1e-9


@settings(max_examples=60, deadline=None)
@given(ticks=ticks_of_two, budgets=st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)))
def test_a_larger_budget_never_alarms_sooner(ticks: Any, budgets: tuple[float, float]) -> None:
    small, large = (DriftDetector(DetectorConfig(budget_ticks=b), sizes_of(TWO)) for b in sorted(budgets))
    first = [next((i for i, alarm in enumerate(run(d, ticks, TWO)) if alarm), math.inf) for d in (small, large)]
    assert first[0] <= first[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_ticks": 0.5}, "budget_ticks must be finite and at least 1 but got 0.5"),
        ({"budget_ticks": math.nan}, "budget_ticks must be finite"),
        ({"budget_ticks": 9, "margin": -0.1}, "margin must be at least 0 and below 1 but got -0.1"),
        ({"budget_ticks": 9, "decays": ()}, "decays must be one or more"),
        ({"budget_ticks": 9, "decays": (0.5, 1.0)}, "between 0 and 1"),
        ({"budget_ticks": 9, "decays": (0.5, 0.5)}, "differ"),
    ],
)
def test_a_bad_configuration_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**arguments)


@pytest.mark.parametrize(
    ("counts", "reference", "message"),
    [
        ({"a": [1, 1]}, TWO, r"missing \['b'\], unknown \[\]"),
        ({"a": [1, 1], "b": [1, 1]}, TWO, "counts of 'b' must have 3 cells"),
        ({"a": [1, 1], "b": [1, -1, 0]}, TWO, "counts of 'b' must be 0 or more but got -1"),
        ({"a": [1, math.nan], "b": [1, 1, 0]}, TWO, "counts of 'a' must be 0 or more but got nan"),
        ({"a": [1, 1], "b": [1, 1, 1]}, TWO | {"a": [1.0, 0.0]}, "'a' must be above 0 but got 0"),
        ({"a": [1, 1], "b": [1, 1, 1]}, TWO | {"b": [0.5, 0.5, 0.5]}, "'b' must sum to 1 but got 1.5"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(counts: Any, reference: Any, message: str) -> None:
    detector = DriftDetector(MONTH, sizes_of(TWO))
    detector.update({"a": np.array([3.0, 4.0]), "b": np.ones(3)}, TWO)
    before = detector.to_json()
    with pytest.raises(ContractError, match=message):
        detector.update({k: np.array(v) for k, v in counts.items()}, {k: np.array(v) for k, v in reference.items()})
    assert detector.to_json() == before


def test_broken_states_are_refused() -> None:
    state = DriftDetector(MONTH, sizes_of(TWO)).to_json()
    for broken, message in (
        ({"format": 0}, "format 0"),
        ({"since": None}, "since"),
        ({"observed": [[1.0]]}, "observed"),
        ({"log1p_m": [[math.nan, 0.0]] * 3}, "log1p_m"),
    ):
        with pytest.raises(ContractError, match=message):
            DriftDetector.from_json({**state, **broken})
    del state["num_ticks"]
    with pytest.raises(ContractError, match="num_ticks"):
        DriftDetector.from_json(state)


def test_counts_of_other_features_do_not_fold() -> None:
    one, two = (
        build_profile(
            Encoded(numeric=np.ones((50, n), dtype=np.float32), categorical=np.zeros((50, 0), dtype=np.int64)),
            Encoding(numeric=tuple("ab"[:n]), categorical=(), vocabularies={}),
        )
        for n in (1, 2)
    )
    with pytest.raises(ContractError, match="do not fit"):
        fold_cells(one, two.counts)
