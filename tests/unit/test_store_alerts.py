"""Alerts and trainings in the store: what survives, what is refused, who is told, what the audit chain says."""

from pathlib import Path

import pytest

from runtime.core.errors import ConflictError, NotFoundError
from runtime.store.control import ControlStore


@pytest.fixture
def store(tmp_path: Path) -> ControlStore:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    return store


STATE = {"endpoint": "flights", "phase": "firing", "value": 1.5}
EVENT = {"kind": "firing", "key": "drift/flights/-/-", "severity": "notice"}


def test_alerts_survive_and_are_forgotten_only_when_told(store: ControlStore) -> None:
    store.save_alerts({"a/flights": STATE, "b/other": STATE | {"endpoint": "other"}}, at=1.0)
    again = ControlStore(store.url)
    assert again.alerts()["a/flights"] == STATE
    assert list(again.alerts("other")) == ["b/other"]
    store.save_alerts({"a/flights": STATE | {"phase": "resolved"}}, gone=["b/other"], at=2.0)
    assert {key: state["phase"] for key, state in again.alerts().items()} == {"a/flights": "resolved"}


def test_events_are_kept_and_queued_for_those_who_asked(store: ControlStore) -> None:
    store.subscribe("hook", ["alert"])
    store.save_alerts({"a": STATE}, events=[EVENT, EVENT | {"kind": "resolved"}], at=5.0)
    assert [message.payload["kind"] for message in store.pending("hook", now=6.0)] == ["firing", "resolved"]
    assert [(event["kind"], event["at"]) for event in store.alert_events()] == [("resolved", 5.0), ("firing", 5.0)]
    assert store.alert_events(since=6.0) == []


def test_states_and_events_stand_or_fall_together(store: ControlStore) -> None:
    store.subscribe("hook", ["alert"])
    with pytest.raises(KeyError):
        store.save_alerts({"a": STATE}, events=[{"key": "no kind"}], at=1.0)
    assert store.alerts() == {}
    assert store.pending("hook", now=2.0) == []


def test_one_training_of_an_endpoint_at_a_time(store: ControlStore) -> None:
    first = store.start_training("flights", {"kind": "drift"}, actor="teal", at=1.0)
    with pytest.raises(ConflictError, match=f"training {first.id} of 'flights' has not ended"):
        store.start_training("flights", {"kind": "data"}, actor="teal", at=2.0)
    other = store.start_training("other", {"kind": "data"}, actor="teal", at=2.0)
    assert store.running_training("flights") == first
    store.record_training_step(first.id, "data", {"version": "flights@1"})
    done = store.end_training(first.id, "done", reason="in slot green", actor="teal", at=3.0)
    assert (done.phase, done.steps, done.ended_at) == ("done", {"data": {"version": "flights@1"}}, 3.0)
    assert store.end_training(first.id, "failed", reason="again", actor="teal", at=4.0) == done
    assert store.running_training("flights") is None
    assert store.start_training("flights", {"kind": "data"}, actor="teal", at=5.0).id != first.id
    assert [training.endpoint for training in store.trainings(since=2.0)] == ["flights", "other"]
    assert store.trainings("other")[0] == other
    with pytest.raises(ConflictError, match="is done already; step 'sweep' is not recorded"):
        store.record_training_step(first.id, "sweep", {})
    with pytest.raises(NotFoundError, match="no training 'x'"):
        store.end_training("x", "done", reason="", actor="teal", at=1.0)


def test_the_audit_chain_says_what_started_a_training(store: ControlStore) -> None:
    training = store.start_training("flights", {"kind": "drift", "alert": "abc"}, actor="teal continuous", at=1.0)
    store.end_training(training.id, "refused", reason="worse than the champion", actor="teal continuous", at=2.0)
    started, ended = store.transitions("flights")
    assert (started.action, started.detail["trigger"]) == ("training started", {"kind": "drift", "alert": "abc"})
    assert (ended.action, ended.detail["reason"]) == ("training ended", "worse than the champion")
