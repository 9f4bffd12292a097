"""What an operator does to traffic, whole: is the slot ready, change the store, hint the edges, wait for them."""

from dataclasses import dataclass

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, RefusedError
from runtime.rollout import traffic
from runtime.serving.edge_files import read_secret, touch_hint
from runtime.serving.edge_shares import app_name
from runtime.serving.reconcile import probe
from runtime.store.records import FULL_SHARE, EndpointState, Slot
from runtime.store.rollouts import RolloutStore, check_no_rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    endpoint: EndpointState
    is_new: bool
    """False if the share was there already; nothing was written then."""
    acknowledged_s: float | None
    """Until every live edge applied it."""


def shift(
    config: Config,
    store: RolloutStore,
    endpoint: str,
    share: int,
    *,
    actor: str,
    reason: str = "",
    force: bool = False,
) -> Moved:
    """Give the canary `share` basis points; more than it has only if its slot answers.

    RefusedError while a rollout moves the traffic; `force` ends that.
    """
    state = store.endpoint(endpoint)
    if not force:
        check_no_rollout(store.active_rollout(endpoint))
    if share > state.share:
        check_slot_ready(config, state, state.canary)
    changed, is_new = traffic.shift(store, endpoint, share, actor=actor, reason=reason, force=force)
    return _follow(config, store, changed, is_new=is_new)


def rollback(
    config: Config, store: RolloutStore, endpoint: str, share: int = 0, *, actor: str, reason: str = ""
) -> Moved:
    """Take the canary back to `share` basis points, out of a rollout too. Asks no slot first: it must not wait."""
    changed, is_new = traffic.rollback(store, endpoint, share, actor=actor, reason=reason)
    return _follow(config, store, changed, is_new=is_new)


def return_to(
    config: Config, store: RolloutStore, endpoint: str, version: int, *, actor: str, reason: str = ""
) -> Moved:
    """Go back to a model version that one of the endpoint's slots still holds: all traffic to it, at once.

    NotFoundError says how to bring it back where no slot holds it.
    """
    state = store.endpoint(endpoint)
    primary, canary = (state.slot(slot).model for slot in (state.primary, state.canary))
    if primary is not None and primary.version == version:
        return rollback(config, store, endpoint, actor=actor, reason=reason)
    if canary is not None and canary.version == version:
        return shift(config, store, endpoint, FULL_SHARE, actor=actor, reason=reason, force=True)
    held = ", ".join(model.label for model in (primary, canary) if model is not None)
    name = endpoint if primary is None else primary.name
    raise NotFoundError(
        f"no slot of {endpoint!r} holds version {version}, they hold {held}; `teal deploy {name}:{version}` puts it "
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


def _follow(config: Config, store: RolloutStore, state: EndpointState, *, is_new: bool) -> Moved:
    if not is_new:
        return Moved(endpoint=state, is_new=False, acknowledged_s=None)
    touch_hint(config.paths)
    return Moved(endpoint=state, is_new=True, acknowledged_s=traffic.wait_acknowledged(store, state))
