"""Training again by itself: a chain of steps that may be killed anywhere, and what is told of it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.cli.continuous_render import looked, status_tables
from runtime.cluster.processes import read_process
from runtime.config.alerting import TriggerConfig
from runtime.core.errors import ConflictError, ContractError, RefusedError, UnreachableError, UsageError
from runtime.pipeline import continuous
from runtime.pipeline.continuous import asked_for, keep_looking, look
from runtime.pipeline.continuous_data import NextData
from runtime.pipeline.continuous_lease import is_looked_after, lease_name, only_here
from runtime.pipeline.continuous_progress import StepProgress, StoredProgress, read_progress
from runtime.pipeline.continuous_reasons import read_trigger_state
from runtime.pipeline.continuous_status import RolloutNow, find_remedy, read_chains, read_continuous
from runtime.pipeline.progress import Silent
from runtime.pipeline.steps import Session
from runtime.rollout.phases import Phase
from runtime.store.trainings import Training
from runtime.training.trial import Candidate
from tests.quality_example import ENDPOINT, World, save_alert, with_triggers


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


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
        served = {"base_table": ENDPOINT, "base_version": 0, "num_rows": 9, "until": "2026-06-02T00:00:00+00:00"}
        version = self.world.add_data_version(1, served=served)
        return NextData(version=version, served=version.lineage["served"])

    def sweep(self, session: Session, version: Any) -> Any:
        self.did("sweep")
        best = Candidate(
            run_id="r1",
            family="mlp",
            arguments={},
            training={},
            metrics={"auc": 0.75, "log_loss": 0.5},
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
    assert (training.phase, training.reason) == ("done", "flights-1 started")
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
    assert status_tables(status)
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
    assert (training.phase, training.reason) == ("refused", "register: worse than the champion")
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
    waits: list[str] = []

    def wait(why: str) -> None:
        waits.append(why)
        raise KeyboardInterrupt

    now = time.time()
    with only_here(session.store, ENDPOINT):
        assert is_looked_after(session.store, ENDPOINT, now)
        with pytest.raises(RefusedError, match="another process trains 'flights' again"):
            only_here(session.store, ENDPOINT).__enter__()
        with pytest.raises(KeyboardInterrupt):
            only_here(session.store, ENDPOINT, on_wait=wait).__enter__()
    assert waits == ["another process trains 'flights' again; waiting until it ends"]
    assert not is_looked_after(session.store, ENDPOINT, now)
    with only_here(session.store, ENDPOINT):
        pass


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        (lambda place, pid, start: f"{place} {pid}/{start} x", False),  # a process that lives
        (lambda place, pid, start: f"{place} {pid}/{start - 1} x", True),  # its number, but an earlier process
        (lambda place, pid, start: f"{place} 99999999/{start} x", True),
        (lambda place, pid, start: f"elsewhere/1 99999999/{start} x", False),  # of another machine nothing is known
        (lambda place, pid, start: "a holder from before this was written", False),
    ],
)
def test_a_process_that_was_killed_makes_room_at_once_on_its_own_machine(
    session: Session, change: Callable[[str, int, int], str], is_free: bool
) -> None:
    process = read_process(os.getpid())
    assert process is not None
    with only_here(session.store, ENDPOINT):
        held = session.store.lease(lease_name(ENDPOINT))
    assert held is not None
    holder = change(held.holder.partition(" ")[0], process.pid, process.start_ticks)
    assert session.store.acquire_lease(lease_name(ENDPOINT), holder, 60.0, time.time()) is not None
    assert is_looked_after(session.store, ENDPOINT, time.time()) is not is_free
    if is_free:
        with only_here(session.store, ENDPOINT):
            pass
        return
    with pytest.raises(RefusedError):
        only_here(session.store, ENDPOINT).__enter__()


def test_what_lost_its_lease_stores_nothing_more(session: Session, rooms: Rooms) -> None:
    save_alert(session.store)

    def check() -> None:
        if "sweep" in rooms.calls:
            raise ConflictError("another process took over")

    with pytest.raises(ConflictError, match="took over"):
        look(session, ENDPOINT, check=check)
    running = session.store.running_training(ENDPOINT)
    assert running is not None
    assert list(running.steps) == ["data"]


def test_what_is_out_of_reach_does_not_end_the_looking(session: Session, rooms: Rooms) -> None:
    save_alert(session.store)
    rooms.faults |= {"sweep": UnreachableError("no cluster")}
    pauses: list[float] = []
    looks = keep_looking(session, ENDPOINT, reason=None, check=lambda: None, sleep=pauses.append)
    first, second = next(looks), next(looks)
    assert (first.waits_for, first.training and first.training.reason) == ("no cluster", "sweep waits: no cluster")
    assert second.training is not None
    assert (second.training.phase, second.training.steps["register"]["model"]) == ("done", "flights:2")
    assert pauses == [session.config.continuous.interval_s]


def test_how_far_a_step_is_can_be_seen_from_elsewhere(session: Session, rooms: Rooms) -> None:
    training = session.store.start_training(ENDPOINT, {"trigger": "q", "id": "a"}, actor="t", at=1.0)
    moments = iter([100.0, 100.5, 101.0])
    told = StoredProgress(Silent(), session.store, training, clock=lambda: next(moments))
    told.update("training", 1, 6)
    told.update("training", 2, 6)  # within a second: only shown
    assert read_chains(session.store, ENDPOINT, 0.0, limit=1)[0].progress == StepProgress(
        training=training.id, text="training", done=1, total=6, at=100.0
    )
    told.update("training", 3, 6)
    (chain,) = read_chains(session.store, ENDPOINT, 0.0, limit=1)
    assert (chain.step, chain.progress and chain.progress.done) == ("data", 3)
    assert chain.remedy == "nobody carries it on: `teal continuous run` does"
    session.store.end_training(training.id, "failed", reason="x", actor="t", at=2.0)
    after = session.store.start_training(ENDPOINT, {"trigger": "q", "id": "b"}, actor="t", at=3.0)
    assert read_progress(session.store, after) is None


@pytest.mark.parametrize(
    ("phase", "steps", "rollout", "words"),
    [
        ("refused", {"sweep": {"run_id": "r1"}}, None, "`teal register --run r1 --force --reason WHY`"),
        ("refused", {}, None, "`teal continuous run --now` does"),
        ("failed", {}, None, "after the cool-down it is tried again"),
        ("done", {}, Phase.AWAITING_APPROVAL, "`teal approve flights-1` lets it go on"),
        ("done", {}, Phase.PROGRESSING, None),
    ],
)
def test_what_somebody_can_do(phase: Any, steps: dict[str, Any], rollout: Phase | None, words: str | None) -> None:
    training = Training(
        id="t", endpoint=ENDPOINT, phase=phase, trigger={}, steps=steps, started_at=1.0, ended_at=2.0, reason=""
    )
    now = None if rollout is None else RolloutNow(id="flights-1", phase=rollout, reason="", is_active=True)
    found = find_remedy(training, now, is_looked_after=True)
    assert (found is None) if words is None else (words in (found or ""))


def test_reasons_are_remembered_over_a_restart(session: Session) -> None:
    config = replace(session.config.continuous, triggers={"q": TriggerConfig(kind="quality", debounce_s=1e9)})
    waiting = session.with_config(replace(session.config, continuous=config))
    save_alert(session.store, fired_at=None)
    look(waiting, ENDPOINT, now=lambda: 500.0)
    look(waiting, ENDPOINT, now=lambda: 900.0)
    assert read_trigger_state(session.store, ENDPOINT, 900.0).seen == {"alert a1": 500.0}
