"""What the monitor counted and what the labels said, as the signals that alert rules look at. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy import stats

from runtime.config.schema import Config
from runtime.monitoring.alerts import Signal
from runtime.monitoring.quality_figures import Estimate
from runtime.monitoring.quality_ledger import LabelCounts
from runtime.pipeline.quality_report import PeriodQuality, QualityOverview
from runtime.store.records import SLOTS, EndpointState

RECENT_S = 300.0
"""Errors, latency and PSI are those of so many seconds."""
MIN_REQUESTS = 20
MIN_ROWS = 100
"""Fewer make a PSI that chance alone may have made."""
MIN_EXPECTED = 20.0
MIN_RATIO, MAX_RATIO = 1e-6, 1e6


def monitor_signals(
    config: Config, status: Mapping[str, Any], recent: Sequence[Mapping[str, Any]], now: float
) -> Iterator[Signal]:
    """Of the monitor's `status`, and its `drift` over the last RECENT_S."""
    endpoints = {str(entry["endpoint"]) for entry in status["entries"]}
    for endpoint in sorted(endpoints):
        yield Signal(name="staleness_s", endpoint=endpoint, value=max(now - status["last_tick_at"], 0.0))
    for evidence in status.get("drift", ()):
        yield from _drift(evidence)
    for entry in recent:
        yield from _traffic(config, entry)


def quality_signals(config: Config, overview: QualityOverview, endpoint: EndpointState) -> Iterator[Signal]:
    """Of quality over all of a window, for the versions that are deployed now."""
    deployed = {(slot, model.label) for slot in SLOTS if (model := endpoint.slot(slot).model) is not None}
    for one in overview.qualities:
        if (one.slot, one.model_version) in deployed:
            yield from _decay(config, overview, one)
    yield from _labels(overview.counts, overview.endpoint, config.quality.confidence)
    for level in overview.losses:
        slot = next((slot for slot, label in deployed if label == level.model_version), None)
        if slot is None:
            continue
        last = level.alarms[-1] if level.alarms else None
        detail = "" if last is None else f"mean loss {last.before:.3f} to {last.level:.3f}, {last.detector}"
        yield Signal(
            name="loss_shift",
            endpoint=overview.endpoint,
            slot=slot,
            model_version=level.model_version,
            value=1.0 if level.has_risen else 0.0,
            detail=detail,
        )


def staleness(endpoint: str, last_tick_at: float, now: float) -> Signal:
    """Of a monitor that does not answer, by the tick that it last told of."""
    detail = "the monitor does not answer"
    return Signal(name="staleness_s", endpoint=endpoint, value=max(now - last_tick_at, 0.0), detail=detail)


def _drift(evidence: Mapping[str, Any]) -> Iterator[Signal]:
    log_evidence = evidence["log_evidence"]
    logs = -math.inf if log_evidence is None else log_evidence - evidence["log_threshold"]
    ratio = math.exp(max(min(logs, math.log(MAX_RATIO)), math.log(MIN_RATIO)))
    names = [f"{one['slot'] or 'all'}: {one['feature']}" for one in evidence["culprits"][:3]]
    yield Signal(
        name="drift",
        endpoint=evidence["endpoint"],
        value=ratio,
        detail=", ".join(names) if ratio >= 1 else "",
    )
    volume = evidence["volume"]
    expected, observed = volume["expected"], volume["observed"]
    if expected is not None and expected >= MIN_EXPECTED:
        reach = 2 * math.sqrt(observed + 1)
        yield Signal(
            name="volume_ratio",
            endpoint=evidence["endpoint"],
            value=observed / expected,
            low=max(observed - reach, 0.0) / expected,
            high=(observed + reach) / expected,
            detail=f"{observed} requests in the last tick, {expected:.0f} expected",
        )


