"""The alert rules as a rule file of Prometheus, for those who have an Alertmanager. Pure.

The expressions look at the signals that teal itself evaluates (`teal_signal`), so both come to the same conclusion. A
rule of severity page becomes two: a notice, and a page where a signal of the same endpoint shows harm.
"""

import json
from collections.abc import Mapping
from typing import Any

from runtime.config.alerting import AlertRuleConfig, AlertsConfig, Severity, SignalName

GROUP = "teal"
SUBJECT = "{{ $labels.endpoint }}{{ with $labels.slot }} {{ . }}{{ end }}"
LATE_LOOKS = 6
"""Missed evaluations after which teal's own alerting counts as gone."""


def prometheus_rules(config: AlertsConfig) -> dict[str, Any]:
    """What the rule file holds, in Prometheus' own schema."""
    rules = [
        _rule(name, rule, severity, config.harm)
        for name, rule in config.rules.items()
        for severity in (("notice", "page") if rule.severity == "page" else ("notice",))
    ]
    late_s = LATE_LOOKS * config.interval_s
    rules.append(
        {
            "alert": "TealAlertsGone",
            "expr": f"absent(teal_alerts_last_look_timestamp_seconds) or "
            f"time() - teal_alerts_last_look_timestamp_seconds > {late_s:g}",
            "for": "1m",
            "labels": {"severity": "notice"},
            "annotations": {
                "summary": "nobody evaluates teal's alert rules",
                "runbook": "`teal status`; `teal up` starts what is missing",
            },
        }
    )
    return {"groups": [{"name": GROUP, "interval": f"{max(config.interval_s, 1):.0f}s", "rules": rules}]}


def render_rules(config: AlertsConfig) -> str:
    """The rule file's text: JSON, which is YAML too."""
    return json.dumps(prometheus_rules(config), indent=2, ensure_ascii=False) + "\n"


def _rule(name: str, rule: AlertRuleConfig, severity: Severity, harm: Mapping[SignalName, float]) -> dict[str, Any]:
    condition = _condition(rule)
    if severity == "page":
        condition = _with_harm(rule, harm)
    return {
        "alert": "Teal" + "".join(word.capitalize() for word in name.split("_")),
        "expr": condition,
        "for": f"{rule.for_s:.0f}s",
        "labels": {"severity": severity},
        "annotations": {
            "summary": f"{rule.signal} of {SUBJECT} is {{{{ $value | humanize }}}} ({_threshold(rule)})",
            "runbook": rule.runbook,
        },
    }


def _condition(rule: AlertRuleConfig, matchers: str = "") -> str:
    if rule.above is not None:
        return f"{_signal(rule.signal, 'low' if rule.is_proven else 'value', matchers)} > {rule.above:g}"
    return f"{_signal(rule.signal, 'high' if rule.is_proven else 'value', matchers)} < {rule.below:g}"


def _with_harm(rule: AlertRuleConfig, harm: Mapping[SignalName, float]) -> str:
    """The condition where the same endpoint is harmed, in the same slot and version where both sides name one.

    What stands left of `and` is the rule's own signal, so that the alert has its labels.
    """
    if not harm:
        return f"({_condition(rule)}) and on (endpoint) (vector(0) > 1)"  # nothing counts as harm, so nothing pages
    of_all = 'slot=""'
    return " or ".join(
        (
            f"(({_condition(rule)}) and on (endpoint, slot, model_version) ({_harm(harm)}))",
            f"(({_condition(rule, of_all)}) and on (endpoint) ({_harm(harm)}))",
            f"(({_condition(rule)}) and on (endpoint) ({_harm(harm, of_all)}))",
        )
    )


def _harm(harm: Mapping[SignalName, float], matchers: str = "") -> str:
    return " or ".join(f"{_signal(signal, 'low', matchers)} > {threshold:g}" for signal, threshold in harm.items())


def _signal(name: str, bound: str, matchers: str = "") -> str:
    return f'teal_signal{{signal="{name}",bound="{bound}"{"," if matchers else ""}{matchers}}}'


def _threshold(rule: AlertRuleConfig) -> str:
    return f"above {rule.above:g}" if rule.above is not None else f"below {rule.below:g}"
