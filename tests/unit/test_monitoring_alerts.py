"""Alerts: the transition table walked with a hand-moved clock, impact first, and the rule file for Prometheus."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.config.alerting import AlertRuleConfig, AlertsConfig, SignalName
from runtime.config.compose import compose
from runtime.monitoring.alerts import (
    TRANSITIONS,
    Alert,
    AlertEvent,
    Signal,
    acknowledge,
    evaluate,
    is_beyond,
    to_message,
)
from runtime.monitoring.rules import prometheus_rules, render_rules
from runtime.telemetry.metrics import METRIC_NAMES

DRIFT = AlertRuleConfig(signal="drift", above=1.0, for_s=60, severity="page", runbook="look at the features")
CONFIG = AlertsConfig(resolve_s=120, forget_s=600, harm={"auc_loss": 0.02, "error_rate": 0.1}, rules={"drift": DRIFT})
KEY = "drift/flights/-/-"


def drift(value: float, **change: Any) -> Signal:
    return replace(Signal(name="drift", endpoint="flights", value=value), **change)


def harm(name: SignalName = "auc_loss", value: float = 0.05, low: float | None = 0.03, **change: Any) -> Signal:
    return replace(Signal(name=name, endpoint="flights", slot="blue", value=value, low=low, high=0.1), **change)


@dataclass
class Desk:
    """Where the rules are evaluated."""

    config: AlertsConfig = CONFIG
    states: dict[str, Alert] = field(default_factory=dict)
    now: float = 1000.0

    def look(self, *signals: Signal, after: float = 10.0) -> list[str]:
        self.now += after
        self.states, events = evaluate(self.config, signals, self.states, self.now)
        return [f"{event.kind} {event.alert.severity}" for event in events]

    def ack(self, who: str = "ann") -> None:
        after = acknowledge(self.states[KEY], actor=who, reason="on it", now=self.now)
        assert after is not None
        self.states[KEY] = after

    @property
    def alert(self) -> Alert:
        return self.states[KEY]

    @property
    def phase(self) -> str:
        return self.states[KEY].phase if KEY in self.states else "none"


def fired(*signals: Signal) -> Desk:
    desk = Desk()
    desk.look(*(signals or (drift(2.0),)))
    desk.look(*(signals or (drift(2.0),)), after=60)
    assert desk.phase == "firing"
    return desk


def test_it_fires_only_after_the_condition_held_for_long_enough() -> None:
    desk = Desk()
    assert (desk.look(drift(0.9)), desk.phase) == ([], "none")
    assert (desk.look(drift(1.1)), desk.phase) == ([], "pending")
    assert desk.look(drift(1.1), after=59) == []
    assert desk.look(drift(1.1), after=1) == ["firing notice"]
    assert desk.look(drift(1.1)) == []
    assert (desk.phase, desk.alert.fired_at) == ("firing", 1080.0)


def test_a_break_while_it_is_pending_forgets_it() -> None:
    desk = Desk()
    desk.look(drift(2.0))
    desk.look(drift(0.5), after=30)
    assert desk.phase == "none"
    desk.look(drift(2.0))
    assert desk.look(drift(2.0), after=59) == []


def test_it_resolves_only_after_the_condition_ceased_for_long_enough() -> None:
    desk = fired()
    assert desk.look(drift(0.1), after=10) == []
    assert desk.look(drift(2.0), after=100) == []
    assert desk.look(drift(0.1), after=10) == []
    assert desk.look(drift(0.1), after=119) == []
    assert desk.look(drift(0.1), after=1) == ["resolved notice"]
    assert desk.look(drift(0.1), after=1000) == []
    first = desk.alert.id
    desk.look(drift(2.0))
    assert desk.look(drift(2.0), after=60) == ["firing notice"]
    assert desk.alert.id != first


def test_one_that_is_acknowledged_stays_so_until_it_is_over() -> None:
    desk = fired()
    desk.ack()
    assert desk.look(drift(5.0)) == []
    assert (desk.phase, desk.alert.acknowledged_by, desk.alert.reason) == ("acknowledged", "ann", "on it")
    assert acknowledge(desk.alert, actor="ben", reason="", now=0) is None
    desk.look(drift(0.1))
    assert desk.look(drift(0.1), after=120) == ["resolved notice"]


def test_without_harm_a_page_is_a_notice() -> None:
    assert fired(drift(9.0)).alert.severity == "notice"
    assert fired(drift(9.0), harm(low=0.01)).alert.severity == "notice"  # not proven
    assert fired(drift(9.0), harm(endpoint="other")).alert.severity == "notice"
    assert fired(drift(9.0), harm(name="calibration_gap")).alert.severity == "notice"  # not in alerts.harm
    found = fired(drift(9.0), harm()).alert
    assert (found.severity, found.impact) == (
        "page",
        "auc_loss 0.05 (measured, at least 0.03, harm above 0.02)",
    )


def test_harm_in_another_slot_is_not_this_ones() -> None:
    rule = replace(DRIFT, signal="psi", above=0.2)
    config = replace(CONFIG, rules={"drift": rule})
    for slot, severity in (("blue", "page"), ("green", "notice")):
        signal = Signal(name="psi", endpoint="flights", slot=slot, model_version="flights:1", value=5.7)
        desk = Desk(config=config)
        desk.look(signal, harm())
        desk.look(signal, harm(), after=60)
        (alert,) = desk.states.values()
        assert alert.severity == severity


def test_harm_that_shows_later_pages_also_who_acknowledged_the_notice() -> None:
    desk = fired()
    desk.ack()
    assert desk.look(drift(2.0), harm()) == ["escalated page"]
    assert (desk.phase, desk.alert.acknowledged_by) == ("firing", None)
    assert desk.look(drift(2.0)) == []
    assert desk.look(drift(2.0), harm()) == []  # once a page it stays one, and is told once
    desk.ack("ben")
    assert desk.look(drift(2.0), harm()) == []
    assert (desk.phase, desk.alert.severity) == ("acknowledged", "page")


def test_a_notice_rule_never_pages() -> None:
    desk = Desk(config=replace(CONFIG, rules={"drift": replace(DRIFT, severity="notice", for_s=0)}))
    assert desk.look(drift(2.0), harm()) == ["firing notice"]
    assert desk.alert.impact is not None


def test_a_missing_signal_neither_fires_nor_resolves_until_it_is_forgotten() -> None:
    desk = Desk()
    desk.look(drift(2.0))
    assert desk.look(after=300) == []
    assert desk.phase == "pending"
    desk = fired()
    assert desk.look(after=599) == []
    assert desk.phase == "firing"
    assert desk.look(after=1) == ["resolved notice"]
    assert desk.alert.detail == "not measured any more"


def test_an_alert_whose_rule_is_gone_is_resolved() -> None:
    desk = fired()
    desk.config = replace(CONFIG, rules={})
    assert desk.look(drift(2.0)) == ["resolved notice"]


def test_an_interval_must_lie_beyond_the_threshold_as_a_whole() -> None:
    above = replace(DRIFT, signal="auc_loss", above=0.02)
    signal = Signal(name="auc_loss", endpoint="e", value=0.05, low=0.01, high=0.09)
    assert not is_beyond(above, signal)
    assert is_beyond(above, replace(signal, low=0.021))
    assert is_beyond(replace(above, is_proven=False), signal)
    below = replace(DRIFT, signal="volume_ratio", above=None, below=0.2)
    volume = Signal(name="volume_ratio", endpoint="e", value=0.1, low=0.0, high=0.3)
    assert not is_beyond(below, volume)
    assert is_beyond(below, replace(volume, high=0.15))


def test_versions_and_slots_have_alerts_of_their_own_and_one_each() -> None:
    rule = replace(DRIFT, signal="error_rate", above=0.1, for_s=0)
    signals = [
        Signal(name="error_rate", endpoint="flights", slot=slot, model_version="flights:1", value=0.5)
        for slot in ("blue", "green")
    ]
    desk = Desk(config=replace(CONFIG, rules={"errors": rule}))
    assert desk.look(*signals) == ["firing page", "firing page"]
    assert desk.look(*signals, *signals) == []
    assert sorted(desk.states) == ["errors/flights/blue/flights:1", "errors/flights/green/flights:1"]


def test_states_and_events_are_json() -> None:
    alert = fired(drift(2.0), harm()).alert
    message = json.loads(json.dumps(to_message(AlertEvent(kind="firing", alert=alert))))
    assert (message["kind"], message["key"], message["runbook"]) == ("firing", KEY, "look at the features")


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["holds", "ceased", "missing", "ack", "harm"]), st.sampled_from([0.0, 30.0, 700.0])),
        max_size=25,
    )
)
def test_any_story_keeps_the_alert_in_its_table(steps: list[tuple[str, float]]) -> None:
    """Every change of phase is in the table; firing and resolving alternate; looking twice changes nothing."""
    desk = Desk()
    told: list[str] = []
    table = {(before or "none", after or "none") for (before, _), after in TRANSITIONS.items()}
    allowed = table | {("acknowledged", "firing")}
    for what, after in steps:
        before = desk.phase
        if what == "ack":
            found = acknowledge(desk.alert, actor="a", reason="", now=desk.now) if KEY in desk.states else None
            if found is not None:
                desk.states[KEY] = found
        else:
            signals = [] if what == "missing" else [drift(0.1 if what == "ceased" else 2.0)]
            signals += [harm()] if what == "harm" else []
            told += [text.split()[0] for text in desk.look(*signals, after=after)]
            again, events = evaluate(desk.config, signals, desk.states, desk.now)
            assert (again, events) == (desk.states, [])
        assert desk.phase == before or (before, desk.phase) in allowed
    spans = [kind for kind in told if kind != "escalated"]
    assert spans == (["firing", "resolved"] * len(spans))[: len(spans)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"above": None}, "either above or below"),
        ({"below": 0.1}, "either above or below"),
        ({"runbook": " "}, "needs a runbook"),
        ({"for_s": -1.0}, "for_s must be at least 0"),
        ({"signal": "mood"}, "signal"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"signal": "drift", "above": 1.0, "runbook": "x"} | change
    with pytest.raises(ValidationError, match=words):
        AlertRuleConfig(**values)


def test_what_harms_nobody_is_no_harm() -> None:
    with pytest.raises(ValidationError, match="psi harms nobody by itself"):
        AlertsConfig(harm={"psi": 0.2})


def test_the_rules_that_come_with_teal_make_a_rule_file_for_prometheus() -> None:
    config = compose([]).alerts
    content = yaml.safe_load(render_rules(config))
    assert content == prometheus_rules(config)
    (group,) = content["groups"]
    assert set(group) == {"name", "interval", "rules"}
    known = {metric.name for metric in METRIC_NAMES}
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["alert"].isidentifier()
        assert rule["labels"]["severity"] in ("page", "notice")
        assert rule["annotations"]["runbook"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert any(name in rule["expr"] for name in known)
    pages = [rule for rule in group["rules"] if rule["labels"]["severity"] == "page"]
    assert len(pages) == sum(rule.severity == "page" for rule in config.rules.values())
    assert all(" and on (endpoint) (" in rule["expr"] for rule in pages)
    assert len(group["rules"]) == len(config.rules) + len(pages) + 1


def test_where_nothing_is_harm_prometheus_pages_nobody() -> None:
    rules = prometheus_rules(replace(CONFIG, harm={}))["groups"][0]["rules"]
    (page,) = [rule for rule in rules if rule["labels"]["severity"] == "page"]
    assert page["expr"].endswith("(vector(0) > 1)")
