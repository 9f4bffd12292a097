"""How many replicas a slot gets: the bounds from its share of the traffic, within them what its replicas report. Pure.

Serve counts only what comes its own way; the edge sends straight to the replicas, which report through
`record_autoscaling_stats`. Bounds, factors and delays of the autoscaling configuration are applied by Serve.
"""

import math
from typing import Any

from runtime.config.serving import ServingConfig
from runtime.store.records import FULL_SHARE

DEPLOYMENT = "SlotReplica"
"""The one deployment of every slot's application."""
POLICY = "runtime.serving.autoscaling:wanted_replicas"

ONGOING = "ongoing"
"""The statistic that a replica reports: requests read and not yet answered."""


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
    return min(serving.min_replicas, math.ceil(serving.min_replicas * share / FULL_SHARE))


def deployment_options(serving: ServingConfig, share: int) -> dict[str, Any]:
    """What Serve may change without replacing a replica: how many there are, and how much each is given at a time.

    See `least_replicas`.
    """
    least = least_replicas(serving, share)
    options: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": serving.max_ongoing_requests,
        "max_queued_requests": serving.max_queued_requests,
    }
    if least == serving.max_replicas:
        return options | {"num_replicas": least}
    return options | {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.target_ongoing_requests,
            "policy": {"policy_function": POLICY},
        }
    }
