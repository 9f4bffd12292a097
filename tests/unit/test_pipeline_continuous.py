"""Training again by itself: the decision as a function of time, and a chain of steps that may be killed anywhere."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.cli.quality_render import continuous_tables, looked
from runtime.config.alerting import ContinuousConfig, TriggerConfig
from runtime.core.errors import ConflictError, ContractError, RefusedError, UnreachableError, UsageError
from runtime.data.contract import split_valid
from runtime.data.served import contract_rows, read_manifest, served_config, write_served
from runtime.monitoring.alerts import Alert
from runtime.pipeline import continuous
from runtime.pipeline.continuous import asked_for, look, only_here
from runtime.pipeline.continuous_data import NextData, build_next_data, training_config
from runtime.pipeline.continuous_reasons import base_version, find_reasons, read_trigger_state
from runtime.pipeline.continuous_status import read_continuous
from runtime.pipeline.progress import Silent
from runtime.pipeline.steps import Session
from runtime.pipeline.triggers import WEEK_S, Reason, TriggerState, decide
from runtime.store.control import ControlStore
from runtime.training.trial import Candidate
from tests.quality_example import COLUMNS, ENDPOINT, World, draw, moment

QUALITY = TriggerConfig(kind="quality", debounce_s=300)
CONFIG = ContinuousConfig(
    triggers={"quality": QUALITY, "data": TriggerConfig(kind="data", debounce_s=0)},
    cooldown_s=1000,
    max_runs_per_week=2,
)


def reason(number: int = 1, *, trigger: str = "quality", since: float | None = None) -> Reason:
    kind = CONFIG.triggers[trigger].kind
    return Reason(trigger=trigger, kind=kind, id=f"{trigger} {number}", since=since)


def test_a_reason_must_hold_for_its_debounce_without_a_break() -> None:
    first = decide(CONFIG, [reason()], TriggerState(), 1000)
    assert (first.reason, first.why) == (None, "quality must hold for 300 s more")
    broken = decide(CONFIG, [], TriggerState(seen=first.seen), 1100)
    assert (broken.seen, broken.why) == ({}, "no trigger has a reason")
    again = decide(CONFIG, [reason()], TriggerState(seen=broken.seen), 1200)
    assert decide(CONFIG, [reason()], TriggerState(seen=again.seen), 1499).reason is None
    assert decide(CONFIG, [reason()], TriggerState(seen=again.seen), 1500).reason == reason()


def test_an_alert_that_fired_before_the_first_look_has_held_since_then() -> None:
    assert decide(CONFIG, [reason(since=500.0)], TriggerState(), 1000).reason is not None


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (TriggerState(is_running=True), "a training is running"),
        (TriggerState(answered=frozenset({"quality 1"})), "answered by an earlier training"),
        (TriggerState(last_ended_at=9_500.0), "500 s of the cool-down are left"),
        (
            TriggerState(started_at=(10_000.0 - WEEK_S + 60, 9_000.0)),
            "the budget of 2 trainings a week is spent for 60 s",
        ),
    ],
)
def test_what_holds_a_training_back(state: TriggerState, why: str) -> None:
    decision = decide(CONFIG, [reason(since=0.0)], state, 10_000)
    assert decision.reason is None
    assert why in decision.why


def test_old_trainings_are_no_part_of_the_budget_and_quality_goes_first() -> None:
    state = TriggerState(started_at=(10_000.0 - WEEK_S, 9_000.0), last_ended_at=9_000.0)
    reasons = [reason(trigger="data", since=0.0), reason(since=0.0)]
    decision = decide(CONFIG, reasons, state, 10_000)
    assert (decision.reason, decision.why) == (reasons[1], "quality, and data")
    answered = replace(state, answered=frozenset({"quality 1"}))
    assert decide(CONFIG, reasons, answered, 10_000).reason == reasons[0]


# -- reasons from the store ------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


def with_triggers(world: World, **triggers: TriggerConfig) -> World:
    config = replace(world.config, continuous=replace(world.config.continuous, triggers=triggers, cooldown_s=0.0))
    return World(config=config, store=world.store)


def save_alert(store: ControlStore, **change: Any) -> Alert:
    values: dict[str, Any] = {
        "id": "a1",
        "rule": "quality_decay",
        "signal": "auc_loss",
        "endpoint": ENDPOINT,
        "slot": "blue",
        "model_version": "flights:1",
        "phase": "firing",
        "severity": "page",
        "value": 0.05,
        "threshold": 0.02,
        "detail": "0.75 to 0.70",
        "impact": "auc_loss",
        "runbook": "x",
        "since": 50.0,
        "seen_at": 100.0,
        "fired_at": 100.0,
    }
    alert = Alert(**(values | change))
    state = {name: getattr(alert, name) for name in Alert.__slots__}
    store.save_alerts({alert.key: state}, at=100.0)
    return alert


def test_alerts_that_fire_are_reasons_and_estimates_are_not(world: World) -> None:
    world = with_triggers(world, q=TriggerConfig(kind="quality"), d=TriggerConfig(kind="drift"))
    assert find_reasons(world.config, world.store, ENDPOINT, 200.0) == []
    save_alert(world.store)
    save_alert(world.store, id="a2", rule="data_drift", signal="drift", phase="acknowledged")
    save_alert(world.store, id="a3", rule="estimated_decay", signal="estimated_auc_loss")
    save_alert(world.store, id="a4", rule="concept_drift", signal="loss_shift", phase="pending")
    save_alert(world.store, id="a5", rule="other", endpoint="other")
    found = find_reasons(world.config, world.store, ENDPOINT, 200.0)
    assert [(one.trigger, one.id, one.since) for one in found] == [("q", "alert a1", 100.0), ("d", "alert a2", 100.0)]
    assert found[0].evidence["rule"] == "quality_decay"


def test_data_that_is_newer_than_the_champions_is_a_reason_unless_teal_made_it(world: World) -> None:
    world = with_triggers(world, new=TriggerConfig(kind="data"))
    assert find_reasons(world.config, world.store, ENDPOINT, moment(9)) == []
    world.add_data_version(1, served={"num_rows": 3})
    assert find_reasons(world.config, world.store, ENDPOINT, moment(9)) == []
    world.add_data_version(2)
    (found,) = find_reasons(world.config, world.store, ENDPOINT, moment(9))
    assert (found.id, found.since, found.evidence["champion_data"]) == ("data flights@2", moment(2), "flights@0")
    world.add_model(2, "flights@2")
    world.store.set_alias(ENDPOINT, "champion", 2)
    assert find_reasons(world.config, world.store, ENDPOINT, moment(9)) == []


def test_time_and_labels_are_reasons(world: World) -> None:
    world = with_triggers(
        world, nightly=TriggerConfig(kind="schedule", every_s=100), labels=TriggerConfig(kind="feedback", min_labels=30)
    )
    scores, labels = draw(1, 40)
    ids = world.log(scores)
    world.label(ids[:20], labels[:20])
    assert [one.trigger for one in find_reasons(world.config, world.store, ENDPOINT, 1000.0)] == ["nightly"]
    training = world.store.start_training(ENDPOINT, {"id": "x", "num_labelled": 5}, actor="t", at=1000.0)
    world.store.end_training(training.id, "done", reason="", actor="t", at=1001.0)
    assert find_reasons(world.config, world.store, ENDPOINT, 1099.0) == []
    world.label(ids[20:], labels[20:])
    found = find_reasons(world.config, world.store, ENDPOINT, 1100.0)
    assert [(one.trigger, one.since) for one in found] == [("nightly", 1100.0), ("labels", None)]
    assert found[1].evidence == {"num_labelled": 40, "before": 5}


# -- the chain -------------------------------------------------------------------------------------------------------


@dataclass
class Rooms:
    """Stands in for the rooms that train and deploy; what it is told to fail at, it fails at once."""

    world: World
    calls: list[str] = field(default_factory=list)
    faults: dict[str, BaseException] = field(default_factory=dict)
    is_primary: bool = False
    registered: dict[str, Any] = field(default_factory=dict)

    def did(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults.pop(name)

    def data(self, session: Session, _endpoint: str, *, needs_served: bool) -> NextData:
        self.did("data" if needs_served else "data, served or not")
        version = self.world.add_data_version(1, served={"until": "2026-06-02T00:00:00+00:00"})
        return NextData(version=version, served=version.lineage["served"])

    def sweep(self, session: Session, version: Any) -> Any:
        self.did("sweep")
        best = Candidate(
            run_id="r1",
            family="mlp",
            arguments={},
            training={},
            metrics={"auc": 0.75},
            bundle_dir="",
            bundle_sha256="s",
            lineage={"data": {"table": "flights", "version": version.version}},
        )
        return SimpleNamespace(best=best)

    def register(self, session: Session, run_id: str, *, actor: str) -> Any:
        self.did("register")
        from runtime.pipeline.steps import find_candidate

        self.registered = find_candidate(session, run_id).lineage
        model = self.world.add_model(2, "flights@1")
        return SimpleNamespace(model=model, report=SimpleNamespace(reasons=("better",)))

    def deploy(self, session: Session, reference: str, *, actor: str) -> Any:
        self.did("deploy")
        return SimpleNamespace(slot="green", is_primary=self.is_primary)

    def rollout(self, store: Any, endpoint: str, plan: Any, plan_name: str, **arguments: Any) -> Any:
        self.did(f"rollout {arguments['key']}")
        return SimpleNamespace(id="flights-1")


@pytest.fixture
def rooms(world: World, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    rooms = Rooms(world=with_triggers(world, q=TriggerConfig(kind="quality", debounce_s=0)))
    monkeypatch.setattr(continuous, "build_next_data", rooms.data)
    monkeypatch.setattr(continuous, "sweep_models", rooms.sweep)
    monkeypatch.setattr(continuous, "register_candidate", rooms.register)
    monkeypatch.setattr(continuous, "deploy_version", rooms.deploy)
    monkeypatch.setattr("runtime.rollout.commands.start", rooms.rollout)
    return rooms


@pytest.fixture
def session(rooms: Rooms) -> Iterator[Session]:
    world = rooms.world
    with closing(world.store):
        yield Session(config=world.config, store=world.store, registry=SimpleNamespace(), progress=Silent())  # type: ignore[arg-type]


def test_from_the_alarm_to_the_rollout_in_one_record(session: Session, rooms: Rooms) -> None:
    assert look(session, ENDPOINT).why == "no trigger has a reason"
    alert = save_alert(session.store)
    found = look(session, ENDPOINT)
    training = found.training
    assert training is not None
    assert (training.phase, training.reason) == ("done", "rollout flights-1 started")
    assert rooms.calls == ["data", "sweep", "register", "deploy", f"rollout training {training.id}"]
    trigger = rooms.registered["trigger"]
    assert (trigger["training"], trigger["evidence"]["alert"]) == (training.id, alert.id)
    assert trigger["served"]["until"] == "2026-06-02T00:00:00+00:00"
    actions = [row.action for row in session.store.transitions(ENDPOINT)]
    assert actions[-2:] == ["training started", "training ended"]

    status = read_continuous(session.config, session.store, ENDPOINT, time.time())
    assert not status.would_start
    assert "answered by an earlier training" in status.why
    assert looked(found)
    assert continuous_tables(status)
    json.dumps(training.trigger)


@pytest.mark.parametrize("killed_at", ["data", "sweep", "register", "deploy", "rollout"])
def test_a_kill_at_any_step_is_continued_from_that_step(session: Session, rooms: Rooms, killed_at: str) -> None:
    save_alert(session.store)
    names = ["data", "sweep", "register", "deploy", "rollout"]
    fail = killed_at
    if killed_at == "rollout":
        rooms.did = _raise_at_rollout(rooms)  # type: ignore[method-assign]
    else:
        rooms.faults[fail] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        look(session, ENDPOINT)
    running = session.store.running_training(ENDPOINT)
    assert running is not None
    assert list(running.steps) == names[: names.index(killed_at)]
    rooms.calls.clear()
    found = look(session, ENDPOINT)
    assert found.why == "continued"
    assert found.training is not None
    assert found.training.phase == "done"
    assert [name.split()[0] for name in rooms.calls] == names[names.index(killed_at) :]


def _raise_at_rollout(rooms: Rooms) -> Any:
    did = rooms.did
    killed: list[str] = []

    def once(name: str) -> None:
        did(name)
        if name.startswith("rollout") and not killed:
            killed.append(name)
            raise KeyboardInterrupt

    return once


def test_a_candidate_that_the_gate_rejects_ends_the_training_and_is_not_tried_again(
    session: Session, rooms: Rooms
) -> None:
    save_alert(session.store)
    rooms.faults["register"] = RefusedError("worse than the champion")
    training = look(session, ENDPOINT).training
    assert training is not None
    assert (training.phase, training.reason) == ("refused", "worse than the champion")
    assert "deploy" not in rooms.calls
    assert "answered" in look(session, ENDPOINT).why


def test_a_failure_may_be_tried_again_after_the_cool_down(session: Session, rooms: Rooms) -> None:
    save_alert(session.store)
    rooms.faults["sweep"] = ContractError("no rows")
    training = look(session, ENDPOINT).training
    assert training is not None
    assert (training.phase, training.reason) == ("failed", "sweep: no rows")
    again = look(session, ENDPOINT).training
    assert again is not None
    assert again.id != training.id


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("deploy", RefusedError("slot green gets 10 % of the traffic")),
        ("deploy", UnreachableError("no cluster")),
        ("data", ConflictError("somebody else wrote first")),
    ],
)
def test_what_is_in_the_way_now_is_tried_at_the_next_look(
    session: Session, rooms: Rooms, step: str, error: Exception
) -> None:
    save_alert(session.store)
    rooms.faults[step] = error
    found = look(session, ENDPOINT)
    assert found.waits_for == str(error)
    assert look(session, ENDPOINT).training is not None
    assert session.store.trainings(ENDPOINT)[0].phase == "done"
    assert rooms.calls.count("sweep") == 1


def test_without_a_plan_no_traffic_moves(session: Session, rooms: Rooms) -> None:
    save_alert(session.store)
    config = replace(session.config, continuous=replace(session.config.continuous, rollout=False))
    training = look(session.with_config(config), ENDPOINT).training
    assert training is not None
    assert training.steps["rollout"] == {"state": "awaiting rollout: `teal rollout start` begins it"}
    assert session.store.endpoint(ENDPOINT).share == 0


def test_somebody_may_ask_for_it(session: Session, rooms: Rooms) -> None:
    training = look(session, ENDPOINT, reason=asked_for("ann", "new sensor")).training
    assert training is not None
    assert training.trigger["evidence"] == {"by": "ann", "reason": "new sensor"}
    assert rooms.calls[0] == "data, served or not"


def test_a_training_of_another_endpoint_is_not_continued_with_this_configuration(
    session: Session, rooms: Rooms
) -> None:
    session.store.start_training("other", {"kind": "data", "trigger": "x", "id": "y"}, actor="t", at=1.0)
    with pytest.raises(UsageError, match="is of endpoint 'other', but the configuration is of 'flights'"):
        look(session, "other")


def test_two_processes_do_not_train_the_same_endpoint(session: Session) -> None:
    with only_here(session, ENDPOINT), pytest.raises(RefusedError, match="another process trains 'flights'"):
        only_here(session, ENDPOINT).__enter__()
    with only_here(session, ENDPOINT):
        pass


def test_reasons_are_remembered_over_a_restart(session: Session) -> None:
    config = replace(session.config.continuous, triggers={"q": TriggerConfig(kind="quality", debounce_s=1e9)})
    waiting = session.with_config(replace(session.config, continuous=config))
    save_alert(session.store, fired_at=None)
    look(waiting, ENDPOINT, now=lambda: 500.0)
    look(waiting, ENDPOINT, now=lambda: 900.0)
    assert read_trigger_state(session.store, ENDPOINT, 900.0).seen == {"alert a1": 500.0}


# -- the next data version -------------------------------------------------------------------------------------------


def test_windows_are_counted_back_from_the_newest_served_row(world: World) -> None:
    served = {"until": "2026-06-10T00:00:00+00:00"}
    assert training_config(world.config, served) == world.config
    config = replace(world.config, continuous=replace(world.config.continuous, validation_s=86400.0, train_s=172800.0))
    assert training_config(config, None) == config
    found = training_config(config, served)
    assert found.training.validation_since == found.training.train_until == "2026-06-09T00:00:00.000001+00:00"
    assert found.training.train_since == "2026-06-07T00:00:00.000001+00:00"
    assert found.training.validation_until == "2026-06-10T00:00:00.000001+00:00"
    assert found.gate.holdout_since is None


def test_served_rows_join_the_newest_prepared_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = draw(1, 60)
    ids = world.log(scores)
    world.label(ids[:50], labels[:50])
    world.add_data_version(1, served={"num_rows": 1})
    config = replace(world.config, continuous=replace(world.config.continuous, min_labels=40, max_served_rows=45))
    session = Session(config=config, store=world.store, registry=SimpleNamespace(), progress=Silent())  # type: ignore[arg-type]
    prepared: list[Any] = []

    def prepare(session: Session) -> Any:
        prepared.append(session.config.data)
        return SimpleNamespace(version=world.add_data_version(2), is_new=True)

    monkeypatch.setattr("runtime.pipeline.steps.prepare_data", prepare)
    built = build_next_data(session, ENDPOINT, needs_served=True)
    assert built.served is not None
    assert (built.served["base_version"], built.served["num_rows"]) == (0, 45)
    assert (built.served["payload_version"], built.served["feedback_version"]) == (0, 0)
    assert world.store.data_version(ENDPOINT, 2).lineage["served"] == built.served
    assert base_version(world.store, ENDPOINT).version == 0
    (data,) = prepared
    assert data.builder == "runtime.data.served:build"
    path = Path(data.sources["manifest"])
    rows = pq.read_table(path.parent / built.served["rows"])
    # The newest 45 of the 50 with a label, each with its own features and label.
    assert rows["speed"].to_pylist() == [float(index) for index in range(5, 50)]
    assert rows["slot"].to_pylist() == list(range(5, 50))
    assert rows["late"].to_pylist() == labels[5:50].astype(int).tolist()
    assert rows["id"].to_pylist() == [f"{one}/0" for one in ids[5:50]]
    assert set(rows["day"].to_pylist()) == {"2026-06-01"}
    assert rows["passport"].null_count == 45
    again = build_next_data(session, ENDPOINT, needs_served=True)
    assert again.served == built.served

    limits = replace(config.continuous, min_labels=51, max_served_rows=100)
    poor = session.with_config(replace(config, continuous=limits))
    assert build_next_data(poor, ENDPOINT, needs_served=False) == NextData(
        version=base_version(world.store, ENDPOINT), served=None
    )
    with pytest.raises(RefusedError, match=r"50 served rows have a label, fewer than continuous.min_labels 51"):
        build_next_data(poor, ENDPOINT, needs_served=True)


def logged_rows() -> pa.Table:
    return pa.table(
        {
            "prediction_id": ["a", "b"],
            "row": pa.array([0, 3], pa.int32()),
            "at": pa.array(np.array([0, 86_400_000_000]), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "label": pa.array([1, 0], pa.int8()),
            "speed": [1.0, 2.0],
            "feature_slot": pa.array([1, 2], pa.int64()),
            "carrier": ["AA", "UA"],
        }
    )


NAMES = {"speed": "speed", "slot": "feature_slot", "carrier": "carrier", "passport": "passport"}


def test_served_rows_keep_the_contract() -> None:
    rows = contract_rows(logged_rows(), COLUMNS, NAMES)
    _, violations, mask = split_valid(rows, COLUMNS)
    assert violations == []
    assert mask.all()
    assert rows.column_names == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passport": replace(COLUMNS["passport"], nullable=False)}, "'passport' cannot be filled .* are not logged"),
        ({"id": replace(COLUMNS["id"], type="integer")}, "'id' cannot be filled .* integer of role key"),
    ],
)
def test_a_column_that_the_log_cannot_fill_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        contract_rows(logged_rows(), COLUMNS | change, NAMES)


MANIFEST: dict[str, Any] = {
    "base_table": "t",
    "base_version": 0,
    "base_uri": "/t",
    "base_fingerprint": "f",
    "payload_uri": "/p",
    "payload_version": 3,
    "feedback_uri": "/f",
    "feedback_version": 2,
    "conflicts": "last",
    "since": "a",
    "until": "b",
}


def test_a_manifest_stands_for_its_rows(tmp_path: Path, world: World) -> None:
    path = write_served(tmp_path, logged_rows(), MANIFEST)
    assert write_served(tmp_path, logged_rows(), MANIFEST) == path
    manifest = read_manifest(path)
    assert (manifest.num_rows, manifest.payload_version) == (2, 3)
    (tmp_path / manifest.rows).write_bytes(b"other")
    with pytest.raises(ContractError, match="was changed after it was written"):
        read_manifest(path)
    path.write_text("{}")
    with pytest.raises(ContractError, match="is no manifest of served rows"):
        read_manifest(path)
    config = served_config(replace(world.config.data, since="2026-01-01", allowed_modules=["mine"]), path)
    assert (config.since, config.allowed_modules) == (None, ["mine", "runtime.data"])
