"""What the monitor says, drawn for a terminal. Nothing here computes or asks."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from runtime.cli.style import SLOT_STYLE

if TYPE_CHECKING:
    from runtime.pipeline.drift_replay import Replay
    from runtime.serving.shadow_report import ShadowReport

NUM_CULPRITS = 5
BAR_WIDTH = 24
EFFECT_NOTE = "PSI is an effect size, not a test: it has no false alarm rate. The evidence above has."


def monitor_tables(state: Mapping[str, Any]) -> list[RenderableType]:
    """A row for each endpoint, slot and model version, and what is known of each endpoint's drift."""
    table = Table("slot", "model", "requests", "rows", "errors", "p50", "p95", "moved most (PSI)", box=None)
    for entry in state.get("entries", []):
        latency = entry.get("latency_ms", {})
        moved_most = sorted(entry.get("psi", {}).items(), key=lambda item: -item[1])[:3]
        table.add_row(
            Text(entry["slot"], style=SLOT_STYLE.get(entry["slot"], "")),
            str(entry["model_version"]),
            f"{entry['requests']:,}",
            f"{entry['rows']:,}",
            f"{entry['errors']:,}",
            _milliseconds(latency.get("p50")),
            _milliseconds(latency.get("p95")),
            ", ".join(f"{name} {value:.1f}" for name, value in moved_most),
        )
    return [table, *(evidence_line(evidence) for evidence in state.get("drift", []))]


def evidence_line(evidence: Mapping[str, Any]) -> Text:
    """One endpoint's evidence against its threshold, in a sentence."""
    name = evidence["endpoint"]
    if evidence["is_alarm"]:
        culprit = next(iter(evidence["culprits"]), None)
        first = "" if culprit is None else f", first {culprit['feature']}{_in_slot(culprit)}"
        return Text(f"drift {name}: ALARM since {_moment(evidence['alarm_since'])}{first}", style="red")
    if evidence["fault"]:
        return Text(f"drift {name}: not watched: {evidence['fault']}", style="yellow")
    return Text(
        f"drift {name}: no alarm; evidence {_power(evidence['log_evidence'])} of {_power(evidence['log_threshold'])}, "
        f"one false alarm in {evidence['budget_days']:g} days at most",
        style="dim",
    )


