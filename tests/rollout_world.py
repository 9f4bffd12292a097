"""A rollout's surroundings for tests: a clock that is moved by hand, slots and counters that a test sets."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config.rollout import RolloutConfig, RolloutMetricConfig
from runtime.rollout import commands
from runtime.rollout.controller import Controller, Done
from runtime.rollout.labels import Labelled, LossSums, Span, sum_losses
from runtime.rollout.readings import Counted, FailedKeys, Reading, Source
from runtime.store.records import SLOTS, EndpointState, ModelVersion, Slot
from runtime.store.rollouts import Rollout, RolloutStore
from runtime.telemetry.latency import count_latencies

START = time.time()
"""Commands take the time of day."""
ENDPOINT = "flights"


def example_plan(**changes: Any) -> RolloutConfig:
    """Steps at 10 and 50 %, ticks of a second, margins that little traffic can decide."""
    values: dict[str, Any] = dict(
        steps_percent=[10, 50, 100],
        min_s=5,
        min_requests=100,
        max_s=600,
        tick_s=1,
        settle_s=1,
        hold_after_s=10,
        rollback_window_s=5,
        metrics={
            "errors": RolloutMetricConfig(kind="errors", margin=0.5, negligible_rate=0.02),
            "latency": RolloutMetricConfig(kind="latency", quantile=0.9, margin=1.0),
            "score": RolloutMetricConfig(kind="score", margin=0.1, is_required=False),
        },
    )
    return RolloutConfig(**values | changes)


def example_model(version: int) -> ModelVersion:
    return ModelVersion(
        name=ENDPOINT,
        version=version,
        run_id=f"run{version}",
        bundle_uri=f"/bundles/{version}",
        bundle_sha256=f"sha{version}",
        lineage={},
        created_at="2026-01-01",
    )


def open_store(place: Path | str) -> RolloutStore:
    """Version 1 in blue as primary, version 2 in green. `place` is a directory or a database's URL."""
    store = RolloutStore(place if isinstance(place, str) else f"sqlite:///{place}/control.db")
    store.create_schema()
    for version in (1, 2):
        store.record_model_version(example_model(version))
        store.assign_slot(ENDPOINT, None if version == 1 else "green", example_model(version), actor="ann")
    return store


class FakeWorld:
    """Traffic by the second: requests split by the share that edges apply, errors and latencies by slot."""

    def __init__(self, store: RolloutStore, *, requests_per_s: int = 1000) -> None:
        self.store = store
        self.at = START
        self.requests_per_s = requests_per_s
        self.error_rate = dict.fromkeys(SLOTS, 0.0)
        self.slowdown = dict.fromkeys(SLOTS, 1.0)
        self.score = dict.fromkeys(SLOTS, 0.4)
        self.down: set[str] = set()
        self.room: dict[Slot, int] = dict.fromkeys(SLOTS, 10_000)
        self.late_s = 0.0
        """By which the monitor is behind the replicas."""
        self.failed_keys: FailedKeys | None = None
        self.labelled: Labelled | None = None
        self.wanted: dict[Slot, int] = {}
        """Capacity in basis points, as there is and as it was asked for."""
        self.silent: set[str] = set()
        self.edges_follow = True
        self.counted: dict[str, dict[str, Counted]] = {
            slot: {"edge": {"requests": [0], "errors": [0]}, "replicas": _no_counts()} for slot in SLOTS
        }
        self.applied = store.endpoint(ENDPOINT)
        self._random = np.random.default_rng(1)

    def now(self) -> float:
        return self.at

    def why_not_ready(self, _endpoint: EndpointState, slot: Slot) -> str | None:
        return "connection refused" if slot in self.down else None

    def read(self, source: Source, endpoint: EndpointState, now: float) -> Reading | None:
        if source in self.silent:
            return None
        slots: dict[str, Counted] = {
            slot: {name: list(cells) for name, cells in self.counted[slot][source].items()} for slot in SLOTS
        }
        complete_until = now - self.late_s if source == "replicas" else math.inf
        return Reading(
            source=source,
            at=now,
            generation=endpoint.generation,
            epoch="1",
            slots=slots,
            complete_until=complete_until,
        )

    def read_failed_keys(self, _endpoint: EndpointState) -> FailedKeys | None:
        return self.failed_keys

    def read_losses(self, _endpoint: EndpointState, spans: Sequence[Span], kinds: Collection[str]) -> LossSums | None:
        if self.labelled is None:
            return None
        models = {"blue": f"{ENDPOINT}:1", "green": f"{ENDPOINT}:2"}
        return sum_losses(self.labelled, spans, kinds, models)

    def ask_capacity(self, _endpoint: EndpointState, wanted: Mapping[Slot, int]) -> str | None:
        self.wanted = dict(wanted)
        lacking = {slot: share for slot, share in wanted.items() if share > self.room[slot]}
        return f"no room for {lacking}" if lacking else None

    def traffic_changed(self) -> None:
        return

    def pass_time(self, seconds: float = 1.0) -> None:
        """Edges follow, then so many seconds of traffic."""
        self.at += seconds
        if self.edges_follow:
            self.applied = self.store.endpoint(ENDPOINT)
            self.store.acknowledge("edge", {ENDPOINT: self.applied.generation}, at=self.at)
        for slot in SLOTS:
            share = self.applied.slot_share(slot) / 10_000
            requests = int(self._random.poisson(self.requests_per_s * seconds * share))
            errors = int(self._random.binomial(requests, self.error_rate[slot]))
            latencies = self._random.lognormal(2.0, 0.5, requests) * self.slowdown[slot]
            scores = np.clip(self._random.normal(self.score[slot], 0.15, requests), 0, 1)
            edge, replicas = self.counted[slot]["edge"], self.counted[slot]["replicas"]
            edge["requests"][0] += requests
            edge["errors"][0] += errors
            replicas["requests"][0] += requests
            replicas["latency"] = (np.array(replicas["latency"]) + count_latencies(latencies)).tolist()
            moments = np.array([requests, scores.sum(), (scores**2).sum()])
            replicas["score"] = (np.array(replicas["score"]) + moments).tolist()


def _no_counts() -> Counted:
    return {"requests": [0], "latency": [0] * 98, "score": [0.0, 0.0, 0.0]}


class Site:
    """A store, a world and a controller that are moved second by second."""

    def __init__(self, place: Path | str, plan: RolloutConfig | None = None, **world: Any) -> None:
        self.store = open_store(place)
        self.world = FakeWorld(self.store, **world)
        self.plan = plan or example_plan()
        self.controller = self.new_controller("first")
        self.log: list[Done] = []

    def new_controller(self, holder: str) -> Controller:
        return Controller(self.store, self.world, holder=holder)

    def start(self, **named: Any) -> Rollout:
        return commands.start(self.store, ENDPOINT, self.plan, "test", author="ann", **named)

    @property
    def rollout(self) -> Rollout:
        return self.store.rollouts(ENDPOINT)[-1]

    @property
    def share(self) -> int:
        return self.store.endpoint(ENDPOINT).share

    def run(self, seconds: int, until: str | None = None) -> Rollout:
        """Let time pass, with looks in between; ends early in the phase `until`."""
        for _ in range(seconds):
            self.world.pass_time()
            for _ in range(3):
                self.log += self.controller.advance()
            if until is not None and self.rollout.phase == until:
                return self.rollout
        assert until is None, f"still {self.rollout.phase} ({self.rollout.reason}) after {seconds} s: {self.log[-8:]}"
        return self.rollout
