"""The canary in the primary's shadow: asked before it has traffic, and kept from it by what it answers."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.rollout.evidence import log_mixture, log_rate_products
from runtime.rollout.page import render_page
from runtime.rollout.shadowing import judge_shadow, sum_counts
from runtime.rollout.summary import summarise
from runtime.serving.shadow import Asked, Tally
from runtime.serving.shadow_target import ShadowTarget
from runtime.store.records import SLOTS, Replica
from tests.rollout_world import ENDPOINT, Site, example_model, example_plan

SHADOW = {"fraction": 0.5, "min_requests": 1000, "max_error_rate": 0.02, "max_difference": 0.05, "max_s": 60}


def counted(asked: int, *, failed: int = 0, difference: float = 0.01, seed: int = 0) -> dict[str, Any]:
    """As a replica counts: exponential differences with this mean."""
    tally = Tally()
    for one in np.random.default_rng(seed).exponential(difference, asked - failed):
        tally.add(np.array([one]), 3.0)
    tally.failed = failed
    return tally.to_json()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, example_plan(shadow=SHADOW))
    site.start()
    site.run(5)
    return site


def test_the_canary_is_asked_before_it_has_traffic_and_then_gets_it(site: Site) -> None:
    assert (site.rollout.phase, site.share) == ("Shadowing", 0)
    assert site.store.shadow_asked(ENDPOINT) == (site.rollout.id, 0.5)
    site.store.record_shadow(site.rollout.id, "r1", counted(600), at=1.0)
    site.run(5)
    assert site.share == 0
    site.store.record_shadow(site.rollout.id, "r2", counted(600), at=1.0)
    site.run(2)
    assert (site.rollout.phase, site.share) == ("Progressing", 1000)
    assert site.store.shadow_asked(ENDPOINT) is None
    assert not site.store.record_shadow(site.rollout.id, "r1", counted(5000), at=2.0)
    site.run(120, until="Succeeded")
    summary = summarise(site.store, site.rollout)
    assert (summary["shadow"]["asked"], summary["shadow"]["outcome"]) == (1200, "Successful")
    assert "<h2>Shadow</h2>" in render_page(summary)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"asked": 200, "failed": 40}, "20.00% of 200 requests failed in the shadow, the limit is 2.00%"),
        ({"asked": 1000, "failed": 30}, "3.00% of 1,000 requests failed"),
        ({"asked": 700, "difference": 0.2}, r"scores differ by 0\.[12]\d+ on average in the shadow, the limit is 0.05"),
        ({"asked": 1000, "difference": 0.06}, "scores differ by 0.0"),
    ],
)
def test_what_is_above_a_limit_ends_it_without_a_single_request_of_a_client(
    site: Site, found: dict[str, Any], reason: str
) -> None:
    site.store.record_shadow(site.rollout.id, "r1", counted(**found), at=1.0)
    site.run(20, until="RolledBack")
    rows = [row.detail for row in site.store.transitions() if row.action == "rollout worse"]
    assert len(rows) == 1
    assert re.search(reason, str(rows[0]["reason"]))
    given = {row.detail["to"] for row in site.store.transitions() if "to" in row.detail}
    assert given <= {0}


def test_too_few_requests_wait_or_end_it_as_the_plan_says(tmp_path: Path, site: Site) -> None:
    site.run(100)
    assert (site.rollout.phase, site.share) == ("Shadowing", 0)
    (tmp_path / "b").mkdir()
    aborting = Site(tmp_path / "b", example_plan(shadow=SHADOW, on_deadline="abort"))
    aborting.start()
    aborting.run(100, until="RolledBack")
    assert any("not decided after 60 s" in str(row.detail.get("reason")) for row in aborting.store.transitions())


def test_a_dead_canary_does_not_pass_whatever_it_answered_before(site: Site) -> None:
    site.world.down = {"green"}
    site.store.record_shadow(site.rollout.id, "r1", counted(2000), at=1.0)
    site.run(5)
    assert (site.rollout.phase, site.share) == ("Shadowing", 0)
    site.world.down = set()
    site.run(2)
    assert site.share == 1000


def test_the_primarys_replicas_hear_of_it_from_the_store_and_tell_what_they_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.serving.shadow_target.REFRESH_S", 0.01)
    sha256 = example_model(2).bundle_sha256
    site.store.register_replica(
        Replica(
            replica_id="g1",
            endpoint=ENDPOINT,
            slot="green",
            host="127.0.0.1",
            port=1,
            grpc_port=2,
            bundle_sha256=sha256,
            state="ready",
            at=time.time(),
        )
    )
    targets = {
        slot: ShadowTarget(site.store, endpoint=ENDPOINT, slot=slot, secret="s", replica_id=f"r-{slot}")
        for slot in SLOTS
    }
    heard: dict[str, list[Asked | None]] = {"blue": [], "green": []}

    async def watch() -> None:
        tasks = [
            asyncio.create_task(target.watch(heard[slot].append, lambda: counted(2000)))
            for slot, target in targets.items()
        ]
        async with asyncio.timeout(20):
            while not site.store.shadow_counts(site.rollout.id):
                await asyncio.sleep(0.01)
            site.run(2)
            while heard["blue"][-1] is not None:
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(watch())
    assert heard == {"blue": [Asked(0.5, site.rollout.id), None], "green": []}
    assert site.rollout.phase == "Progressing"


def test_a_canary_at_the_limit_is_stopped_early_no_more_often_than_alpha_says() -> None:
    """Looked at after every request: 400 repetitions of 1,500 requests with exactly the rate of the limit."""
    rng = np.random.default_rng(5)
    failed = np.cumsum(rng.random((400, 1500)) < 0.02, axis=1)
    evidence = log_mixture(log_rate_products(failed, np.arange(1, 1501), 0.02))
    threshold = judge_shadow(example_plan(shadow=SHADOW), sum_counts([])).threshold
    assert np.exp(threshold) == pytest.approx(40.0)
    assert (evidence >= threshold).any(axis=1).mean() <= 0.04
    worse = np.cumsum(rng.random((100, 1500)) < 0.06, axis=1)
    assert (log_mixture(log_rate_products(worse, np.arange(1, 1501), 0.02)) >= threshold).any(axis=1).mean() > 0.95
