"""How many replicas a slot gets: the bounds from its share of the traffic, within them what its replicas report. Pure.

Serve counts only what comes its own way; the edge sends straight to the replicas, which report through
`record_autoscaling_stats`. Bounds, factors and delays of the autoscaling configuration are applied by Serve.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from runtime.config.serving import ServingConfig
from runtime.store.records import FULL_SHARE

DEPLOYMENT = "SlotReplica"
"""The one deployment of every slot's application."""
POLICY = "runtime.serving.autoscaling:wanted_replicas"

METRICS_INTERVAL_S = 1.0
LOOK_BACK_S = 3.0
"""Over which what replicas report is averaged. Serve's own 30 s would answer a burst when it is over."""

HEALTH_CHECK_PERIOD_S = 1.0
"""By Serve's own 10 s one that hangs would be noticed that much later. A check is one empty call."""
FAILED_CHECKS = 3
"""In a row, after which Serve replaces a replica: all together as long as one may be too busy to say that it lives."""
LEAST_CHECK_S = 2.0
"""A replica is stopped for good by what a crowded machine may do to any process, so this is never shorter."""

ONGOING = "ongoing"
"""The statistic that a replica reports: requests read and not yet answered, by HTTP and gRPC."""


class CallLoad:
    """How many calls were in flight on average, from how long each took from arrival at the edge to its answer.

    For calls that nobody can count while they wait: a gRPC server shows one only once it runs, and a model that runs on
    the event loop lets nobody look meanwhile. By Little's law the mean number is the time that all took, by the time.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since_s = monotonic()
        self._taken_s = 0.0
        self._running = 0

    def begin(self) -> None:
        self._running += 1

    def end(self, took_s: float) -> None:
        self._running -= 1
        self._taken_s += took_s

    def take(self) -> float:
        """Since the last take; at least those that run now, which may be longer at it than that."""
        now_s = self._monotonic()
        mean = self._taken_s / (now_s - self._since_s) if now_s > self._since_s else 0.0
        self._since_s, self._taken_s = now_s, 0.0
        return max(mean, float(self._running))


def wanted_replicas(context: Any) -> tuple[float, dict[str, Any]]:
    """`context`: Serve's AutoscalingContext. As many as bring each to `target_ongoing_requests`."""
    reported = (context.aggregated_metrics or {}).get(ONGOING, {})
    ongoing = sum(reported.values()) + context.total_num_requests
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    return ongoing / context.config.get_target_ongoing_requests(), {}


def least_replicas(serving: ServingConfig, share: int) -> int:
    """How many replicas a slot keeps that must be able to carry `share` basis points of the traffic."""
    if not share:
        return min(serving.idle_replicas, serving.max_replicas)
    by_share = min(serving.min_replicas, math.ceil(serving.min_replicas * share / FULL_SHARE))
    return max(by_share, serving.least_replicas)


def deployment_options(serving: ServingConfig, share: int) -> dict[str, Any]:
    """What Serve may change without replacing a replica: how many there are, and how much each is given at a time.

    See `least_replicas`.
    """
    least = least_replicas(serving, share)
    options: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": serving.max_ongoing_requests,
        "max_queued_requests": serving.max_queued_requests,
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": max(serving.answer_timeout_s / FAILED_CHECKS, LEAST_CHECK_S),
    }
    # By share 1 on it only grows. Serve takes a slot that gets or loses its policy for other code, and replaces all of
    # its replicas, just when they are to get more traffic: so a slot has one at every share or at none.
    if all(least_replicas(serving, at_share) == serving.max_replicas for at_share in (0, 1)):
        return options | {"num_replicas": least}
    return options | {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.target_ongoing_requests,
            "upscale_delay_s": serving.upscale_delay_s,
            "downscale_delay_s": serving.downscale_delay_s,
            "metrics_interval_s": METRICS_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_S,
            "policy": {"policy_function": POLICY},
        }
    }
