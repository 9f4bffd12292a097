"""What an operator does to traffic, whole: is the slot ready, change the store, hint the edges, wait for them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, RefusedError
from runtime.rollout import traffic
from runtime.rollout.capacity import capacity_of_endpoints
from runtime.rollout.commands import apply_event
from runtime.rollout.phases import Event
from runtime.serving.autoscaling import least_replicas
from runtime.serving.edge_files import read_secret, touch_hint
from runtime.serving.edge_shares import app_name
from runtime.serving.reconcile import probe, read_settings, reconcile
from runtime.serving.registration import count_ready
from runtime.store.records import FULL_SHARE, SLOTS, EndpointState, Slot
from runtime.store.rollouts import Rollout, RolloutStore, check_no_rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    endpoint: EndpointState
    is_new: bool
    """False if the share was there already; nothing was written then."""
    acknowledged_s: float | None
    """Until every live edge applied it."""
    is_rehearsed: bool = False
    """Nothing was written; `endpoint` is as it would be."""


def shift(
    config: Config,
    store: RolloutStore,
    endpoint: str,
    share: int,
    *,
    actor: str,
    reason: str = "",
    force: bool = False,
    key: str | None = None,
    is_rehearsed: bool = False,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Moved:
    """Give the canary `share` basis points; more than it has only if its slot answers. Each slot has the replicas for
    what it is to carry first: TealError if they do not come up, and nothing is moved.

    RefusedError while a rollout moves the traffic; `force` ends that. A repeated `key` moves nothing again and waits
    for the edges again. `is_rehearsed`: check everything, show what would be, write nothing.
    """
    if key is None or not store.is_answered(key):
        state = store.endpoint(endpoint)
        if not force:
            check_no_rollout(store.active_rollout(endpoint))
        if share > state.share:
            check_slot_ready(config, state, state.canary)
        if share != state.share and not is_rehearsed:
            _make_room(config, store, state, share, on_progress)
    request = {"command": "shift", "endpoint": endpoint, "share": share, "force": force, "actor": actor}
    return _move(
        config,
        store,
        endpoint,
        request,
        lambda: traffic.shift(store, endpoint, share, actor=actor, reason=reason, force=force),
        key=key,
        is_rehearsed=is_rehearsed,
    )


def rollback(
    config: Config,
    store: RolloutStore,
    endpoint: str,
    share: int = 0,
    *,
    actor: str,
    reason: str = "",
    key: str | None = None,
    is_rehearsed: bool = False,
) -> Moved:
    """Take the canary back to `share` basis points, out of a rollout too. Asks no slot first: it must not wait.

    `key` and `is_rehearsed` as for `shift`.
    """
    request = {"command": "rollback", "endpoint": endpoint, "share": share, "actor": actor}
    return _move(
        config,
        store,
        endpoint,
        request,
        lambda: traffic.rollback(store, endpoint, share, actor=actor, reason=reason),
        key=key,
        is_rehearsed=is_rehearsed,
    )


def return_to(
    config: Config,
    store: RolloutStore,
    endpoint: str,
    version: int,
    *,
    actor: str,
    reason: str = "",
    key: str | None = None,
    is_rehearsed: bool = False,
) -> Moved:
    """Go back to a model version that one of the endpoint's slots still holds: all traffic to it, at once.

    NotFoundError says how to bring it back where no slot holds it. `key` and `is_rehearsed` as for `shift`.
    """
    if key is None or not store.is_answered(key):
        state = store.endpoint(endpoint)
        if _slot_with(state, version) != state.primary:
            check_slot_ready(config, state, state.canary)

    def move() -> tuple[EndpointState, bool]:
        state = store.endpoint(endpoint)
        if _slot_with(state, version) == state.primary:
            return traffic.rollback(store, endpoint, actor=actor, reason=reason)
        return traffic.shift(store, endpoint, FULL_SHARE, actor=actor, reason=reason, force=True)

    request = {"command": "return", "endpoint": endpoint, "version": version, "actor": actor}
    return _move(config, store, endpoint, request, move, key=key, is_rehearsed=is_rehearsed)


def promote_rollout(
    config: Config,
    store: RolloutStore,
    rollout: Rollout,
    *,
    actor: str,
    reason: str = "",
    key: str | None = None,
    has_room: bool = False,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Rollout:
    """Give the canary of a rollout all traffic, without the evidence of the steps that are left.

    Its slot has the replicas for that first: TealError if they do not come up, and nothing is moved. `has_room`: do not
    see to it. RefusedError where the rollout cannot be promoted. `key` as for `shift`.
    """

    def promote(key: str | None) -> Rollout:
        return apply_event(store, rollout.id, Event.PROMOTE, by=actor, reason=reason, key=key)

    if not has_room and (key is None or not store.is_answered(key)):
        store.rehearse(lambda: promote(None))
        if rollout.plan["capacity_lead"]:
            _make_room(config, store, store.endpoint(rollout.endpoint), FULL_SHARE, on_progress)
    promoted = promote(key)
    touch_hint(config.paths)
    return promoted


def _slot_with(state: EndpointState, version: int) -> Slot:
    """The slot that holds the model version, the primary if both do. NotFoundError if none does."""
    for slot in (state.primary, state.canary):
        model = state.slot(slot).model
        if model is not None and model.version == version:
            return slot
    primary, canary = (state.slot(slot).model for slot in (state.primary, state.canary))
    held = ", ".join(model.label for model in (primary, canary) if model is not None)
    name = state.name if primary is None else primary.name
    raise NotFoundError(
        f"no slot of {state.name!r} holds version {version}, they hold {held}; `teal deploy {name}:{version}` puts it "
        "into the idle one, then `teal shift 100`"
    )


def check_slot_ready(config: Config, state: EndpointState, slot: Slot) -> None:
    """RefusedError unless a replica answers from this slot with the model that the store wants in it."""
    model = state.slot(slot).model
    if model is None:
        raise RefusedError(f"slot {slot} of {state.name!r} holds no model; deploy one before shifting")
    ports = config.cluster.ports
    url = f"http://{config.cluster.host}:{ports.serve}/{app_name(state.name, slot)}/v2/health/ready"
    if probe(url, read_secret(config.paths.run)).get("bundle_sha256") != model.bundle_sha256:
        raise RefusedError(
            f"slot {slot} of {state.name!r} does not answer as {model.label}; `teal deploy {model.label}` starts it"
        )


def _make_room(
    config: Config, store: RolloutStore, state: EndpointState, share: int, on_progress: Callable[[str], None]
) -> None:
    """Have Serve start, and wait for, what both slots need once the canary has `share`."""
    settings, after = read_settings(config, state.name), replace(state, share=share)
    shares = {slot: after.slot_share(slot) for slot in SLOTS if state.slot(slot).model is not None}
    rows = store.replicas(state.name)
    lacking = [
        f"{least} replicas in slot {slot}"
        for slot, share_of_slot in shares.items()
        # One that answers is there: that was checked, or the slot has traffic.
        if (least := least_replicas(settings, share_of_slot)) > max(1, count_ready(rows, state, slot, time.time()))
    ]
    if not lacking:
        return
    on_progress(f"starting what is needed: {', '.join(lacking)}")
    capacity = capacity_of_endpoints(store, config.rollout.rollback_window_s, time.time())
    for slot, share_of_slot in shares.items():
        app = app_name(state.name, slot)
        capacity[app] = max(capacity.get(app, 0), share_of_slot)
    reconcile(
        store,
        replace(config, serving=settings),
        token=read_token(config.paths.run),
        capacity=capacity,
        keeps_settings=True,
        on_progress=on_progress,
    )


def _move(
    config: Config,
    store: RolloutStore,
    endpoint: str,
    request: Mapping[str, Any],
    action: Callable[[], tuple[EndpointState, bool]],
    *,
    key: str | None,
    is_rehearsed: bool,
) -> Moved:
    if is_rehearsed:
        state, is_new = store.rehearse(action)
        return Moved(endpoint=state, is_new=is_new, acknowledged_s=None, is_rehearsed=True)
    if key is None:
        state, is_new = action()
    else:

        def act() -> dict[str, Any]:
            moved, is_new = action()
            return {"generation": moved.generation, "is_new": is_new}

        answer = store.idempotent(key, request, act)
        state, is_new = store.endpoint(endpoint), bool(answer.value["is_new"])
        if answer.is_repeated:
            # Whoever repeats it because the edges did not follow in time wants to know whether they do now.
            return Moved(endpoint=state, is_new=False, acknowledged_s=traffic.wait_acknowledged(store, state))
    if not is_new:
        return Moved(endpoint=state, is_new=False, acknowledged_s=None)
    touch_hint(config.paths)
    return Moved(endpoint=state, is_new=True, acknowledged_s=traffic.wait_acknowledged(store, state))
