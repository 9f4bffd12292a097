"""Which alerts there are: rules, signals and the states so far in, states and events out. Pure; time is given.

Impact first: a rule of severity `page` pages only where harm is measured or estimated for the same endpoint, and is a
notice until then. A missing signal changes nothing: it neither fires nor resolves. It knows neither where signals come
from nor who is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from runtime.config.alerting import AlertRuleConfig, AlertsConfig, Severity, SignalName
from runtime.core.hashing import sha256_json

Phase = Literal["pending", "firing", "acknowledged", "resolved"]
Finding = Literal["holds", "held_long", "ceased", "ceased_long", "missing_long", "acknowledge"]
EventKind = Literal["firing", "escalated", "acknowledged", "resolved"]

TRANSITIONS: Mapping[tuple[Phase | None, Finding], Phase | None] = {
    (None, "holds"): "pending",
    (None, "held_long"): "firing",
    ("pending", "held_long"): "firing",
    ("pending", "ceased"): None,
    ("pending", "ceased_long"): None,
    ("pending", "missing_long"): None,
    ("firing", "ceased_long"): "resolved",
    ("firing", "missing_long"): "resolved",
    ("firing", "acknowledge"): "acknowledged",
    ("acknowledged", "ceased_long"): "resolved",
    ("acknowledged", "missing_long"): "resolved",
    ("resolved", "holds"): "pending",
    ("resolved", "held_long"): "firing",
}
"""What is not here stays as it is; None is an alert that does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """One number that was seen, of a model version in a slot or of a whole endpoint or monitor."""

    name: SignalName
    endpoint: str
    slot: str | None = None
    model_version: str | None = None
    value: float
    low: float | None = None
    high: float | None = None
    """Interval, where there is one."""
    detail: str = ""
    """What a person wants to know beside the number: the features, the slice."""

    @property
    def subject(self) -> tuple[str, str | None, str | None]:
        return self.endpoint, self.slot, self.model_version


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One rule about one subject. Times are seconds since 1970."""

    id: str
    """Of this time that it came up; another time is another id."""
    rule: str
    signal: SignalName
    endpoint: str
    slot: str | None
    model_version: str | None
    phase: Phase
    severity: Severity
    value: float
    threshold: float
    detail: str
    impact: str | None
    """The harm, as text; None where none is measured or estimated."""
    runbook: str
    since: float
    """When the condition began to hold."""
    seen_at: float
    """When the signal was last there."""
    ceased_at: float | None = None
    """Since when the condition does not hold."""
    fired_at: float | None = None
    resolved_at: float | None = None
    acknowledged_by: str | None = None
    acknowledged_at: float | None = None
    reason: str = ""

    @property
    def key(self) -> str:
        return alert_key(self.rule, (self.endpoint, self.slot, self.model_version))


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertEvent:
    """What somebody may want to be told."""

    kind: EventKind
    alert: Alert


def evaluate(
    config: AlertsConfig, signals: Sequence[Signal], states: Mapping[str, Alert], now: float
) -> tuple[dict[str, Alert], list[AlertEvent]]:
    """The alerts after one look, by key. Repeating it with the same signals at the same moment changes nothing.

    Resolved alerts stay for the caller to keep or drop. An alert whose rule is gone is resolved.
    """
    found: dict[str, tuple[str, AlertRuleConfig, Signal]] = {}
    for rule_name, rule in config.rules.items():
        for signal in signals:
            if signal.name == rule.signal:
                found[alert_key(rule_name, signal.subject)] = (rule_name, rule, signal)
    after: dict[str, Alert] = {}
    events: list[AlertEvent] = []
    for key in sorted({*found, *states}):
        before = states.get(key)
        if key in found:
            alert, changed = _look(config, *found[key], signals, before, now)
        else:
            assert before is not None
            alert, changed = _look_away(config, before, now)
        if alert is not None:
            after[key] = alert
        events += changed
    return after, events


def acknowledge(alert: Alert, *, actor: str, reason: str, now: float) -> Alert | None:
    """The alert with its acknowledgement; None if it is in no phase to be acknowledged."""
    phase = TRANSITIONS.get((alert.phase, "acknowledge"))
    if phase is None:
        return None
    return replace(alert, phase=phase, acknowledged_by=actor, acknowledged_at=now, reason=reason)


def alert_key(rule: str, subject: tuple[str, str | None, str | None]) -> str:
    return "/".join((rule, *(part or "-" for part in subject)))


def is_beyond(rule: AlertRuleConfig, signal: Signal) -> bool:
    """Whether the rule's condition holds; with `is_proven` for the whole interval."""
    if rule.above is not None:
        return (signal.low if rule.is_proven and signal.low is not None else signal.value) > rule.above
    assert rule.below is not None
    return (signal.high if rule.is_proven and signal.high is not None else signal.value) < rule.below


