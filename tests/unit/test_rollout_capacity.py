"""Replicas before traffic: what each phase wants of the slots, what waits for it, and how Serve is told."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config.serving import ServingConfig
from runtime.core.clock import utc_text
from runtime.core.errors import TealError
from runtime.rollout.capacity import Capacity, capacity_of_endpoints, standing_capacity
from runtime.store.records import SLOTS, EndpointState, Replica, Slot, SlotState, Transition
from tests.rollout_world import ENDPOINT, Site, example_model, example_plan, open_store
from tests.waiting import wait_until

SETTINGS = ServingConfig(endpoint=ENDPOINT, min_replicas=4, max_replicas=4, idle_replicas=1)
STATE = EndpointState(
    name=ENDPOINT,
    generation=3,
    primary="blue",
    share=1000,
    blue=SlotState(slot="blue", model=example_model(1)),
    green=SlotState(slot="green", model=example_model(2)),
)


def wanted_now(site: Site) -> dict[str, int]:
    return capacity_of_endpoints(site.store, 60.0, time.time())


def test_no_share_goes_up_before_there_is_room_for_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.room["green"] = 0
    site.start()
    site.run(10)
    assert (site.rollout.phase, site.share) == ("Preparing", 0)
    assert site.rollout.reason == "no room for {'green': 1000}"
    assert site.world.wanted == {"green": 1000, "blue": 10_000}
    site.world.room["green"] = 1000
    site.run(60, until="Holding")
    assert "no room for {'green': 5000}" in site.rollout.reason
    assert (site.share, site.world.wanted) == (1000, {"green": 5000, "blue": 10_000})
    site.world.room["green"] = 10_000
    site.run(200, until="Succeeded")


def test_the_old_slot_is_warm_until_the_rollback_window_is_over(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(rollback_window_s=20))
    site.start()
    site.run(120, until="Promoting")
    site.run(10)
    assert (site.share, site.world.wanted) == (10_000, {"green": 10_000, "blue": 10_000})
    site.run(30, until="Draining")
    site.run(1)
    assert site.world.wanted == {}


def test_a_pause_wants_nothing_of_the_step_after_it(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(steps={50: {"pause": True}}))
    site.start()
    site.run(60, until="Paused")
    site.run(2)
    assert site.world.wanted["green"] == 1000
    assert wanted_now(site)[f"{ENDPOINT}-blue"] == 10_000


def test_a_plan_may_do_without(tmp_path: Path) -> None:
    site = Site(tmp_path, example_plan(capacity_lead=False))
    site.world.room["green"] = 0
    site.start()
    site.run(200, until="Succeeded")
    assert (site.world.wanted, wanted_now(site)) == ({}, {})


class Rows:
    """Registered replicas, by slot."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = numbers

    def replicas(self, endpoint: str | None = None) -> list[Replica]:
        assert endpoint is not None
        return [self._replica(endpoint, slot, number) for slot in SLOTS for number in range(self.numbers[slot])]

    def _replica(self, endpoint: str, slot: Slot, number: int) -> Replica:
        model = STATE.slot(slot).model
        assert model is not None
        return Replica(
            replica_id=f"{slot}{number}",
            endpoint=endpoint,
            slot=slot,
            host="h",
            port=1,
            grpc_port=2,
            bundle_sha256=model.bundle_sha256,
            state="ready",
            at=time.time(),
        )


def test_serve_is_told_once_and_the_share_waits_for_the_replicas() -> None:
    rows, told = Rows(blue=4, green=1), []

    def apply(endpoint: str, shares: Mapping[str, int]) -> None:
        told.append((endpoint, dict(shares)))

    capacity = Capacity(rows, apply, lambda _endpoint: SETTINGS)
    wanted: dict[Slot, int] = {"blue": 10_000, "green": 5000}
    assert capacity.ask(STATE, wanted) == "Serve is told how many replicas are needed"
    capacity.finish()
    assert capacity.ask(STATE, wanted) == "1 of 2 replicas of flights-green are ready"
    rows.numbers["green"] = 2
    assert capacity.ask(STATE, wanted) is None
    assert told == [(ENDPOINT, {"flights-blue": 10_000, "flights-green": 5000})]
    # All at 100 %, and the old slot is not needed any more.
    ended = replace(STATE, primary="green", share=0)
    assert capacity.ask(ended, {}) is not None
    capacity.finish()
    assert told[-1] == (ENDPOINT, {"flights-blue": 0, "flights-green": 10_000})


