"""The guarantees of the rollout analysis, by simulation and by property, and its verdicts."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from benchmarks import rollout_simulation as simulation
from runtime.core.errors import ContractError, TealError, UsageError
from runtime.rollout import evidence
from runtime.rollout.analysis import Analysis, AnalysisPlan, Metric
from runtime.rollout.event_counts import EventCounts, LatencyPast, count_events, keys_with_events, sum_values
from runtime.rollout.evidence import Direction
from runtime.rollout.metric_state import EventState, ValueState
from runtime.telemetry.latency import count_latencies

ALPHA = 0.05
REPETITIONS = 1000
MAX_FALSE = float(binom.isf(1e-4, REPETITIONS, ALPHA)) / REPETITIONS
"""Above this a false alarm rate is not 5 % any more, chance aside."""

shares = st.floats(0.01, 0.99)
margins = st.floats(0.0, 1.0)
directions: st.SearchStrategy[Direction] = st.sampled_from(["rollback", "promotion"])


def event_plan(**changes: Any) -> AnalysisPlan:
    return AnalysisPlan(**{"metrics": (Metric(name="errors"),), **changes})


def counts(canary: tuple[int, int], primary: tuple[int, int]) -> EventCounts:
    """Each is events of requests."""
    return EventCounts(
        canary_events=canary[0], canary_requests=canary[1], primary_events=primary[0], primary_requests=primary[1]
    )


# -- the guarantee -----------------------------------------------------------------------------------------------------


@given(share=shares, margin=margins, direction=directions, worse=st.floats(1.0, 50.0))
def test_under_the_null_no_factor_grows_on_average(
    share: float, margin: float, direction: Direction, worse: float
) -> None:
    canary, primary = evidence.log_factors(share, margin, direction)
    for risk in (1.0, worse if direction == "promotion" else 1 / worse):
        probability = float(evidence.boundary(share, (1 + margin) * risk))
        growth = probability * np.exp(canary) + (1 - probability) * np.exp(primary)
        assert growth.max() <= 1 + 1e-9
    at_null = float(evidence.boundary(share, 1 + margin))
    np.testing.assert_allclose(at_null * np.exp(canary) + (1 - at_null) * np.exp(primary), 1.0, rtol=1e-9)


@pytest.mark.parametrize("direction", ["rollback", "promotion"])
@pytest.mark.parametrize("margin", [0.0, 0.25])
@pytest.mark.parametrize("is_ramp", [False, True])
def test_false_decisions_stay_within_alpha_however_often_one_looks(
    direction: Direction, margin: float, is_ramp: bool
) -> None:
    split = simulation.ramp(300) if is_ramp else simulation.constant_share(0.1, 300)
    traffic = simulation.simulate_events(
        np.random.default_rng(7), repetitions=REPETITIONS, shares=split, relative_risk=1 + margin
    )
    path = simulation.evidence_path(traffic, margin=margin, direction=direction)
    assert np.isfinite(simulation.first_crossing(path, ALPHA)).mean() <= MAX_FALSE
    if direction == "rollback" and margin == 0:
        assert np.isfinite(simulation.z_test(traffic, ALPHA)).mean() > 0.3, "the traffic would not catch a peeking test"


def test_a_worse_canary_is_found_and_an_equal_one_promoted() -> None:
    rng = np.random.default_rng(8)
    split = simulation.constant_share(0.05, 150)
    twice = simulation.simulate_events(rng, repetitions=200, shares=split, relative_risk=2.0, is_any_hour=True)
    ticks = simulation.first_crossing(simulation.evidence_path(twice, margin=0.0, direction="rollback"), ALPHA)
    assert np.median(ticks) <= 30
    promoted = simulation.evidence_path(twice, margin=0.1, direction="promotion")
    assert not np.isfinite(simulation.first_crossing(promoted, ALPHA)).any()
    half = simulation.constant_share(0.5, 150)
    same = simulation.simulate_events(rng, repetitions=200, shares=half, relative_risk=1.0, is_any_hour=True)
    ticks = simulation.first_crossing(simulation.evidence_path(same, margin=0.5, direction="promotion"), ALPHA)
    assert np.median(ticks) <= 40


def test_latency_thresholds_of_past_ticks_keep_alpha_and_find_a_slow_canary() -> None:
    rng = np.random.default_rng(9)
    same = simulation.latency_evidence(rng, repetitions=500, num_ticks=60, share=0.1, slowdown=1.0, margin=0.0)
    assert np.isfinite(simulation.first_crossing(same, ALPHA)).mean() <= MAX_FALSE
    slow = simulation.latency_evidence(rng, repetitions=100, num_ticks=15, share=0.1, slowdown=1.2, margin=0.0)
    assert np.median(simulation.first_crossing(slow, ALPHA)) <= 6


def test_values_keep_alpha_though_skewed_and_say_nothing_before_500_canary_rows() -> None:
    rng = np.random.default_rng(10)
    path = simulation.value_evidence(rng, repetitions=500, num_ticks=120, share=0.2, shift=0.0)
    assert np.isfinite(simulation.first_crossing(path, ALPHA)).mean() <= MAX_FALSE
    assert not path[:, :18].any()
    shifted = simulation.value_evidence(rng, repetitions=100, num_ticks=120, share=0.2, shift=0.3)
    assert np.median(simulation.first_crossing(shifted, ALPHA)) <= 40


def test_sticky_keys_keep_alpha_when_each_counts_once() -> None:
    rng = np.random.default_rng(11)
    fired = {}
    for counting in ("capped", "once"):
        traffic = simulation.sticky_traffic(rng, repetitions=REPETITIONS, num_ticks=100, share=0.05, counting=counting)
        path = simulation.evidence_path(traffic, margin=0.0, direction="rollback")
        fired[counting] = np.isfinite(simulation.first_crossing(path, ALPHA)).mean()
    assert fired["once"] <= MAX_FALSE
    assert fired["capped"] > 2 * ALPHA, "a cap per tick was found to be enough: say so in docs/rollout-statistics.md"


# -- arithmetic --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), shares), max_size=20), margins, directions)
def test_order_and_grouping_of_ticks_do_not_matter(
    ticks: list[tuple[int, int, float]], margin: float, direction: Direction
) -> None:
    products = [evidence.log_products(x_c, x_b, share, margin, direction) for x_c, x_b, share in ticks]
    backwards = np.sum(products[::-1], axis=0) if products else np.zeros(8)
    forwards = np.sum(products, axis=0) if products else np.zeros(8)
    assert np.isfinite(forwards).all()
    assert evidence.log_mixture(forwards) == pytest.approx(evidence.log_mixture(backwards), abs=1e-6)


@given(share=st.sampled_from([0.0, 1.0]), events=st.integers(0, 10_000), direction=directions)
def test_a_slot_alone_proves_nothing(share: float, events: int, direction: Direction) -> None:
    assert not evidence.log_products(events, events, share, 0.1, direction).any()


@given(share=shares, margin=margins, canary=st.integers(0, 1000), primary=st.integers(0, 1000))
def test_more_canary_events_speak_for_rollback_and_against_promotion(
    share: float, margin: float, canary: int, primary: int
) -> None:
    def log_evidence(events: int, direction: Direction) -> float:
        return float(evidence.log_mixture(evidence.log_products(events, primary, share, margin, direction)))

    assert log_evidence(canary + 1, "rollback") > log_evidence(canary, "rollback")
    assert log_evidence(canary + 1, "promotion") < log_evidence(canary, "promotion")


@pytest.mark.parametrize(("total", "variance", "scale"), [(0.0, 1.0, 1.0), (3.0, 2.0, 0.5), (-2.0, 1.0, 2.0)])
def test_the_normal_mixture_is_the_integral_it_claims_to_be(total: float, variance: float, scale: float) -> None:
    def integrand(theta: float) -> float:
        density = 2 * norm.pdf(theta, scale=math.sqrt(scale))
        return float(math.exp(theta * total - theta**2 * variance / 2) * density)

    expected, _ = quad(integrand, 0, 40)
    assert math.exp(evidence.log_normal_mixture(total, variance, scale)) == pytest.approx(expected, rel=1e-6)


def test_expected_requests_are_near_what_simulation_needs() -> None:
    needed = evidence.expected_requests(
        share=0.05, event_rate=0.01, margin=0.0, relative_risk=2.0, alpha=ALPHA, direction="rollback"
    )
    assert 15_000 <= needed <= 40_000
    args: dict[str, Any] = {"share": 0.05, "event_rate": 0.01, "margin": 0.1, "alpha": ALPHA}
    assert evidence.expected_requests(**args, relative_risk=1.0, direction="rollback") == math.inf
    assert evidence.expected_requests(**args, relative_risk=1.1, direction="promotion") == math.inf


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="within 0"):
        evidence.log_factors(share, 0.1, "rollback")


# -- counting ----------------------------------------------------------------------------------------------------------


def test_a_keys_events_are_capped_and_spent_keys_are_silent() -> None:
    keys = np.array(["a", "a", "b", "a", "c", "b"])
    is_canary, is_event = [1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 1]
    assert count_events(is_canary, is_event) == counts((3, 4), (2, 2))
    assert count_events(is_canary, is_event, keys=keys) == counts((1, 4), (1, 2))
    assert count_events(is_canary, is_event, keys=keys, max_events_per_key=2) == counts((2, 4), (2, 2))
    spent = keys_with_events(keys[:2], is_event[:2])
    assert count_events(is_canary, is_event, keys=keys, spent=spent) == counts((0, 4), (1, 2))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcd")), max_size=60), st.integers(1, 4))
def test_the_cap_is_what_counting_by_hand_gives(rows: list[tuple[bool, bool, str]], cap: int) -> None:
    seen: dict[str, int] = {}
    kept = [0, 0]
    for is_canary, is_event, key in rows:
        seen[key] = seen.get(key, 0) + is_event
        kept[is_canary] += is_event and seen[key] <= cap
    is_canary_all, is_event_all = [row[0] for row in rows], [row[1] for row in rows]
    found = count_events(
        is_canary_all, is_event_all, keys=np.array([row[2] for row in rows], dtype=str), max_events_per_key=cap
    )
    assert [found.primary_events, found.canary_events] == kept


def test_latency_thresholds_come_from_the_past_alone() -> None:
    fast, slow = count_latencies([10.0] * 98 + [40.0] * 2), count_latencies([100.0] * 50)
    past = LatencyPast.empty()
    assert past.events(slow, slow, 0.95) is None
    past = past.after(fast)
    assert past.events(fast, slow, 0.95) == counts((2, 100), (50, 50))
    np.testing.assert_array_equal(past.after(np.zeros_like(fast)).counts, past.counts)


@pytest.mark.parametrize(("events", "requests"), [(-1, 10), (11, 10)])
def test_impossible_counts_are_refused(events: int, requests: int) -> None:
    with pytest.raises(ContractError, match=f"within 0..10 requests but got {events}"):
        counts((events, requests), (0, 1))


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_nothing_counted_holds() -> None:
    analysis = Analysis.begin(event_plan())
    assert analysis.verdict().outcome == "Inconclusive"
    for missing in ({}, {"errors": None}, {"errors": counts((0, 0), (5, 1000))}, {"errors": counts((0, 50), (0, 0))}):
        assert analysis.observe(500, missing).verdict().outcome == "Inconclusive"


def test_many_more_errors_fail_and_stay_failed() -> None:
    analysis = Analysis.begin(event_plan()).observe(500, {"errors": counts((20, 50), (10, 950))})
    assert analysis.verdict().outcome == "Failed"
    assert "most so in errors" in analysis.verdict().reasons[0]
    for _ in range(50):
        analysis = analysis.observe(5000, {"errors": counts((0, 500), (50, 500))})
    assert analysis.verdict().outcome == "Failed"
    assert analysis.observe(500, {}).verdict().outcome == "Failed"


def test_equal_errors_are_promoted_but_not_in_a_tick_without_counts() -> None:
    analysis = Analysis.begin(event_plan())
    for _ in range(60):
        analysis = analysis.observe(5000, {"errors": counts((100, 1000), (100, 1000))})
    assert analysis.verdict().outcome == "Successful"
    held = analysis.observe(5000, {"errors": None}).verdict()
    assert (held.outcome, held.reasons) == ("Inconclusive", ("errors was not counted",))
    assert analysis.at_new_step().verdict().outcome == "Inconclusive"


def test_promotion_needs_every_required_metric() -> None:
    good, silent = counts((10, 1000), (400, 1000)), counts((1, 1000), (1, 1000))
    for is_required, outcome in ((True, "Inconclusive"), (False, "Successful")):
        metrics = (Metric(name="errors"), Metric(name="slow", is_required=is_required))
        analysis = Analysis.begin(event_plan(metrics=metrics))
        for _ in range(5):
            analysis = analysis.observe(5000, {"errors": good, "slow": silent})
        assert analysis.verdict().outcome == outcome


def test_no_harm_promotes_on_requests_and_says_so() -> None:
    analysis = Analysis.begin(event_plan(promote_on="no_harm", min_requests=100))
    analysis = analysis.observe(500, {"errors": counts((0, 60), (0, 900))})
    assert analysis.verdict().outcome == "Inconclusive"
    verdict = analysis.observe(500, {"errors": counts((0, 60), (0, 900))}).verdict()
    assert (verdict.outcome, verdict.basis) == ("Successful", "no_harm")


def test_values_decide_both_ways() -> None:
    rng = np.random.default_rng(3)
    plan = AnalysisPlan(metrics=(Metric(name="score", kind="value", margin=0.2),))
    for shift, outcome in ((0.0, "Successful"), (0.6, "Failed")):
        analysis = Analysis.begin(plan)
        for _ in range(20):
            sums = sum_values(rng.normal(shift, 1.0, 200), rng.normal(0.0, 1.0, 200))
            analysis = analysis.observe(5000, {"score": sums})
        assert analysis.verdict().outcome == outcome
        assert analysis.verdict().metrics[0].is_asymptotic


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 50), st.integers(0, 950), st.booleans()), max_size=15),
    st.sampled_from(["evidence", "no_harm"]),
)
@settings(max_examples=60)
def test_an_analysis_survives_json_and_never_promotes_on_a_gap(
    ticks: list[tuple[int, int, int, bool]], promote_on: str
) -> None:
    plan = AnalysisPlan(
        metrics=(Metric(name="errors", weight=2.0), Metric(name="score", kind="value", is_required=False)),
        promote_on=promote_on,  # type: ignore[arg-type]
    )
    analysis = Analysis.begin(plan)
    for share, canary, primary, is_counted in ticks:
        found = counts((canary // 2, canary), (primary // 2, primary)) if is_counted else None
        values = sum_values(np.arange(canary), np.arange(primary))
        analysis = analysis.observe(share, {"errors": found, "score": values})
        verdict = analysis.verdict()
        if found is None or not canary or not primary:
            assert verdict.outcome != "Successful"
        assert (verdict.outcome == "Failed") == (verdict.log_rollback >= verdict.rollback_threshold)
    assert Analysis.from_json(plan, json.loads(json.dumps(analysis.to_json()))) == analysis


def test_metrics_weighted_together_keep_alpha_whatever_their_dependence() -> None:
    rng = np.random.default_rng(12)
    split = simulation.constant_share(0.1, 200)
    traffic = simulation.simulate_events(rng, repetitions=REPETITIONS, shares=split, relative_risk=1.0)
    again = simulation.simulate_events(rng, repetitions=REPETITIONS, shares=split, relative_risk=1.0)
    paths = [simulation.evidence_path(each, margin=0.0, direction="rollback") for each in (traffic, traffic, again)]
    combined = evidence.log_weighted_sum(np.stack(paths, axis=-1), [0.2, 0.3, 0.5])
    assert np.isfinite(simulation.first_crossing(combined, ALPHA)).mean() <= MAX_FALSE


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"metrics": ()}, "needs metrics"),
        ({"metrics": (Metric(name="a"), Metric(name="a"))}, "different names"),
        ({"metrics": (Metric(name="a", is_required=False),)}, "at least one required"),
        ({"alpha_rollback": 0.0}, "false alarm rate"),
        ({"alpha_promotion": 1.0}, "false alarm rate"),
        ({"min_requests": 0}, "min_requests"),
    ],
)
def test_a_plan_without_sense_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        event_plan(**changes)


@pytest.mark.parametrize("changes", [{"margin": -0.1}, {"margin": math.nan}, {"weight": 0.0}, {"weight": math.inf}])
def test_a_metric_without_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Metric(name="errors", **changes)


def test_counts_of_another_metric_kind_or_share_are_refused_and_change_nothing() -> None:
    analysis = Analysis.begin(event_plan())
    bad: list[tuple[int, dict[str, Any]]] = [
        (500, {"latency": counts((0, 1), (0, 1))}),
        (500, {"errors": sum_values([1.0], [1.0])}),
        (10_001, {"errors": counts((0, 1), (0, 1))}),
    ]
    for share, given_counts in bad:
        with pytest.raises(TealError):
            analysis.observe(share, given_counts)
    assert analysis == Analysis.begin(event_plan())
    with pytest.raises(ContractError, match="2 metrics"):
        Analysis.from_json(event_plan(), {"states": [{}, {}]})
    with pytest.raises(ContractError, match="of the other kind"):
        Analysis.from_json(AnalysisPlan(metrics=(Metric(name="s", kind="value"),)), analysis.to_json())
    assert EventState().log_rollback == ValueState().log_rollback == 0.0


# -- rates that do not matter ------------------------------------------------------------------------------------------


@given(ceiling=st.floats(0.001, 0.5), above=st.floats(1.0, 3.0))
def test_a_rate_from_the_ceiling_up_makes_no_factor_grow(ceiling: float, above: float) -> None:
    rate = min(ceiling * above, 1.0)
    happened, passed = (np.exp(evidence.log_ceiling_products(event, 1, ceiling)) for event in (1, 0))
    assert (rate * happened + (1 - rate) * passed).max() <= 1 + 1e-9


def test_a_canary_above_margin_and_ceiling_is_seldom_promoted_and_one_without_errors_soon() -> None:
    rng = np.random.default_rng(12)
    metric = Metric(name="errors", margin=0.5, negligible_rate=0.01)
    plan = AnalysisPlan(metrics=(metric,), alpha_promotion=ALPHA)
    promoted = 0
    repetitions = 100
    for _ in range(repetitions):
        analysis = Analysis.begin(plan)
        for _ in range(40):
            canary, primary = int(rng.binomial(500, 0.0105)), int(rng.binomial(500, 0.007))
            analysis = analysis.observe(5000, {"errors": counts((canary, 500), (primary, 500))})
            if analysis.verdict().outcome == "Successful":
                promoted += 1
                break
    assert promoted <= binom.isf(1e-4, repetitions, ALPHA)
    clean = Analysis.begin(plan)
    ticks = 0
    while clean.verdict().outcome != "Successful":
        clean = clean.observe(5000, {"errors": counts((0, 100), (0, 100))})
        ticks += 1
    needed = evidence.expected_canary_requests_below(ceiling=0.01, event_rate=0.0, alpha=ALPHA / 2)
    assert ticks * 100 == pytest.approx(needed, rel=0.2)
    restored = Analysis.from_json(plan, json.loads(json.dumps(clean.to_json())))
    assert restored == clean
    assert clean.at_new_step().verdict().outcome == "Inconclusive"