def find_impact(config: AlertsConfig, signals: Sequence[Signal], subject: Signal) -> str | None:
    """Harm to the subject's endpoint, in its slot and version where both sides name one; None if there is none."""
    told = []
    for signal in signals:
        threshold = config.harm.get(signal.name)
        if threshold is None or signal.endpoint != subject.endpoint:
            continue
        if any(
            mine is not None and other is not None and mine != other
            for mine, other in ((signal.slot, subject.slot), (signal.model_version, subject.model_version))
        ):
            continue
        bound = signal.value if signal.low is None else signal.low
        if bound > threshold:
            kind = "estimated" if signal.name.startswith("estimated") else "measured"
            told.append(f"{signal.name} {signal.value:.3g} ({kind}, at least {bound:.3g}, harm above {threshold:g})")
    return "; ".join(sorted(told)) or None


def _look(
    config: AlertsConfig,
    rule_name: str,
    rule: AlertRuleConfig,
    signal: Signal,
    signals: Sequence[Signal],
    before: Alert | None,
    now: float,
) -> tuple[Alert | None, list[AlertEvent]]:
    holds = is_beyond(rule, signal)
    is_over = before is None or before.phase == "resolved"
    if is_over and not holds:
        return before, []
    since = now if is_over or before is None else before.since
    ceased_at = None if holds or before is None else before.ceased_at if before.ceased_at is not None else now
    if holds:
        finding: Finding = "held_long" if now - since >= rule.for_s else "holds"
    else:
        finding = "ceased_long" if ceased_at is not None and now - ceased_at >= config.resolve_s else "ceased"
    impact = find_impact(config, signals, signal)
    severity: Severity = "page" if rule.severity == "page" and impact is not None else "notice"
    phase = before.phase if before is not None else None
    following = TRANSITIONS.get((phase, finding), phase)
    if following is None:
        return None, []
    threshold = rule.above if rule.above is not None else rule.below
    assert threshold is not None
    alert = Alert(
        id=_alert_id(rule_name, signal, since) if is_over or before is None else before.id,
        rule=rule_name,
        signal=rule.signal,
        endpoint=signal.endpoint,
        slot=signal.slot,
        model_version=signal.model_version,
        phase=following,
        severity=severity,
        value=signal.value,
        threshold=threshold,
        detail=signal.detail,
        impact=impact,
        runbook=rule.runbook,
        since=since,
        seen_at=now,
        ceased_at=ceased_at,
    )
    if before is not None and not is_over:
        alert = replace(
            alert,
            fired_at=before.fired_at,
            acknowledged_by=before.acknowledged_by,
            acknowledged_at=before.acknowledged_at,
            reason=before.reason,
        )
        if before.severity == "page":  # once it paged it is a page to its end, or it would page again and again
            alert = replace(alert, severity="page", impact=impact or before.impact)
    return _settle(alert, None if is_over else before, now)


def _look_away(config: AlertsConfig, before: Alert, now: float) -> tuple[Alert | None, list[AlertEvent]]:
    """The signal is missing."""
    is_gone = before.rule not in config.rules or now - before.seen_at >= config.forget_s
    following = TRANSITIONS.get((before.phase, "missing_long"), before.phase) if is_gone else before.phase
    if following is None:
        return None, []
    if following == before.phase:
        return before, []
    return _settle(replace(before, phase=following, detail="not measured any more"), before, now)


def _settle(alert: Alert, before: Alert | None, now: float) -> tuple[Alert, list[AlertEvent]]:
    """The events between two states of an alert, and the marks that they leave on it."""
    was_open = before is not None and before.phase in ("firing", "acknowledged")
    if alert.phase == "firing" and not was_open:
        alert = replace(alert, fired_at=now)
        return alert, [AlertEvent(kind="firing", alert=alert)]
    if alert.phase == "resolved":
        alert = replace(alert, resolved_at=now)
        return alert, [AlertEvent(kind="resolved", alert=alert)]
    if was_open and before is not None and before.severity == "notice" and alert.severity == "page":
        # Who acknowledged a notice has not seen the harm.
        alert = replace(alert, phase="firing", acknowledged_by=None, acknowledged_at=None, reason="")
        return alert, [AlertEvent(kind="escalated", alert=alert)]
    return alert, []


def _alert_id(rule: str, signal: Signal, since: float) -> str:
    return sha256_json({"rule": rule, "subject": list(signal.subject), "since": since})[:12]


def to_message(event: AlertEvent) -> dict[str, Any]:
    """The event as JSON, for those who are told."""
    alert = event.alert
    return {"kind": event.kind, "key": alert.key} | {name: getattr(alert, name) for name in Alert.__slots__}
