"""When to train again: the decision as a function of time, and the reasons that the store gives."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config.alerting import ContinuousConfig, TriggerConfig
from runtime.pipeline.continuous_reasons import find_reasons
from runtime.pipeline.triggers import WEEK_S, Reason, TriggerState, decide
from tests.quality_example import ENDPOINT, World, draw, moment, save_alert, with_triggers

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
    assert (first.reason, first.why) == (None, "quality must hold for 5.0 min more")
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
        (TriggerState(rollout="flights-3"), "rollout flights-3 has not ended"),
        (TriggerState(answered=frozenset({"quality 1"})), "answered by an earlier training"),
        (TriggerState(last_ended_at=9_500.0), "8.3 min of the cool-down are left (continuous.cooldown_s)"),
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


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


def test_alerts_that_fire_are_reasons_and_estimates_are_not(world: World) -> None:
    world = with_triggers(world, q=TriggerConfig(kind="quality"), d=TriggerConfig(kind="drift"))
    assert find_reasons(world.config, world.store, ENDPOINT, 200.0) == []
    save_alert(world.store)
    save_alert(world.store, id="a2", rule="data_drift", signal="drift", phase="acknowledged")
    save_alert(world.store, id="a3", rule="estimated_decay", signal="estimated_auc_loss")
    save_alert(world.store, id="a4", rule="concept_drift", signal="loss_shift", phase="pending")
    save_alert(world.store, id="a5", rule="other", endpoint="other")
    save_alert(world.store, id="a6", slot="green", model_version="flights:2")  # a canary's: a rollout's business
    found = find_reasons(world.config, world.store, ENDPOINT, 200.0)
    assert [(one.trigger, one.id, one.since) for one in found] == [("q", "alert a1", 100.0), ("d", "alert a2", 100.0)]
    assert found[0].evidence["rule"] == "quality_decay"


def test_data_that_is_newer_than_the_champions_is_a_reason_unless_teal_made_it(world: World) -> None:
    world = with_triggers(world, new=TriggerConfig(kind="data"))
    assert find_reasons(world.config, world.store, ENDPOINT, moment(9)) == []
    world.add_data_version(1, served={"base_table": ENDPOINT, "base_version": 0})
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
