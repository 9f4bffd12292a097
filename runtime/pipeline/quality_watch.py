"""One look at everything that alerts are made of, again and again: signals in, alerts and their events into the store.

A fault in one endpoint's quality holds up neither the others nor the monitor's signals: it is told and tried again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deltalake.exceptions import DeltaError

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, TealError, UsageError
from runtime.monitoring.alerts import Alert, AlertEvent, Signal, acknowledge, evaluate, to_message
from runtime.pipeline.quality_report import read_quality, start_of_window
from runtime.pipeline.quality_signals import monitor_signals, quality_signals, staleness
from runtime.store.control import ControlStore
from runtime.telemetry.metrics import Sample

logger = logging.getLogger(__name__)

RESOLVED_KEPT_S = 7 * 86400.0
COST_SHARE = 20
"""Measuring quality may take one part in so many of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorView:
    """What the monitor says: its `status`, and its `drift` of the last minutes."""

    status: Mapping[str, Any]
    recent: Sequence[Mapping[str, Any]]


ReadMonitor = Callable[[float], MonitorView | None]
"""At a time in seconds since 1970; None where the monitor does not answer."""


@dataclass(kw_only=True)
class QualityWatch:
    """Not for many threads."""

    config: Config
    store: ControlStore
    read_monitor: ReadMonitor
    measured_at: dict[str, float] = field(default_factory=dict)
    cost_s: dict[str, float] = field(default_factory=dict)
    signals: dict[str, list[Signal]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    last_tick_at: float | None = None
    last_look_at: float | None = None
    last_signals: list[Signal] = field(default_factory=list)

    def look(self, now: float) -> list[AlertEvent]:
        """Collect the signals, evaluate the rules, store what came of it in one transaction."""
        states = {endpoint.name: endpoint for endpoint in self.store.endpoints()}
        found = self._read_monitor(list(states), now)
        for name, endpoint in states.items():
            if self._is_due(name, now):
                started = time.monotonic()
                self.signals[name] = self._measure(name, endpoint, now)
                self.measured_at[name], self.cost_s[name] = now, time.monotonic() - started
            found += self.signals.get(name, [])
        self.last_signals, self.last_look_at = found, now
        return self._evaluate(found, now)

    def _read_monitor(self, endpoints: Sequence[str], now: float) -> list[Signal]:
        view = self.read_monitor(now)
        if view is not None:
            self.last_tick_at = view.status["last_tick_at"]
            return list(monitor_signals(self.config, view.status, view.recent, now))
        if self.last_tick_at is None:
            self.last_tick_at = now
        return [staleness(name, self.last_tick_at, now) for name in endpoints]

    def _is_due(self, endpoint: str, now: float) -> bool:
        last = self.measured_at.get(endpoint)
        return last is None or now - last >= COST_SHARE * self.cost_s.get(endpoint, 0.0) or now < last

    def _measure(self, name: str, endpoint: Any, now: float) -> list[Signal]:
        since = start_of_window(self.config, now)
        try:
            overview = read_quality(self.config, self.store, name, since=since, period="all", now=now)
        except NotFoundError:
            return []
        except (TealError, OSError, DeltaError) as error:
            logger.exception("quality of %s cannot be measured", name)
            self.faults[name] = str(error)
            return self.signals.get(name, [])
        self.faults.pop(name, None)
        return list(quality_signals(self.config, overview, endpoint))

    def _evaluate(self, signals: Sequence[Signal], now: float) -> list[AlertEvent]:
        with self.store.transaction():
            before = read_alerts(self.store)
            after, events = evaluate(self.config.alerts, signals, before, now)
            kept = {key: alert for key, alert in after.items() if not _is_old(alert, now)}
            changed = {key: asdict(alert) for key, alert in kept.items() if before.get(key) != alert}
            gone = [key for key in before if key not in kept]
            if changed or gone or events:
                self.store.save_alerts(changed, gone=gone, events=[to_message(event) for event in events], at=now)
        return events

    def samples(self) -> list[Sample]:
        """What Prometheus scrapes: every signal with its bounds, every open alert."""
        found = [
            Sample(name="teal_signal", labels=_labels(signal) | {"signal": signal.name, "bound": bound}, value=value)
            for signal in self.last_signals
            for bound, value in (
                ("value", signal.value),
                ("low", signal.value if signal.low is None else signal.low),
                ("high", signal.value if signal.high is None else signal.high),
            )
        ]
        for alert in read_alerts(self.store).values():
            labels = _labels(alert) | {"rule": alert.rule, "severity": alert.severity, "phase": alert.phase}
            found.append(Sample(name="teal_alert", labels=labels, value=1.0))
        if self.last_look_at is not None:
            found.append(Sample(name="teal_alerts_last_look_timestamp_seconds", labels={}, value=self.last_look_at))
        return found


def read_alerts(store: ControlStore, endpoint: str | None = None) -> dict[str, Alert]:
    """Every alert that is known, by key."""
    return {key: Alert(**state) for key, state in store.alerts(endpoint).items()}


def acknowledge_alert(store: ControlStore, name: str, *, actor: str, reason: str, now: float) -> Alert:
    """Say that somebody looks after it: it stays so until it is resolved, or found to be worse. In the audit chain.

    `name` is an alert's id or key. NotFoundError if there is none, UsageError if it does not fire.
    """
    with store.transaction():
        alerts = read_alerts(store)
        alert = next((one for key, one in alerts.items() if name in (key, one.id)), None)
        if alert is None:
            known = ", ".join(one.id for one in alerts.values() if one.phase == "firing") or "none fires"
            raise NotFoundError(f"no alert {name!r}; firing: {known}")
        after = acknowledge(alert, actor=actor, reason=reason, now=now)
        if after is None:
            raise UsageError(f"alert {alert.id} ({alert.key}) is {alert.phase}; only one that fires is acknowledged")
        event = to_message(AlertEvent(kind="acknowledged", alert=after))
        store.save_alerts({after.key: asdict(after)}, events=[event], at=now)
        detail = {"alert": after.id, "key": after.key, "severity": after.severity, "reason": reason}
        store.record_event(after.endpoint, actor=actor, action="alert acknowledged", detail=detail)
    return after


def _is_old(alert: Alert, now: float) -> bool:
    return alert.phase == "resolved" and alert.resolved_at is not None and now - alert.resolved_at > RESOLVED_KEPT_S


def _labels(one: Signal | Alert) -> dict[str, str]:
    return {"endpoint": one.endpoint, "slot": one.slot or "", "model_version": one.model_version or ""}
