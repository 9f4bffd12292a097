"""A rollout by real counters: HAProxy's own of a real edge, with a stand-in for the replicas behind it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from runtime.rollout import commands, operations
from runtime.rollout.certificate import find_faults, read_certificate, write_certificate
from runtime.rollout.controller import Controller
from runtime.rollout.world import PlatformWorld
from runtime.store.rollouts import Rollout, RolloutStore
from tests.rollout_load import Callers, Slots
from tests.rollout_world import example_plan
from tests.serving_edge import MODEL, SECRET, Edge
from tests.waiting import wait_until

PLAN = example_plan(
    steps_percent=[50, 100],
    min_s=0.5,
    min_requests=100,
    max_s=60,
    tick_s=0.25,
    settle_s=0.25,
    hold_after_s=2,
    rollback_window_s=0.2,
    metrics={
        "errors": {"kind": "errors", "margin": 0.5, "negligible_rate": 0.05},
        "latency_p90": {"kind": "latency", "quantile": 0.9, "margin": 1.0, "is_required": False},
        "score": {"kind": "score", "margin": 0.05, "is_required": False},
    },
)


class Stage:
    """A real edge, slots behind it, and a controller that looks when it is told to."""

    def __init__(self, edge: Edge, slots: Slots) -> None:
        self.edge, self.slots = edge, slots
        self.store = RolloutStore(edge.config.paths.control)
        self.store.record_model_version(replace(MODEL, version=2, bundle_sha256="y"))
        self.store.assign_slot("e", "green", self.store.model_version("m", 2), actor="ann")
        self.world = PlatformWorld(edge.config, slots.totals)
        self.controller = self.new_controller("first")

    def new_controller(self, holder: str) -> Controller:
        paths = self.edge.config.paths
        return Controller(
            self.store, self.world, holder=holder, certify=lambda ended: write_certificate(self.store, paths, ended)
        )

    def start(self) -> Rollout:
        return commands.start(self.store, "e", PLAN, "test", author="ann")

    def wait(self, *phases: str, timeout_s: float = 30) -> Rollout:
        def reached() -> bool:
            self.controller.advance()
            return self.rollout.phase in phases

        wait_until(reached, timeout_s=timeout_s)
        return self.rollout

    @property
    def rollout(self) -> Rollout:
        return self.store.rollouts("e")[-1]


@pytest.fixture
def stage(home: Edge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("TEAL_EDGE_SECRET", SECRET)
    slots = Slots(home.cluster)
    stage = Stage(home, slots)
    home.loop.start()
    assert home.loop.status()["process_error"] is None
    wait_until(lambda: home.send()[0] == 200, timeout_s=20)
    yield stage
    home.loop.stop()
    slots.close()
    stage.store.close()


def test_a_healthy_canary_is_promoted_and_has_a_certificate(stage: Stage) -> None:
    stage.start()
    with Callers(stage.edge) as callers:
        stage.wait("Progressing")
        # The first controller is gone without a word; another one goes on from the store.
        stage.controller.release()
        stage.controller = stage.new_controller("second")
        ended = stage.wait("Succeeded")
    assert stage.store.endpoint("e").primary == "green"
    assert {status for status, _ in callers.answered} == {200}
    wait_until(lambda: stage.controller.advance() or stage.rollout.certificate, timeout_s=10)
    paths = stage.edge.config.paths
    certificate = read_certificate(paths, ended.id)
    assert find_faults(certificate, stage.store, paths) == []
    (step,) = certificate.content["steps"]
    low, high = step["share_interval"]
    assert low < step["share_observed"] < high
    assert step["counted"]["canary"]["requests"] > 100
    assert stage.store.verify_audit().faults == []


def test_a_canary_with_errors_is_rolled_back_by_what_clients_saw(stage: Stage) -> None:
    stage.slots.error_rate["green"] = 0.3
    stage.start()
    with Callers(stage.edge):
        ended = stage.wait("RolledBack")
    assert (stage.store.endpoint("e").share, ended.outcome) == (0, "RolledBack")
    assert any("most so in errors" in str(row.detail.get("reason")) for row in stage.store.transitions())


def test_a_rollback_by_hand_ends_it_and_no_request_fails(stage: Stage) -> None:
    stage.start()
    with Callers(stage.edge) as callers:
        stage.wait("Progressing")
        moved = operations.rollback(stage.edge.config, stage.store, "e", actor="bob")
        assert moved.acknowledged_s is not None
        assert moved.acknowledged_s < 1
        seen = len(callers.answered)
        wait_until(lambda: len(callers.answered) > seen + 50, timeout_s=20)
        # One request of each caller may have been under way when the edge was told.
        assert "green" not in {slot for _, slot in callers.answered[seen + 2 :]}
    assert stage.rollout.phase == "Aborted"
    assert {status for status, _ in callers.answered} == {200}


def test_sticky_keys_with_errors_are_told_by_the_edge(stage: Stage) -> None:
    state = stage.store.endpoint("e")
    stage.edge.give(5000)
    stage.slots.error_rate |= {"blue": 1.0, "green": 1.0}
    statuses = [stage.edge.send(x_routing_key=f"client-{number % 20}")[0] for number in range(60)]
    stage.edge.send()  # without a key
    assert set(statuses) == {500}
    keys = stage.world.read_failed_keys(state)
    assert keys is not None
    assert sum(len(failed) for failed in keys.values()) == 20
    assert sum(sum(failed.values()) for failed in keys.values()) == 60
    stage.slots.error_rate |= {"blue": 0.0, "green": 0.0}
    assert stage.edge.send(x_routing_key="client-99")[0] == 200
    assert stage.world.read_failed_keys(state) == keys
