"""Counts that come late, across a change of share: they belong before the baseline, or to nobody."""

from pathlib import Path

import numpy as np

from runtime.config.rollout import RolloutMetricConfig
from runtime.monitoring.completeness import GONE_S, Completeness
from runtime.monitoring.deltas import Series
from runtime.rollout.evidence import log_mixture, log_products
from tests.rollout_world import Site, example_plan

BLUE = Series(endpoint="e", slot="blue", model_version="m:1")


def test_complete_is_what_the_slowest_replica_that_is_there_has_delivered() -> None:
    marks = Completeness()
    assert marks.until(BLUE, 100.0) is None
    marks.offer(BLUE, "a", 100.0)
    marks.offer(BLUE, "b", 97.0)
    offered = marks.offered()
    marks.offer(BLUE, "b", 99.0)
    assert marks.until(BLUE, 100.0) is None  # not written yet
    marks.count(offered)
    assert marks.until(BLUE, 100.0) == 97.0
    marks.count(marks.offered())
    assert marks.until(BLUE, 100.0) == 99.0
    marks.offer(BLUE, "a", 100.0 + GONE_S)
    marks.count(marks.offered())
    assert marks.until(BLUE, 100.0 + GONE_S) == 100.0 + GONE_S


def test_while_replicas_are_behind_the_change_of_share_nothing_of_theirs_is_judged(tmp_path: Path) -> None:
    metrics = {
        "errors": RolloutMetricConfig(kind="errors", margin=0.5, negligible_rate=0.02),
        "score": RolloutMetricConfig(kind="score", margin=0.1),
    }
    site = Site(tmp_path, example_plan(metrics=metrics, hold_after_s=30))
    site.world.late_s = 15.0
    site.start()
    site.run(12)
    ticks = site.store.analysis_ticks(site.rollout.id)
    assert ticks
    assert {tick.counts["metrics"]["score up"] for tick in ticks} == {None}
    site.run(10)
    assert site.store.analysis_ticks(site.rollout.id)[-1].counts["metrics"]["score up"] is not None
    site.run(300, until="Succeeded")


def test_what_a_late_delta_would_do_to_the_evidence() -> None:
    """Half of a tick's events were answered at 10 % and are counted at 50 %. Against the canary that cannot turn, as it
    had fewer of them than is thought; for it that is evidence which nothing earned. 500 repetitions at the margin."""
    rng = np.random.default_rng(3)
    margin, share = 0.25, 0.5

    def of_canary(at: float) -> float:
        return at * (1 + margin) / (at * (1 + margin) + 1 - at)

    late = rng.binomial(50, of_canary(0.1), (500, 40))
    timely = rng.binomial(50, of_canary(share), (500, 40))
    risen = {}
    for name, canary in (("mixed", late + timely), ("apart", timely)):
        total = 100 if name == "mixed" else 50
        for direction in ("rollback", "promotion"):
            logs = np.cumsum(log_products(canary, total - canary, share, margin, direction), axis=1)
            risen[name, direction] = (log_mixture(logs) >= np.log(20)).any(axis=1).mean()
    assert risen["mixed", "rollback"] <= 0.05
    assert risen["mixed", "promotion"] > 0.9
    assert risen["apart", "rollback"] <= 0.05
    assert risen["apart", "promotion"] <= 0.05
