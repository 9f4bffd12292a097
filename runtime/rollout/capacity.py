"""How much traffic each slot must be able to carry while a rollout or somebody moves it, and who sees to it.

Replicas take seconds to start, and a rollback must not wait for them: Serve is asked from a thread of its own. What is
wanted follows from the store alone, so a controller that is killed asks for the same again.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from runtime.config.rollout import RolloutConfig
from runtime.config.serving import ServingConfig
from runtime.core.clock import utc_text
from runtime.core.errors import TealError
from runtime.rollout.phases import TERMINAL, Phase
from runtime.rollout.plan import plan_from_json, steps_of
from runtime.serving.autoscaling import least_replicas
from runtime.serving.edge_shares import app_name
from runtime.serving.registration import count_ready
from runtime.store.records import FULL_SHARE, SLOTS, EndpointState, Replica, Slot, Transition, other_slot
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


def standing_capacity(endpoint: EndpointState, recent: Sequence[Transition]) -> dict[Slot, int]:
    """The same where no rollout moves the traffic: everything for a primary that shares it, as it may have to take it
    back at once, and for each slot what somebody took from it within the rollback window. `recent`: the window's rows.
    """
    wanted: dict[Slot, int] = {endpoint.primary: FULL_SHARE} if 0 < endpoint.share < FULL_SHARE else {}
    for row in recent:
        if row.endpoint == endpoint.name and "rollout" not in row.detail and row.detail.keys() >= {"from", "canary"}:
            canary: Slot = "blue" if row.detail["canary"] == "blue" else "green"
            for slot, share in ((canary, row.detail["from"]), (other_slot(canary), FULL_SHARE - row.detail["from"])):
                wanted[slot] = max(wanted.get(slot, 0), share)
    return wanted


def capacity_of_endpoints(store: RolloutStore, window_s: float, now: float) -> dict[str, int]:
    """Application to the basis points that it must be able to carry beyond its share, of every endpoint: what its
    rollout wants, else `standing_capacity` with a rollback window of `window_s`. For whoever renders Serve's
    configuration.
    """
    recent = store.recent_transitions(utc_text(now - window_s))
    found = {
        app_name(endpoint.name, slot): share
        for endpoint in store.endpoints()
        for slot, share in standing_capacity(endpoint, recent).items()
    }
    for rollout in store.rollouts(is_active=True):
        is_rising = rollout.is_step_passed or rollout.phase in (Phase.PREPARING, Phase.SHADOWING)
        wanted = wanted_capacity(rollout, plan_from_json(rollout.plan), is_rising=is_rising)
        found |= {app_name(rollout.endpoint, slot): wanted.get(slot, 0) for slot in SLOTS}
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
        self._settled: dict[str, object] = {}
        """Endpoint to what it was, and was wanted of it, when that was done."""
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

    def settle(self, endpoints: Sequence[EndpointState], wanted: Mapping[str, int]) -> None:
        """The same for endpoints that no rollout moves, whose shares are as they are; `wanted` by application.

        A slot of which nothing answers yet is left to whoever deploys it.
        """
        for endpoint in endpoints:
            filled = [slot for slot in SLOTS if endpoint.slot(slot).model is not None]
            of_slots = {slot: wanted.get(app_name(endpoint.name, slot), 0) for slot in filled}
            state = (endpoint, tuple(of_slots.items()))
            if self._settled.get(endpoint.name) == state:
                continue
            settings = self._read_settings(endpoint.name)
            least = {slot: least_replicas(settings, max(endpoint.slot_share(slot), of_slots[slot])) for slot in filled}
            if all(self._num_ready(endpoint, slot) or not least[slot] for slot in filled) and (
                self.ask(endpoint, of_slots) is None
            ):
                self._settled[endpoint.name] = state

    def finish(self) -> None:
        """Wait until Serve was told what it is being told."""
        if self._working is not None:
            self._working.join()

    def _num_ready(self, endpoint: EndpointState, slot: Slot) -> int:
        return count_ready(self._store.replicas(endpoint.name), endpoint, slot, time.time())

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
