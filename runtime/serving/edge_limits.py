"""What edges hold each endpoint to: from its serving settings to the control store, from there to a map. Pure."""

from collections.abc import Iterable, Mapping

from runtime.config.serving import ServingConfig
from runtime.store.records import EdgeLimits, EndpointState

MAY_SLEEP = "sleeps"
MUST_BE_UP = "up"


def limits_of(endpoint: str, serving: ServingConfig) -> EdgeLimits:
    return EdgeLimits(
        endpoint=endpoint,
        max_body_bytes=serving.max_body_bytes,
        max_ongoing_requests=serving.max_ongoing_requests,
        max_waiting_requests=serving.max_waiting_requests,
        answer_timeout_s=serving.answer_timeout_s,
        may_sleep=serving.min_replicas == 0,
    )


def complete_limits(
    endpoints: Iterable[EndpointState], told: Iterable[EdgeLimits], serving: ServingConfig
) -> dict[str, EdgeLimits]:
    """Those of every endpoint; `serving` holds for those of which nothing was told."""
    known: Mapping[str, EdgeLimits] = {limits.endpoint: limits for limits in told}
    names = (endpoint.name for endpoint in endpoints)
    return {name: known.get(name) or limits_of(name, serving) for name in names}


def limits_value(limits: EdgeLimits) -> str:
    """What the map holds, of which requests are asked: `max body bytes:whether a slot may sleep`."""
    return f"{limits.max_body_bytes}:{MAY_SLEEP if limits.may_sleep else MUST_BE_UP}"