def drift_report(reports: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> list[RenderableType]:
    """The evidence, its culprits, then how far each feature is from its training rows."""
    parts: list[RenderableType] = []
    for report in reports:
        parts += [evidence_line(report), *_evidence_parts(report)]
    parts += [Text(""), Text(EFFECT_NOTE, style="dim"), drift_table(state)]
    return parts


def drift_table(state: Mapping[str, Any]) -> Table:
    """Every feature's PSI against the training rows; an effect size, not a test."""
    entries = state.get("entries", [])
    names = [f"{entry['slot']} {entry['model_version']}" for entry in entries]
    table = Table("feature", *names, box=None)
    features = sorted({name for entry in entries for name in entry.get("psi", {})})
    for feature in features:
        values = [entry.get("psi", {}).get(feature) for entry in entries]
        table.add_row(feature, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def shadow_tables(reports: Sequence["ShadowReport"]) -> list[RenderableType]:
    """A row for each pair of versions, then where they differ most."""
    if not reports:
        return [Text("nothing was compared in this time")]
    table = Table(
        "answered by",
        "in the shadow",
        "rows",
        "equal",
        "mean difference",
        "|difference| p50",
        "p95",
        "largest",
        box=None,
    )
    parts: list[RenderableType] = [table]
    for report in reports:
        most = report.largest[0]
        table.add_row(
            report.model_version,
            report.shadow_model_version,
            f"{report.rows:,}",
            f"{report.equal_rows / report.rows:.1%}",
            f"{report.mean_difference:+.4f}",
            f"{report.p50_absolute:.4f}",
            f"{report.p95_absolute:.4f}",
            f"{abs(most.shadow_score - most.score):.4f}",
        )
        parts += [
            Text(
                f"{one.prediction_id} row {one.row}: {one.score:.4f} by {report.model_version}, "
                f"{one.shadow_score:.4f} by {report.shadow_model_version}",
                style="dim",
            )
            for one in report.largest
        ]
    return parts


def replay_tables(replay: "Replay") -> list[RenderableType]:
    """When the detector would have alarmed, budget by budget."""
    first = Text(
        f"{replay.num_rows:,} rows in {replay.num_ticks:,} ticks of {replay.tick_s:g} s, "
        f"{_moment(replay.since)} to {_moment(replay.until)}, against {replay.reference}",
        style="bold",
    )
    table = Table("budget", "margin", "alarms", "first alarm", "after ticks", "first culprits", box=None)
    for run in replay.runs:
        first_alarm = run.alarms[0] if run.alarms else None
        table.add_row(
            f"{run.budget_days:g} days",
            f"{run.margin:g}",
            str(len(run.alarms)),
            "-" if first_alarm is None else _moment(first_alarm.at),
            "-" if first_alarm is None else f"{first_alarm.tick:,}",
            "-" if first_alarm is None else ", ".join(first_alarm.culprits[:3]),
        )
    return [first, table]


def _evidence_parts(report: Mapping[str, Any]) -> list[RenderableType]:
    table = Table("culprit", "slot", "own evidence", "of threshold", "since", *_windows(report), box=None)
    for culprit in report["culprits"][:NUM_CULPRITS]:
        evidence = culprit["log_evidence"]
        if evidence is None or (evidence <= 0 and not report["is_alarm"]):
            continue
        slot = culprit["slot"] or ""
        table.add_row(
            culprit["feature"],
            Text(slot, style=SLOT_STYLE.get(slot, "")),
            _power(evidence),
            _bar(evidence / report["log_threshold"]),
            _moment(culprit["since"]),
            *(_psi(report, window, culprit) for window in _windows(report)),
        )
    parts: list[RenderableType] = [table] if table.row_count else []
    for slot, watched in report["slots"].items():
        parts.append(Text(f"{slot} {watched['model_version']} is compared with {watched['reference']}", style="dim"))
        skew = watched["skew"]
        if skew["features"]:
            named = ", ".join(skew["features"])
            parts.append(
                Text(f"{slot}: its first {skew['rows']:,} rows are not like the training rows: {named}", style="yellow")
            )
    for window, entries in report["windows"].items():
        for entry in entries:
            for change in entry["schema"]:
                share = f"{change['share']:.1%} of rows, {change['reference_share']:.1%} in training"
                parts.append(Text(f"{entry['slot']}, {window}: {change['feature']} {change['kind']}: {share}"))
    parts += [
        Text(f"scores of the slots, {window}: PSI {one['psi']:.3f} (effect size, not a test)", style="dim")
        for window, one in report["between_slots"].items()
        if one is not None
    ]
    volume = report["volume"]
    if volume["expected"] is not None:
        seen = f"{volume['observed']:,} of {volume['expected']:,.1f} expected requests in the last tick"
        parts.append(Text(f"volume: {seen}", style="dim"))
    return parts


def _windows(report: Mapping[str, Any]) -> list[str]:
    return [f"PSI {window}" for window, entries in report["windows"].items() if entries]


def _psi(report: Mapping[str, Any], column: str, culprit: Mapping[str, Any]) -> str:
    for entry in report["windows"][column.removeprefix("PSI ")]:
        if entry["slot"] == culprit["slot"] and entry["model_version"] == culprit["model_version"]:
            for feature in entry["features"]:
                if feature["feature"] == culprit["feature"]:
                    return f"{feature['psi']:.3f}"
    return "-"


def _bar(share: float) -> Text:
    length = round(min(max(share, 0.0), 1.0) * BAR_WIDTH)
    return Text("█" * length, style="red" if share >= 1 else "") + Text("·" * (BAR_WIDTH - length), style="dim")


def _power(logarithm: float | None) -> str:
    """A number given by its natural logarithm."""
    if logarithm is None:
        return "0"
    if abs(logarithm) < math.log(1e4):
        return f"{math.exp(logarithm):.3g}"
    return f"10^{logarithm / math.log(10):.0f}"


def _in_slot(culprit: Mapping[str, Any]) -> str:
    return f" in {culprit['slot']}" if culprit["slot"] else ""


def _moment(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
