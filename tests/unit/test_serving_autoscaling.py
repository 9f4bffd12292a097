"""Bounds by share, and the number wanted within them."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from ray.serve._private.constants import REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeApplicationSchema

from runtime.config.serving import ServingConfig
from runtime.models.bundle import load_bundle
from runtime.serving.arrival import ArrivalClock
from runtime.serving.autoscaling import (
    FAILED_CHECKS,
    CallLoad,
    deployment_options,
    least_replicas,
    wanted_replicas,
)
from runtime.serving.oip_grpc import OipGrpc
from tests.serving_caller import SECRET, Caller
from tests.serving_example import save_example_bundle


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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"idle_replicas": 0},
        {"min_replicas": 0, "idle_replicas": 0},
        {"min_replicas": 2, "max_replicas": 2},
        {"min_replicas": 2, "max_replicas": 2, "idle_replicas": 2, "least_replicas": 2},
        {"min_replicas": 2, "max_replicas": 4, "least_replicas": 2},
    ],
)
def test_no_share_makes_serve_replace_the_replicas(settings: dict[str, Any]) -> None:
    serving = ServingConfig(endpoint="e", **settings)
    versions = {
        get_app_code_version(
            ServeApplicationSchema(import_path="a:b", deployments=[deployment_options(serving, share)])
        )
        for share in (0, 1, 5000, 10_000)
    }
    assert len(versions) == 1


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


def test_the_delays_are_the_configured_ones() -> None:
    serving = ServingConfig(endpoint="e", max_replicas=5, upscale_delay_s=1, downscale_delay_s=2)
    config = AutoscalingConfig(**deployment_options(serving, 10_000)["autoscaling_config"])
    assert (config.upscale_delay_s, config.downscale_delay_s) == (1, 2)
    with pytest.raises(ValidationError, match="downscale_delay_s must be at least 0"):
        ServingConfig(endpoint="e", downscale_delay_s=-1)


def test_the_mean_number_of_calls_is_their_time_by_the_time() -> None:
    now = [10.0]
    load = CallLoad(monotonic=lambda: now[0])
    assert load.take() == 0
    now[0] += 2
    # One after the other, 0.1 s each at the model; each of the last had waited for those before it.
    for number in range(20):
        load.begin()
        load.end(0.1 * min(number + 1, 8))
    assert load.take() == pytest.approx((sum(range(1, 8)) + 13 * 8) * 0.1 / 2)
    now[0] += 2
    assert load.take() == 0
    load.begin()
    load.begin()
    now[0] += 1
    assert load.take() == 2
    load.end(1.0)
    load.end(5.0)
    now[0] += 1
    assert load.take() == 6


def test_calls_over_grpc_count_with_the_time_that_they_waited(tmp_path: Path) -> None:
    save_example_bundle(tmp_path / "b")
    service = Caller(load_bundle(tmp_path / "b"), tmp_path).service
    service.arrivals = ArrivalClock(host="edge")
    now = [10.0]
    service.grpc_load = CallLoad(monotonic=lambda: now[0])
    answers = ["answer"]

    async def handle(_request: Any, _context: Any) -> str:
        return answers.pop()  # a second call fails

    class Context:
        def invocation_metadata(self) -> list[tuple[str, str]]:
            return [("x-teal-edge", SECRET), ("x-teal-arrived", f"edge/{time.time_ns() // 1_000_000 - 3000}")]

        async def abort(self, _code: Any, _text: str) -> None:
            raise grpc.aio.AbortError

    async def ask() -> None:
        guarded = OipGrpc(service).guard(handle)
        assert await guarded(None, Context()) == "answer"
        with pytest.raises(grpc.aio.AbortError):
            await guarded(None, Context())

    asyncio.run(ask())
    now[0] += 1
    assert service.grpc_load.take() == pytest.approx(6, abs=1)
    now[0] += 1
    assert service.grpc_load.take() == 0


@pytest.mark.parametrize(("answer_s", "check_s"), [(10.0, 10 / 3), (60.0, 20.0), (1.0, 2.0)])
def test_a_replica_that_hangs_is_replaced_after_the_time_that_one_may_be_busy(answer_s: float, check_s: float) -> None:
    options = deployment_options(ServingConfig(endpoint="e", answer_timeout_s=answer_s), 5000)
    assert options["health_check_timeout_s"] == pytest.approx(check_s)
    assert options["health_check_period_s"] == 1.0
    # Serve's own count, which it has no setting for.
    assert REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD == FAILED_CHECKS
