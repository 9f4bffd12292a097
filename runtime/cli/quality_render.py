"""Quality and alerts drawn for a terminal. Nothing here computes or asks."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from runtime.monitoring.alerts import Alert
    from runtime.monitoring.quality_figures import Estimate
    from runtime.pipeline.quality_report import LossLevel, PeriodQuality, QualityOverview

PHASE_STYLE = {"pending": "dim", "firing": "bold", "acknowledged": "cyan", "resolved": "green"}
BARS = "▁▂▃▄▅▆▇█"
SLOT_STYLE = {"blue": "blue", "green": "green"}


def sparkline(values: Sequence[float | None]) -> str:
    """One block a value, scaled between the lowest and the highest; a gap where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[steps // 2 if span == 0 else round((value - low) / span * steps)]
        for value in values
    )


def quality_tables(overview: "QualityOverview") -> list[RenderableType]:
    counts = overview.counts
    parts: list[RenderableType] = [_quality_table(overview.qualities, overview)]
    series: dict[str, list[float | None]] = {}
    for one in overview.qualities:
        series.setdefault(f"{one.slot} {one.model_version}", []).append(one.measured.auc.value)
    for name, values in series.items():
        if len(values) > 1:
            parts.append(Text(f"AUC over time, {name}: {sparkline(values)}"))
    if overview.slices:
        parts.append(_quality_table(overview.slices, overview))
    if overview.num_small_slices:
        parts.append(Text(f"{overview.num_small_slices} slices have too few labelled rows to be shown", style="dim"))
    parts += [_loss_line(level) for level in overview.losses]
    parts.append(
        Text(
            f"{counts.labelled:,} of {counts.predictions:,} predictions have a label; {counts.labels:,} labels came: "
            f"{counts.repeated:,} repeated, {counts.conflicting:,} conflicting, {counts.late:,} late, "
            f"{counts.waiting:,} waiting for their prediction, {counts.unknown:,} of unknown predictions",
            style="dim",
        )
    )
    parts.append(
        Text("gap: observed rate less mean score; ECE: calibration error; red: all of it below the gate's", "dim")
    )
    if any(one.estimated for one in overview.qualities):
        from runtime.monitoring.cbpe import CAVEAT

        parts.append(Text(f"estimated: from scores without labels, {CAVEAT}", style="dim"))
    return parts


def _quality_table(qualities: "Sequence[PeriodQuality]", overview: "QualityOverview") -> Table:
    is_sliced = any(one.slice_column for one in qualities)
    first = ("slice",) if is_sliced else ()
    last = () if is_sliced else ("estimated AUC",)
    table = Table(
        overview.period, *first, "slot", "model", "rows", "labelled", "AUC", "log loss", "gap", "ECE", *last, box=None
    )
    for one in qualities:
        figures = one.measured
        reference = overview.references.get(one.model_version)
        is_below = (
            reference is not None
            and reference.auc.value is not None
            and figures.auc.high is not None
            and figures.auc.high < reference.auc.value
        )
        table.add_row(
            one.period,
            *((f"{one.slice_column}={one.slice_value}",) if is_sliced else ()),
            Text(one.slot, style=SLOT_STYLE.get(one.slot, "")),
            one.model_version,
            f"{figures.num_rows:,}",
            f"{figures.num_labelled:,}",
            Text(_interval(figures.auc), style="red" if is_below else ""),
            _interval(figures.log_loss),
            _interval(figures.calibration_gap, sign="+"),
            "-" if figures.calibration_error is None else f"{figures.calibration_error:.3f}",
            *(() if is_sliced else (_interval(one.estimated.auc) if one.estimated else "-",)),
        )
    return table


def _interval(estimate: "Estimate", sign: str = "") -> str:
    if estimate.value is None:
        return "-"
    value = f"{estimate.value:{sign}.3f}"
    return value if estimate.low is None else f"{value} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _loss_line(level: "LossLevel") -> Text:
    if not level.num_batches:
        return Text(
            f"loss of {level.model_version}: followed once a stretch of time is whole (quality.loss_batch_s)",
            style="dim",
        )
    mean = "-" if level.mean is None else f"{level.mean:.3f}"
    reference = "still learned" if level.reference is None else f"{level.reference:.3f}"
    text = f"loss of {level.model_version}: {mean} lately, reference {reference}"
    if not level.alarms:
        return Text(f"{text}; no change of level in {level.num_batches:,} stretches of time", style="dim")
    last = level.alarms[-1]
    turn = "rose" if last.is_rise else "fell"
    return Text(
        f"{text}; it {turn} from {last.before:.3f} to {last.level:.3f}, {_day(last.at)} ({last.detector})",
        style="red" if level.has_risen else "",
    )


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def feedback_line(endpoint: str, num_labels: int, num_accepted: int) -> RenderableType:
    return Group(
        Text(f"{num_accepted:,} of {num_labels:,} labels accepted for {endpoint}", style="bold"),
        Text("`teal monitor quality` shows what they say", style="dim"),
    )


def alert_tables(alerts: "Sequence[Alert]", events: Sequence[Mapping[str, Any]], now: float) -> list[RenderableType]:
    """Pages first; each with its impact and its runbook line."""
    parts: list[RenderableType] = [] if alerts else [Text("no alerts", style="green")]
    for alert in sorted(alerts, key=lambda one: (one.severity != "page", one.phase, one.since)):
        who = f" by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        subject = " ".join(part for part in (alert.endpoint, alert.slot, alert.model_version) if part)
        head = Text(f"{alert.severity} ", style="red bold" if alert.severity == "page" else "yellow")
        head.append(f"{alert.phase}{who} ", style=PHASE_STYLE[alert.phase])
        head.append(f"for {_duration((alert.resolved_at or now) - alert.since)}: ", style="")
        head.append(
            f"{alert.rule} of {subject}, {alert.signal} {alert.value:.3g} against {alert.threshold:g}", style=""
        )
        head.append(f"  {alert.id}", style="dim")
        notes = [alert.detail, alert.impact or "no harm measured or estimated", alert.runbook]
        parts += [head, *(Text(f"    {note}", style="dim") for note in notes if note)]
    if events:
        table = Table("at", "event", "alert", "severity", box=None, title="lately")
        for event in events:
            moment = datetime.fromtimestamp(event["at"], UTC).isoformat(timespec="seconds")
            table.add_row(moment, event["kind"], event["key"], event["severity"])
        parts.append(table)
    return parts


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"
