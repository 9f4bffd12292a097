"""What a plan's steps need, and which plans are nonsense."""

import math

import pytest

from runtime.config.compose import compose
from runtime.config.rollout import RolloutConfig, RolloutMetricConfig
from runtime.core.errors import ConfigError
from runtime.rollout.plan import analysis_plan, check_plan, outlook, plan_from_json, plan_to_json, steps_of
from tests.rollout_world import Site, example_plan

ERRORS = {"errors": {"kind": "errors", "margin": 0.1}}


@pytest.mark.parametrize("name", ["cautious", "standard", "fast"])
def test_presets_survive_json_and_can_be_decided(name: str) -> None:
    plan = compose([f"rollout={name}"]).rollout
    assert plan_from_json(plan_to_json(plan)) == plan
    assert all(math.isfinite(step.requests) for step in outlook(plan))
    check_plan(plan, requests_per_s=200)


def test_a_step_has_its_own_values_or_the_plans() -> None:
    plan = example_plan(approvals=1, steps={10: {"min_s": 7, "approvals": 1}, 50: {"pause": True}})
    first, second, last = steps_of(plan)
    assert (first.min_s, first.approvals, first.share) == (7, 2, 1000)
    assert (second.min_s, second.approvals, second.pause, last.is_last) == (5, 0, True, True)


def test_a_score_is_compared_in_both_directions() -> None:
    metrics = analysis_plan(example_plan(), steps_of(example_plan())[0]).metrics
    assert [(metric.name, metric.is_higher_worse) for metric in metrics[2:]] == [
        ("score up", True),
        ("score down", False),
    ]


def test_the_forecast_is_about_what_a_rollout_then_takes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    site = Site(tmp_path, example_plan(min_s=0, min_requests=1))
    forecast = outlook(site.plan, 1000)[0]
    site.start()
    site.run(300, until="Succeeded")
    ticks = [tick for tick in site.store.analysis_ticks(site.rollout.id) if tick.step == 0]
    taken = sum(
        tick.counts["slots"]["edge"][slot]["requests"] for tick in ticks for slot in ("blue", "green") if tick.counts
    )
    assert forecast.requests / 3 < taken < forecast.requests * 3


@pytest.mark.parametrize(
    ("changes", "rate", "message"),
    [
        ({}, 1.0, r"the step at 10 % needs about [\d,]+ requests for \w+, but 600 s bring 600 at 1 a second"),
        (
            {"promote_on": "no_harm", "min_requests": 1000},
            10.0,
            r"10,000 requests for min_requests, but 600 s bring 6,000",
        ),
        (
            {"metrics": {"errors": RolloutMetricConfig(kind="errors", margin=0.0)}},
            None,
            r"at 10 % can never pass: errors",
        ),
    ],
)
def test_a_step_that_cannot_decide_is_refused_with_what_it_needs(
    changes: dict[str, object], rate: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_plan(example_plan(**changes), rate)


def test_little_traffic_needs_no_proof_where_none_is_asked() -> None:
    check_plan(example_plan(promote_on="no_harm"), 5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_sticky": True}, "cannot be honoured for latency, score: a sticky key must count once in a rollout"),
        ({"is_sticky": True, "metrics": ERRORS}, "needs promote_on: no_harm"),
        ({"metrics": {"f": {"kind": "feedback", "margin": 0.1}}}, "kind feedback needs a loss"),
        ({"metrics": {"e": {"kind": "errors", "margin": 0.1, "loss": "error"}}}, "kind errors has no loss"),
        ({"metrics": {"f": {"kind": "feedback", "loss": "error", "margin": 0}}}, "margin of feedback must be above"),
        ({"metrics": {"f": {"kind": "feedback", "loss": "error", "margin": 0.1}}}, "must have one that is no feedback"),
        ({"shadow": {"fraction": 0}}, "fraction must be above 0 and at most 1 but got 0"),
        ({"shadow": {"max_error_rate": 1.0}}, r"max_error_rate must be within \(0, 1\) but got 1"),
        ({"steps": {20: {"pause": True}}}, r"steps has \[20\], which steps_percent \[10, 50, 100\] does not"),
        ({"steps": {10: {"pause": True}}}, "the first step, 10 %, cannot pause"),
        ({"alpha_rollback": 1.5}, r"alpha_rollback must be within \(0, 1\) but got 1.5"),
        ({"metrics": {}}, "at least one that is required"),
        ({"max_s": 0}, "max_s must be above 0 but got 0"),
        ({"metrics": {"l": {"kind": "latency", "margin": 0.1}}}, "kind latency needs a quantile"),
        ({"metrics": {"e": {"kind": "errors", "margin": 0.1, "quantile": 0.5}}}, "kind errors has no quantile"),
        ({"metrics": {"s": {"kind": "score", "margin": 0}}}, "the margin of score must be above 0"),
        ({"metrics": {"s": {"kind": "score", "margin": 0.1, "negligible_rate": 0.1}}}, "negligible_rate is for errors"),
    ],
)
def test_a_plan_with_a_mistake_names_it(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example_plan(**changes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.step_percent=[1]", r"did you mean 'rollout.steps_percent'\?"),
        ("rollout.metrics.errors.margni=1", r"did you mean 'rollout.metrics.errors.margin'\?"),
        ("rollout.on_deadline=hope", "on_deadline"),
    ],
)
def test_a_typo_in_a_plan_names_the_nearest_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([override])


def test_a_plan_of_another_version_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        plan_from_json({**plan_to_json(RolloutConfig()), "colour": "blue"})
