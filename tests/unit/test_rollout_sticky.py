"""Clients that send x-routing-key: a key's first error counts, and no other of it in the whole rollout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from runtime.rollout.evidence import log_factors
from runtime.rollout.readings import Reading, fresh_keys
from runtime.serving.edge_keys import parse_failed_keys
from tests.rollout_world import Site, example_plan

PLAN: dict[str, Any] = dict(
    is_sticky=True, promote_on="no_harm", metrics={"errors": {"kind": "errors", "margin": 0.5}}, steps_percent=[50, 100]
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, example_plan(**PLAN))
    site.world.failed_keys = {"blue": {"7": 40}, "green": {}}
    site.start()
    site.run(4)
    return site


def counted(site: Site) -> list[tuple[int, int]]:
    ticks = [tick.counts["metrics"]["errors"] for tick in site.store.analysis_ticks(site.rollout.id)]
    return [(tick["canary_events"], tick["primary_events"]) for tick in ticks]


def test_a_broken_client_that_comes_back_and_back_counts_once(site: Site) -> None:
    keys: dict[str, dict[str, int]] = {"blue": {"7": 40, "9": 1}, "green": {"1": 1, "2": 5}}
    site.world.error_rate["green"] = 0.2
    for _ in range(20):
        site.world.failed_keys = {slot: dict(failed) for slot, failed in keys.items()}
        site.run(1)
        for failed in keys.values():
            for key in failed:
                failed[key] += 3
    found = counted(site)
    # Key 7 was broken before, and again since: once, as the others.
    assert (sum(canary for canary, _ in found), sum(primary for _, primary in found)) == (2, 2)
    assert site.rollout.phase != "RolledBack"


def test_many_keys_with_errors_take_the_canary_back(site: Site) -> None:
    failed: dict[str, int] = {}
    for second in range(30):
        failed |= {str(100 + second * 10 + number): 1 for number in range(10)}
        site.world.failed_keys = {"blue": {"7": 40}, "green": dict(failed)}
        site.run(1)
        if site.rollout.phase == "RolledBack":
            return
    pytest.fail(f"still {site.rollout.phase}")


def test_an_edge_that_does_not_tell_keys_holds(site: Site) -> None:
    site.world.failed_keys = None
    assert "errors was not counted" in site.run(30, until="Holding").reason
    site.world.failed_keys = {"blue": {}, "green": {}}
    site.run(100, until="Succeeded")


def test_an_edge_that_began_anew_counts_from_nothing() -> None:
    def reading(epoch: str, failed: dict[str, dict[str, int]]) -> Reading:
        return Reading(source="edge", at=0, generation=1, epoch=epoch, slots={}, failed_keys=failed)

    before = reading("1", {"green": {"5": 9, "6": 1}})
    assert fresh_keys(before, reading("1", {"green": {"5": 9, "6": 2, "8": 1}}), {"8"}) == {"green": frozenset({"6"})}
    assert fresh_keys(before, reading("2", {"green": {"5": 1}}), frozenset()) == {"green": frozenset({"5"})}


def test_what_haproxy_prints() -> None:
    text = (
        "# table: e-green, type: integer, size:100000, used:3\n"
        "0x7f2: key=2743185230 use=0 exp=0 shard=0 gpc0=4\n0x7f3: key=12 use=1 exp=0 shard=0 gpc0=1\n"
    )
    assert parse_failed_keys(text) == {"2743185230": 4, "12": 1}


@pytest.mark.parametrize(("num_keys", "rate"), [(300, 0.01), (3000, 0.002), (3000, 0.01)])
def test_keys_that_are_used_up_convict_no_healthy_canary(num_keys: int, rate: float) -> None:
    """Exactly at the margin, 500 ticks, and in the end most keys have failed: why such plans prove nothing for it."""
    share, margin, repetitions = 0.5, 0.25, 200
    rng = np.random.default_rng(4)
    convicted = promoted = 0
    for _ in range(repetitions):
        canary = rng.random(num_keys) < share
        failed_at = rng.exponential(1 / (rate * np.where(canary, 1 + margin, 1.0)))
        order = np.argsort(failed_at)
        is_canary = canary[order][failed_at[order] < 500, None]
        rises = {}
        for direction in ("rollback", "promotion"):
            of_canary, of_primary = log_factors(share, margin, direction)
            logs = np.cumsum(np.where(is_canary, of_canary, of_primary), axis=0)
            rises[direction] = (logsumexp(logs, axis=1) - np.log(8)).max() >= np.log(20)
        convicted += rises["rollback"]
        promoted += rises["promotion"]
    assert convicted / repetitions <= 0.05
    assert promoted / repetitions > 0.05
