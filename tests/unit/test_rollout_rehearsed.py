"""`--dry-run` and `--key` of the commands that move traffic and models. Nothing runs but the store."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runtime.cli.main import app
from runtime.config.compose import save_config
from runtime.core.errors import TealError
from runtime.rollout.aliases import CONSUMER, TOPIC
from runtime.serving.reconcile import Reconciled
from runtime.store.rollouts import RolloutStore
from tests.cluster_config import cluster_config
from tests.rollout_world import ENDPOINT, example_model, open_store

runner = CliRunner()


@pytest.fixture
def started() -> list[str]:
    """Endpoints that were reconciled."""
    return []


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]) -> Iterator[RolloutStore]:
    """Versions 1 and 2 in blue and green; 3, and 4 that the gate refused, in no slot."""
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    monkeypatch.setenv("TEAL_ACTOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    save_config(cluster_config(tmp_path), tmp_path / "run" / "config.json")
    store = open_store(tmp_path)
    for version, verdict in ((3, "Passed"), (4, "Failed")):
        store.record_model_version(replace(example_model(version), lineage={"gate": {"verdict": verdict}}))

    def reconcile(_store: Any, config: Any, **_: Any) -> Reconciled:
        started.append(config.serving.endpoint)
        return Reconciled(is_changed=True, ready=(), duration_s=0.0)

    monkeypatch.setattr("runtime.rollout.traffic.wait_acknowledged", lambda *_: 0.004)
    monkeypatch.setattr("runtime.rollout.operations.check_slot_ready", lambda *_: None)
    monkeypatch.setattr("runtime.serving.reconcile.reconcile", reconcile)
    monkeypatch.setattr("runtime.cluster.token.read_token", lambda _run: None)
    yield store
    store.close()


def teal(*arguments: str) -> str:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return done.stdout


def shown(*arguments: str) -> Any:
    return json.loads(teal(*arguments, "--json"))


def refused(*arguments: str) -> str:
    error = runner.invoke(app, arguments).exception
    assert isinstance(error, TealError), error
    return str(error)


@pytest.mark.parametrize("command", [["shift", "30"], ["rollback", "--to", "5"], ["rollback", "--version", "2"]])
def test_a_rehearsal_shows_what_would_be_and_writes_nothing(store: RolloutStore, command: list[str]) -> None:
    teal("shift", "10")
    before = store.endpoint(ENDPOINT), store.transitions()
    moved = shown(*command, "--dry-run")
    assert (moved["is_rehearsed"], moved["is_new"], moved["acknowledged_s"]) == (True, True, None)
    assert moved["endpoint"]["generation"] == before[0].generation + 1
    assert moved["endpoint"]["share"] == {"30": 3000, "5": 500, "2": 10_000}[command[-1]]
    assert "nothing was changed" in teal(*command, "--dry-run")
    assert (store.endpoint(ENDPOINT), store.transitions()) == before
    assert shown(*command)["endpoint"] == moved["endpoint"]


def test_a_rehearsal_fails_as_the_command_would(store: RolloutStore) -> None:
    assert "would give it more" in refused("rollback", "--to", "50", "--dry-run")
    assert "holds version 9" in refused("rollback", "--version", "9", "--dry-run")
    assert "there would be nothing to change" in teal("shift", "0", "--dry-run")
    assert "has not passed the gate" in refused("deploy", f"{ENDPOINT}:4", "--dry-run")
    assert "forced" not in teal("history")


def test_a_key_moves_traffic_once_whatever_comes_after(store: RolloutStore) -> None:
    assert shown("shift", "30", "--key", "deploy-77")["is_new"]
    teal("shift", "60")
    repeated = shown("shift", "30", "--key", "deploy-77")
    assert (repeated["is_new"], repeated["endpoint"]["share"]) == (False, 6000)
    assert repeated["acknowledged_s"] is not None  # whoever repeats it waits for the edges again
    assert "done before with this key" in teal("shift", "30", "--key", "deploy-77")
    assert "was used for another command" in refused("shift", "31", "--key", "deploy-77")
    assert shown("rollback", "--key", "r")["endpoint"]["share"] == 0
    assert shown("rollback", "--version", "2", "--key", "back")["endpoint"]["share"] == 10_000
    teal("promote")
    assert shown("rollback", "--version", "2", "--key", "back")["is_new"] is False
    assert [row.action for row in store.transitions()][-5:] == ["shift", "shift", "rollback", "shift", "promote"]


def test_a_command_that_failed_leaves_its_key_free(store: RolloutStore) -> None:
    assert "would give it more" in refused("rollback", "--to", "50", "--key", "k")
    assert shown("shift", "10", "--key", "k")["is_new"]


def test_a_deployment_is_rehearsed_and_done_once(store: RolloutStore, started: list[str]) -> None:
    model = f"{ENDPOINT}:3"
    text = teal("deploy", model, "--dry-run")
    assert "flights:3 would be in slot green, the canary" in text
    assert (store.endpoint(ENDPOINT).green.model, started) == (example_model(2), [])
    assert shown("deploy", model, "--key", "ci-1")["slot"] == "green"
    assert shown("deploy", model, "--key", "ci-1")["slot"] == "green"  # it is waited for again, and assigned once
    assert started == [ENDPOINT] * 2
    store.assign_slot(ENDPOINT, "green", example_model(2), actor="bob")
    late = shown("deploy", model, "--key", "ci-1")
    assert (late["is_new"], late["slot"]) == (False, "green")
    assert store.endpoint(ENDPOINT).green.model == example_model(2)
    assert started == [ENDPOINT] * 2
    assert [row.actor for row in store.transitions() if row.action == "assign"][2:] == ["ann", "bob"]


def test_the_first_deployment_is_the_champion_whether_or_not_mlflow_listens(store: RolloutStore) -> None:
    store.subscribe(CONSUMER, [TOPIC])
    store.record_model_version(replace(example_model(3), name="new", lineage={"gate": {"verdict": "Passed"}}))
    assert shown("deploy", "new:3", "--dry-run")["is_primary"]
    assert [state.name for state in store.endpoints()] == [ENDPOINT]
    assert shown("deploy", "new:3")["is_primary"]
    champion = store.alias("new", "champion")
    assert champion is not None
    assert champion.version == 3
    (message,) = store.pending(CONSUMER, now=float("inf"))
    assert message.payload == {"name": "new", "alias": "champion", "version": 3}