def _traffic(config: Config, entry: Mapping[str, Any]) -> Iterator[Signal]:
    where: dict[str, Any] = {name: entry[name] for name in ("endpoint", "slot", "model_version")}
    requests, errors = int(entry["requests"]), int(entry["errors"])
    if requests >= MIN_REQUESTS:
        low, high = wilson(errors, requests, config.quality.confidence)
        detail = f"{errors} of {requests} requests in {RECENT_S:g} s"
        yield Signal(name="error_rate", value=errors / requests, low=low, high=high, detail=detail, **where)
        if (p95 := entry["latency_ms"].get("p95")) is not None:
            yield Signal(name="latency_p95_ms", value=float(p95), detail=detail, **where)
    if entry["rows"] < MIN_ROWS:
        return
    # What sampling alone gives is not drift: a hundred rows have a PSI of 0.2 by chance.
    excess = {
        one["feature"]: one["psi"] - one["psi_without_drift"]
        for one in entry["features"]
        if one["kind"] != "score" and one["psi_without_drift"] < one["psi"]
    }
    if entry["features"]:
        worst = sorted(excess, key=lambda name: -excess[name])[:3]
        detail = ", ".join(f"{name} {excess[name]:.2f}" for name in worst)
        yield Signal(name="psi", value=max(excess.values(), default=0.0), detail=detail, **where)
    if entry["score_psi"] is not None:
        yield Signal(name="score_psi", value=float(entry["score_psi"]), **where)


def _decay(config: Config, overview: QualityOverview, one: PeriodQuality) -> Iterator[Signal]:
    reference = overview.references.get(one.model_version)
    where: dict[str, Any] = dict(endpoint=overview.endpoint, slot=one.slot, model_version=one.model_version)
    rows = config.quality.min_rows
    if one.measured.num_labelled >= rows:
        gap = one.measured.calibration_gap
        if gap.value is not None and gap.low is not None and gap.high is not None:
            is_apart = gap.low > 0 or gap.high < 0
            low = min(abs(gap.low), abs(gap.high)) if is_apart else 0.0
            yield Signal(name="calibration_gap", value=abs(gap.value), low=low, **where)
        if reference is not None:
            told = f"{one.measured.num_labelled:,} labelled rows against {reference.num_rows:,} of the gate"
            yield from _difference("auc_loss", reference.auc, one.measured.auc, -1, told, where)
            yield from _difference("log_loss_rise", reference.log_loss, one.measured.log_loss, 1, told, where)
    if reference is not None and one.estimated is not None and one.estimated.num_rows >= rows:
        told = f"{one.estimated.num_rows:,} rows without labels; valid only without concept drift"
        yield from _difference("estimated_auc_loss", reference.estimated_auc, one.estimated.auc, -1, told, where)


def _difference(
    name: Any, before: Estimate, after: Estimate, sign: int, detail: str, where: Mapping[str, Any]
) -> Iterator[Signal]:
    """How much worse, with the interval of a difference of two independent figures."""
    if None in (before.value, before.low, before.high, after.value, after.low, after.high):
        return
    assert before.value is not None
    assert before.low is not None
    assert after.value is not None
    assert after.low is not None
    value = sign * (after.value - before.value)
    reach = math.hypot(before.value - before.low, after.value - after.low)
    text = f"{before.value:.3f} to {after.value:.3f}, {detail}"
    yield Signal(name=name, value=value, low=value - reach, high=value + reach, detail=text, **where)


def _labels(counts: LabelCounts, endpoint: str, confidence: float) -> Iterator[Signal]:
    if counts.labels:
        low, high = wilson(counts.conflicting, counts.labels, confidence)
        detail = f"{counts.conflicting:,} of {counts.labels:,} labels"
        value = counts.conflicting / counts.labels
        yield Signal(name="conflict_rate", endpoint=endpoint, value=value, low=low, high=high, detail=detail)


def wilson(number: int, total: int, confidence: float) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927)."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share, scale = number / total, 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)
