"""How much traffic each slot must be able to carry while a rollout moves it, and who sees to it.

Replicas take seconds to start, and a rollback must not wait for them: Serve is asked from a thread of its own. What is
wanted follows from the store alone, so a controller that is killed asks for the same again.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from runtime.config.rollout import RolloutConfig
from runtime.config.serving import ServingConfig
from runtime.core.errors import TealError
from runtime.rollout.phases import TERMINAL, Phase
from runtime.rollout.plan import plan_from_json, steps_of
from runtime.serving.autoscaling import least_replicas
from runtime.serving.edge_shares import app_name
from runtime.serving.registration import STALE_S
from runtime.store.records import FULL_SHARE, SLOTS, EndpointState, Replica, Slot, other_slot
from runtime.store.rollouts import Rollout, RolloutStore

RETRY_S = 5.0

Apply = Callable[[str, Mapping[str, int]], None]
"""Of an endpoint, and application to basis points: make Serve run as many replicas as that takes. TealError if not."""


def wanted_capacity(rollout: Rollout, plan: RolloutConfig, *, is_rising: bool) -> dict[Slot, int]:
    """Basis points that each slot must be able to carry beyond its share. `is_rising`: the next share is about to come.

    Until the rollout is decided the primary can take everything back at once; then both go to what their shares need.
    """
    phase = Phase(rollout.phase)
    if not plan.capacity_lead or phase in (Phase.DRAINING, *TERMINAL):
        return {}
    steps = steps_of(plan)
    number = min(rollout.step + is_rising, len(steps) - 1)
    canary: Slot = "blue" if rollout.canary_slot == "blue" else "green"
    return {canary: steps[number].share if number >= 0 else 0, other_slot(canary): FULL_SHARE}


def capacity_of_rollouts(store: RolloutStore) -> dict[str, int]:
    """Application to basis points, of every active rollout: for whoever else renders Serve's configuration."""
    found: dict[str, int] = {}
    for rollout in store.rollouts(is_active=True):
        is_rising = rollout.is_step_passed or rollout.phase in (Phase.PREPARING, Phase.SHADOWING)
        wanted = wanted_capacity(rollout, plan_from_json(rollout.plan), is_rising=is_rising)
        found |= {app_name(rollout.endpoint, slot): share for slot, share in wanted.items()}
    return found


class ReplicaRows(Protocol):
    """What is needed of the control store."""

    def replicas(self, endpoint: str | None = None) -> list[Replica]: ...


class Capacity:
    """Asks for replicas and counts those that came. For one thread, beside its own."""

    def __init__(self, store: ReplicaRows, apply: Apply, read_settings: Callable[[str], ServingConfig]) -> None:
        self._store = store
        self._apply = apply
        self._read_settings = read_settings
        self._applied: dict[str, dict[str, int]] = {}
        """Endpoint to application to replicas, as Serve was last told."""
        self._failed: dict[str, str] = {}
        self._retry_at = 0.0
        self._working: threading.Thread | None = None

    def ask(self, endpoint: EndpointState, wanted: Mapping[Slot, int]) -> str | None:
        """See to it that each slot can carry so many basis points; why it cannot yet, None once it can."""
        settings = self._read_settings(endpoint.name)
        shares = {slot: max(endpoint.slot_share(slot), wanted.get(slot, 0)) for slot in SLOTS}
        filled = {slot: share for slot, share in shares.items() if endpoint.slot(slot).model is not None}
        needed = {app_name(endpoint.name, slot): least_replicas(settings, share) for slot, share in filled.items()}
        ready = {app_name(endpoint.name, slot): self._num_ready(endpoint, slot) for slot in filled}
        # Whoever comes anew knows not what Serve was told; where there is what is needed, nothing is to be told.
        if endpoint.name not in self._applied and ready == needed:
            self._applied[endpoint.name] = needed
        if self._applied.get(endpoint.name) != needed:
            self._tell(endpoint.name, {app_name(endpoint.name, slot): share for slot, share in filled.items()}, needed)
            failed = self._failed.get(endpoint.name)
            return "Serve is told how many replicas are needed" + (f", after it failed: {failed}" if failed else "")
        lacking = [f"{ready[app]} of {least} replicas of {app}" for app, least in needed.items() if ready[app] < least]
        return f"{', '.join(lacking)} are ready" if lacking else None

    def finish(self) -> None:
        """Wait until Serve was told what it is being told."""
        if self._working is not None:
            self._working.join()

    def _num_ready(self, endpoint: EndpointState, slot: Slot) -> int:
        model = endpoint.slot(slot).model
        sha256 = None if model is None else model.bundle_sha256
        return sum(
            (replica.slot, replica.bundle_sha256, replica.state) == (slot, sha256, "ready")
            and replica.at > time.time() - STALE_S
            for replica in self._store.replicas(endpoint.name)
        )

    def _tell(self, endpoint: str, shares: dict[str, int], needed: dict[str, int]) -> None:
        if (self._working is not None and self._working.is_alive()) or time.monotonic() < self._retry_at:
            return

        def tell() -> None:
            try:
                self._apply(endpoint, shares)
            except (TealError, OSError) as error:
                self._failed[endpoint] = str(error)
                self._retry_at = time.monotonic() + RETRY_S
            else:
                self._failed.pop(endpoint, None)
                self._applied[endpoint] = needed

        self._working = threading.Thread(target=tell, name="capacity of rollouts", daemon=True)
        self._working.start()
