"""What comes before a share that somebody moves: the replicas that it needs. Nothing runs but the store."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.config.schema import Config
from runtime.config.serving import ServingConfig
from runtime.core.errors import RefusedError, TealError
from runtime.rollout import commands, operations
from runtime.store.rollouts import Rollout, RolloutStore
from tests.cluster_config import cluster_config
from tests.rollout_world import ENDPOINT, example_plan, open_store

SETTINGS = ServingConfig(endpoint=ENDPOINT, min_replicas=4, max_replicas=4, idle_replicas=1)
BLUE, GREEN = f"{ENDPOINT}-blue", f"{ENDPOINT}-green"


class Serve:
    """Notes what it is told, and what share the canary had then."""

    def __init__(self, store: RolloutStore) -> None:
        self.store = store
        self.is_down = False
        self.told: list[tuple[int, dict[str, int]]] = []

    def reconcile(
        self, _store: Any, config: Config, *, capacity: dict[str, int], keeps_settings: bool, **_: Any
    ) -> None:
        assert (config.serving, keeps_settings) == (SETTINGS, True)
        self.told.append((self.store.endpoint(ENDPOINT).share, capacity))
        if self.is_down:
            raise TealError("3 of 4 replicas are ready")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = cluster_config(tmp_path)
    path = Path(config.paths.run) / "serving" / f"{ENDPOINT}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(SETTINGS)))
    return config


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def serve(store: RolloutStore, monkeypatch: pytest.MonkeyPatch) -> Serve:
    serve = Serve(store)
    monkeypatch.setattr("runtime.rollout.operations.reconcile", serve.reconcile)
    monkeypatch.setattr("runtime.rollout.operations.read_token", lambda _run: None)
    monkeypatch.setattr("runtime.rollout.operations.check_slot_ready", lambda *_: None)
    monkeypatch.setattr("runtime.rollout.traffic.wait_acknowledged", lambda *_: 0.004)
    return serve


def test_replicas_come_before_the_share(config: Config, store: RolloutStore, serve: Serve) -> None:
    said: list[str] = []
    operations.shift(config, store, ENDPOINT, 5000, actor="ann", on_progress=said.append)
    assert serve.told == [(0, {BLUE: 5000, GREEN: 5000})]
    assert said == ["starting what is needed: 2 replicas in slot blue, 2 replicas in slot green"]
    # Back again: the primary has to carry all of it.
    operations.shift(config, store, ENDPOINT, 100, actor="ann")
    assert serve.told[1] == (5000, {BLUE: 10_000, GREEN: 100})


def test_replicas_that_do_not_come_move_nothing(config: Config, store: RolloutStore, serve: Serve) -> None:
    serve.is_down = True
    with pytest.raises(TealError, match="3 of 4 replicas"):
        operations.shift(config, store, ENDPOINT, 10_000, actor="ann")
    assert store.endpoint(ENDPOINT).share == 0


def test_neither_a_rehearsal_nor_a_repetition_nor_a_rollback_starts_any(
    config: Config, store: RolloutStore, serve: Serve
) -> None:
    operations.shift(config, store, ENDPOINT, 5000, actor="ann", is_rehearsed=True)
    assert serve.told == []
    for _ in range(2):
        operations.shift(config, store, ENDPOINT, 5000, actor="ann", key="k")
    assert len(serve.told) == 1
    operations.rollback(config, store, ENDPOINT, actor="ann")
    assert len(serve.told) == 1, "a rollback must not wait"


def test_where_one_replica_is_enough_nobody_is_asked(config: Config, store: RolloutStore, serve: Serve) -> None:
    path = Path(config.paths.run) / "serving" / f"{ENDPOINT}.json"
    path.write_text(json.dumps(asdict(replace(SETTINGS, min_replicas=1, max_replicas=1))))
    operations.shift(config, store, ENDPOINT, 10_000, actor="ann")
    assert serve.told == []


def test_a_rollout_is_promoted_once_the_canary_has_its_replicas(
    config: Config, store: RolloutStore, serve: Serve
) -> None:
    rollout = started(store)
    serve.is_down = True
    with pytest.raises(TealError, match="3 of 4 replicas"):
        operations.promote_rollout(config, store, rollout, actor="ann")
    assert (store.endpoint(ENDPOINT).share, store.rollout(rollout.id).phase) == (1000, "Progressing")
    serve.is_down = False
    for _ in range(2):
        promoted = operations.promote_rollout(config, store, rollout, actor="ann", key="k")
        assert (store.endpoint(ENDPOINT).share, promoted.phase) == (10_000, "Promoting")
    # The primary keeps its own: it may have to take everything back.
    assert serve.told == [(1000, {BLUE: 10_000, GREEN: 10_000})] * 2


def test_a_promotion_that_is_in_a_hurry_or_refused_starts_no_replica(
    config: Config, store: RolloutStore, serve: Serve
) -> None:
    rollout = started(store)
    operations.promote_rollout(config, store, rollout, actor="ann", has_room=True)
    assert store.endpoint(ENDPOINT).share == 10_000
    with pytest.raises(RefusedError, match="Promoting cannot promote"):
        operations.promote_rollout(config, store, rollout, actor="ann")
    assert serve.told == []


def test_a_plan_without_capacity_lead_is_promoted_at_once(config: Config, store: RolloutStore, serve: Serve) -> None:
    operations.promote_rollout(config, store, started(store, capacity_lead=False), actor="ann")
    assert (store.endpoint(ENDPOINT).share, serve.told) == (10_000, [])


def started(store: RolloutStore, **plan: Any) -> Rollout:
    """A rollout at its first step, as the controller leaves it."""
    rollout = commands.start(store, ENDPOINT, example_plan(**plan), "example", author="ann")
    at_step = replace(rollout, phase="Progressing", step=0)
    return store.change_rollout(rollout, at_step, share=1000)
