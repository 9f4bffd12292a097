"""What speaks for training now, read from the store and the labels: alerts that fire, new data, time, labels."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from runtime.config.alerting import SignalName, TriggerConfig
from runtime.config.schema import Config
from runtime.core.errors import NotFoundError
from runtime.data.current import current_version
from runtime.monitoring.alerts import Alert
from runtime.pipeline.quality_report import open_ledger
from runtime.pipeline.quality_watch import read_alerts
from runtime.pipeline.triggers import WEEK_S, Reason, TriggerState
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion
from runtime.store.rollouts import RolloutStore

CHAMPION = "champion"
DRIFT_SIGNALS: tuple[SignalName, ...] = ("drift",)
QUALITY_SIGNALS: tuple[SignalName, ...] = ("auc_loss", "log_loss_rise", "loss_shift")
"""Measured with labels: an estimate without them starts nothing."""
OPEN = ("firing", "acknowledged")
STEP_NAME = "continuous"


def find_reasons(config: Config, store: ControlStore, endpoint: str, now: float) -> list[Reason]:
    """Every reason of every configured trigger."""
    found: list[Reason] = []
    for name, trigger in config.continuous.triggers.items():
        if trigger.kind in ("drift", "quality"):
            signals = DRIFT_SIGNALS if trigger.kind == "drift" else QUALITY_SIGNALS
            alerts = [one for one in _open_alerts(store, endpoint) if one.signal in signals]
            found += [_alert_reason(name, trigger, one) for one in alerts]
        elif trigger.kind == "data":
            found += _new_data(config, store, endpoint, name)
        elif trigger.kind == "schedule":
            found += _schedule(store, endpoint, name, trigger, now)
        else:
            found += _feedback(config, store, endpoint, name, trigger)
    return found


def read_trigger_state(store: RolloutStore, endpoint: str, now: float) -> TriggerState:
    trainings = store.trainings(endpoint, since=now - 5 * WEEK_S, limit=1000)
    remembered = store.step_outputs(_key(endpoint)) or {}
    ended = [one.ended_at for one in trainings if one.ended_at is not None]
    return TriggerState(
        seen={str(name): float(at) for name, at in remembered.get("seen", {}).items()},
        answered=frozenset(str(one.trigger.get("id")) for one in trainings if one.phase != "failed"),
        is_running=store.running_training(endpoint) is not None,
        rollout=next((one.id for one in store.rollouts(endpoint, is_active=True)), None),
        last_ended_at=max(ended, default=None),
        started_at=tuple(one.started_at for one in trainings),
    )


def remember_seen(store: ControlStore, endpoint: str, seen: dict[str, float]) -> None:
    """Keep since when reasons hold, so that a debounce outlives the loop."""
    known = store.step_outputs(_key(endpoint)) or {}
    if known.get("seen", {}) != seen:
        store.record_step(_key(endpoint), STEP_NAME, {"seen": seen})


def count_labelled(config: Config, store: ControlStore, endpoint: str) -> int:
    """Rows of the payload log that have a label by now."""
    return open_ledger(config, store, endpoint).update(time.time()).counts.labelled


def base_version(store: ControlStore, table: str) -> DataVersion:
    """The table's current version, or where that holds served rows the prepared one below it. NotFoundError if none."""
    current = current_version(store, table)
    served = current.lineage.get("served")
    return current if served is None else store.data_version(served["base_table"], int(served["base_version"]))


def _open_alerts(store: ControlStore, endpoint: str) -> Iterator[Alert]:
    """Of the endpoint or its primary: a canary that does badly is rolled back, which needs no training."""
    primary = next((state.primary for state in store.endpoints() if state.name == endpoint), None)
    for alert in read_alerts(store, endpoint).values():
        if alert.phase in OPEN and alert.slot in (None, primary):
            yield alert


def _alert_reason(name: str, trigger: TriggerConfig, alert: Alert) -> Reason:
    evidence: dict[str, Any] = {
        "alert": alert.id,
        "rule": alert.rule,
        "signal": alert.signal,
        "slot": alert.slot,
        "model_version": alert.model_version,
        "value": alert.value,
        "threshold": alert.threshold,
        "detail": alert.detail,
        "impact": alert.impact,
        "fired_at": alert.fired_at,
    }
    return Reason(trigger=name, kind=trigger.kind, id=f"alert {alert.id}", since=alert.fired_at, evidence=evidence)


def _new_data(config: Config, store: ControlStore, endpoint: str, name: str) -> Iterator[Reason]:
    """A version that was prepared after the one the champion was trained on."""
    try:
        newest = base_version(store, config.data.name)
    except NotFoundError:
        return
    champion = store.alias(endpoint, CHAMPION)
    if champion is None:
        return  # the first model is somebody's decision
    table, _, version = str(champion.lineage.get("data_version", "")).rpartition("@")
    if table != newest.table or not version.isdigit() or int(version) >= newest.version:
        return  # also where the configuration is of another endpoint's table
    since = datetime.fromisoformat(newest.created_at).timestamp()
    evidence = {"data_version": newest.label, "champion": champion.label, "champion_data": f"{table}@{version}"}
    yield Reason(trigger=name, kind="data", id=f"data {newest.label}", since=since, evidence=evidence)


def _schedule(store: ControlStore, endpoint: str, name: str, trigger: TriggerConfig, now: float) -> Iterator[Reason]:
    assert trigger.every_s is not None
    last = next((one.started_at for one in store.trainings(endpoint, limit=1)), None)
    due_at = 0.0 if last is None else last + trigger.every_s
    if now >= due_at:
        since = due_at if last is not None else None
        evidence = {"every_s": trigger.every_s, "last_started_at": last}
        yield Reason(trigger=name, kind="schedule", id=f"schedule {name} after {last}", since=since, evidence=evidence)


def _feedback(
    config: Config, store: ControlStore, endpoint: str, name: str, trigger: TriggerConfig
) -> Iterator[Reason]:
    assert trigger.min_labels is not None
    last = next(iter(store.trainings(endpoint, limit=1)), None)
    before = 0 if last is None else int(last.trigger.get("num_labelled", 0))
    labelled = count_labelled(config, store, endpoint)
    if labelled - before >= trigger.min_labels:
        evidence = {"num_labelled": labelled, "before": before}
        yield Reason(trigger=name, kind="feedback", id=f"feedback beyond {before}", evidence=evidence)


def _key(endpoint: str) -> str:
    return f"{STEP_NAME}/{endpoint}"