def test_where_enough_runs_a_new_controller_tells_nobody() -> None:
    capacity = Capacity(Rows(blue=4, green=1), lambda *_: pytest.fail("told"), lambda _endpoint: SETTINGS)
    assert capacity.ask(STATE, {"blue": 10_000}) is None


def test_a_failure_is_shown_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.rollout.capacity.RETRY_S", 0.0)
    is_down, tried = threading.Event(), []
    is_down.set()

    def apply(endpoint: str, _shares: Mapping[str, int]) -> None:
        tried.append(endpoint)
        if is_down.is_set():
            raise TealError("Serve is away")

    capacity = Capacity(Rows(blue=4, green=2), apply, lambda _endpoint: SETTINGS)
    wanted: dict[Slot, int] = {"blue": 10_000, "green": 7500}
    capacity.ask(STATE, wanted)
    capacity.finish()
    assert "after it failed: Serve is away" in str(capacity.ask(STATE, wanted))
    is_down.clear()
    wait_until(lambda: capacity.ask(STATE, wanted) == "2 of 3 replicas of flights-green are ready", timeout_s=10)


# -- without a rollout -------------------------------------------------------------------------------------------------


def test_what_somebody_took_from_a_slot_it_can_carry_until_the_window_is_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    began = utc_text(time.time())

    def wanted(recent: list[Transition]) -> dict[Slot, int]:
        return standing_capacity(store.endpoint(ENDPOINT), recent)

    store.set_share(ENDPOINT, 2500, actor="ann")
    assert wanted(store.recent_transitions(began)) == {"blue": 10_000, "green": 0}
    assert wanted([]) == {"blue": 10_000}, "the primary may have to take it back at any time"
    store.set_share(ENDPOINT, 10_000, actor="ann")
    store.promote(ENDPOINT, actor="ann")
    assert wanted(store.recent_transitions(began)) == {"blue": 10_000, "green": 2500}
    assert wanted([]) == {}, "the old slot shrinks to what it needs without traffic"
    assert capacity_of_endpoints(store, 60.0, time.time()) == {f"{ENDPOINT}-blue": 10_000, f"{ENDPOINT}-green": 2500}
    assert capacity_of_endpoints(store, 60.0, time.time() + 61.0) == {}
    store.close()


def test_steps_of_a_rollout_are_its_own_affair(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.start()
    site.run(200, until="Succeeded")
    assert [row.detail["to"] for row in site.store.transitions() if row.action == "shift"] == [1000, 5000, 10_000]
    assert wanted_now(site) == {}


def test_serve_follows_a_share_that_was_set_by_hand() -> None:
    rows, told = Rows(blue=4, green=1), []

    def apply(_endpoint: str, shares: Mapping[str, int]) -> None:
        told.append(dict(shares))

    capacity = Capacity(rows, apply, lambda _endpoint: SETTINGS)

    def settle(state: EndpointState, **wanted: int) -> list[dict[str, int]]:
        capacity.settle([state], {f"{ENDPOINT}-{slot}": share for slot, share in wanted.items()})
        capacity.finish()
        return told

    assert settle(STATE, blue=10_000) == [], "all is as it should be"
    ended = replace(STATE, primary="green", share=0, generation=5)
    rows.numbers["green"] = 4
    assert settle(ended, blue=10_000) == [{"flights-blue": 10_000, "flights-green": 10_000}]
    settle(ended, blue=10_000)
    assert settle(ended)[1:] == [{"flights-blue": 0, "flights-green": 10_000}], "the window is over"
    for _ in range(3):
        assert len(settle(ended)) == 2, "told once"
    rows.numbers["blue"] = 0
    again = replace(ended, generation=6, share=5000)
    assert len(settle(again, green=10_000)) == 2, "a slot that is being deployed is not our affair"
