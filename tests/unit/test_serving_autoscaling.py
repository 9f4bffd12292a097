"""Bounds by share, and the number wanted within them."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from runtime.config.serving import ServingConfig
from runtime.serving.autoscaling import deployment_options, least_replicas, wanted_replicas


@pytest.mark.parametrize(("share", "least"), [(0, 1), (1, 1), (2500, 1), (2501, 2), (10_000, 4)])
def test_a_slot_keeps_what_its_share_needs(share: int, least: int) -> None:
    serving = ServingConfig(endpoint="e", min_replicas=4, max_replicas=8)
    assert least_replicas(serving, share) == least


def test_a_slot_that_may_go_to_zero_does() -> None:
    serving = ServingConfig(endpoint="e", min_replicas=0, max_replicas=2, idle_replicas=0)
    assert least_replicas(serving, 0) == least_replicas(serving, 10_000) == 0


def test_serve_takes_the_options() -> None:
    serving = ServingConfig(endpoint="e", min_replicas=2, max_replicas=5, target_ongoing_requests=3)
    config = AutoscalingConfig(**deployment_options(serving, 5000)["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas, config.get_target_ongoing_requests()) == (1, 5, 3)
    assert config.policy.get_policy().__name__ == wanted_replicas.__name__
    assert deployment_options(ServingConfig(endpoint="e"), 10_000)["num_replicas"] == 1


def context(replicas: int, ongoing: list[float], through_serve: float = 0.0) -> Any:
    return SimpleNamespace(
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        total_num_requests=through_serve,
        aggregated_metrics={"ongoing": dict(enumerate(ongoing))},
        config=AutoscalingConfig(target_ongoing_requests=4),
    )


def test_replicas_follow_what_they_are_busy_with() -> None:
    assert wanted_replicas(context(2, [8, 8]))[0] == 4
    assert wanted_replicas(context(2, [1, 1], through_serve=6))[0] == 2
    assert wanted_replicas(context(4, [0, 0, 0, 0]))[0] == 0
    assert wanted_replicas(context(0, []))[0] == 0
