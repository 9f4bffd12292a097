"""Drift as one HTML file that needs nothing else: evidence, culprits, a heat map over time, histograms over time."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from runtime.pipeline.drift_plots import Column, moment, plot_bars, plot_evidence, plot_heat_map, plot_ridges
from runtime.pipeline.report_style import STYLE

Report = Mapping[str, Any]

NUM_RIDGES = 24
NUM_FEATURES = 30
NUM_CULPRITS = 10
NUM_BARS = 4
"""Histograms of each slot."""
CAVEAT = "PSI, Jensen–Shannon and Wasserstein are effect sizes, not tests: none has a false alarm rate."


def render_drift_page(reports: Sequence[Report], histories: Mapping[str, Sequence[Report]]) -> str:
    """Every text is escaped; nothing is loaded from anywhere."""
    body = "".join(_endpoint(report, histories.get(report["endpoint"], [])) for report in reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Drift</title><style>{STYLE}</style></head><body><main>"
        f"{body or '<p>The monitor has counted nothing yet.</p>'}</main></body></html>\n"
    )


def _endpoint(report: Report, history: Sequence[Report]) -> str:
    sections = [
        ("Features over time", _heat_map(history)),
        ("Culprits", _culprits(report)),
        ("Histograms over time", _ridgelines(report, history)),
        ("Reference and current", _histograms(report)),
        ("How far, over minutes, an hour, a day, a week", _effects(report)),
        ("Past alarms", _episodes(report)),
    ]
    drawn = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)
    return f"<header><h1>Drift of {escape(report['endpoint'])}</h1>{_opening(report)}</header>{drawn}"


def _opening(report: Report) -> str:
    alarm = f"The alarm stands since {moment(report['alarm_since'])}." if report["is_alarm"] else "No alarm stands."
    slots = " ".join(
        f"Slot {escape(slot)} ({escape(one['model_version'])}) is compared with {escape(one['reference'])}."
        for slot, one in report["slots"].items()
    )
    skews = " ".join(
        f"The first {one['skew']['rows']:,} rows of {escape(one['model_version'])} are not like its training rows in "
        f"{escape(', '.join(one['skew']['features']))}."
        for one in report["slots"].values()
        if one["skew"]["features"]
    )
    gauge = plot_evidence(report["log_evidence"], report["log_threshold"], is_alarm=report["is_alarm"])
    return (
        f'<p class="lede">{alarm} One false alarm in {report["budget_days"]:g} days at most, over all features, both '
        f"slots and the volume; shifts below a PSI of about {2 * report['margin']:g} are no drift. {slots} {skews}</p>"
        f"{gauge}"
    )


def _culprits(report: Report) -> str:
    rows = []
    for culprit in report["culprits"][:NUM_CULPRITS]:
        evidence = culprit["log_evidence"]
        if evidence is None or evidence <= 0:
            continue
        rows.append(
            [
                escape(culprit["feature"]),
                escape(culprit["slot"] or "–"),
                f"10<sup>{evidence / math.log(10):.1f}</sup>",
                f"{evidence / report['log_threshold']:.0%}",
                moment(culprit["since"]),
            ]
        )
    note = "<p>Ranked by their own evidence. The claim is about the endpoint: none goes with a single feature.</p>"
    return note + _table(["feature", "slot", "evidence", "of the threshold's logarithm", "since"], rows, "llrrl")


def _effects(report: Report) -> str:
    """A table a slot: PSI by window. What else is known of each window is folded away below it."""
    parts = [f"<p>{CAVEAT} In small type: what sampling alone gives on average with as many rows.</p>"]
    slots = {(one["slot"], one["model_version"]) for entries in report["windows"].values() for one in entries}
    for slot, version in sorted(slots):
        entries = {
            window: one
            for window, found in report["windows"].items()
            for one in found
            if (one["slot"], one["model_version"]) == (slot, version)
        }
        by_feature: dict[str, dict[str, Report]] = {}
        for window, entry in entries.items():
            for one in entry["features"]:
                by_feature.setdefault(one["feature"], {})[window] = one
        features = sorted(by_feature, key=lambda name: -max(one["psi"] for one in by_feature[name].values()))
        rows = [
            [escape(name), *(_effect(by_feature[name].get(window)) for window in entries)]
            for name in features[:NUM_CULPRITS]
        ]
        heads = [
            "PSI",
            *(f"{escape(window)}<br><small>{one['rows']:,} rows</small>" for window, one in entries.items()),
        ]
        details = "".join(_details(window, entry) for window, entry in entries.items())
        parts.append(
            f"<h3>{escape(slot)} {escape(version)}</h3>{_table(heads, rows, 'l' + 'r' * len(entries))}{details}"
        )
    return "".join(parts)


def _effect(one: Report | None) -> str:
    return "–" if one is None else f"{one['psi']:.3f}<small>{one['psi_without_drift']:.3f}</small>"


def _details(window: str, entry: Report) -> str:
    rows = [
        [
            escape(one["feature"]),
            f"{one['psi']:.3f}",
            f"{one['jensen_shannon']:.3f}",
            "–" if one["wasserstein"] is None else f"{one['wasserstein']:.2f} sd",
        ]
        for one in entry["features"]
    ]
    changes = "".join(
        f"<li>{escape(one['feature'])}: {escape(one['kind'])} in {one['share']:.1%} of rows, "
        f"{one['reference_share']:.1%} in training</li>"
        for one in entry["schema"]
    )
    table = _table(["feature", "PSI", "Jensen–Shannon", "Wasserstein"], rows, "lrrr")
    told = f", {len(entry['schema'])} changes of schema" if entry["schema"] else ""
    return (
        f"<details><summary>{escape(window)}{told}</summary>{f'<ul>{changes}</ul>' if changes else ''}{table}</details>"
    )


def _heat_map(history: Sequence[Report]) -> str:
    """PSI above what sampling alone gives, the larger of the slots; the feature that moved furthest first."""
    columns = []
    for stretch in history:
        cells: dict[str, float] = {}
        for one in (one for entry in stretch["entries"] for one in entry["features"]):
            above = max(one["psi"] - one["psi_without_drift"], 0.0)
            cells[one["feature"]] = max(above, cells.get(one["feature"], 0.0))
        columns.append(Column(start=stretch["start"], is_alarm=stretch["is_alarm"], cells=cells))
    highest: dict[str, float] = {}
    for column in columns:
        for feature, value in column.cells.items():
            highest[feature] = max(value, highest.get(feature, 0.0))
    if not highest:
        return "<p>No stretch of time has ended yet.</p>"
    features = sorted(highest, key=lambda name: (-highest[name], name))[:NUM_FEATURES]
    return (
        "<p>PSI against the training rows, less what sampling alone gives; of two slots the larger. "
        "Empty: no rows. A red mark above: the alarm stood.</p>"
        + plot_heat_map(columns, features, width_s=history[0]["width_s"])
    )


def _ridgelines(report: Report, history: Sequence[Report]) -> str:
    """The first culprit of each slot: its histogram stretch by stretch over the training rows'."""
    drawn = []
    for slot in report["slots"]:
        first = next((one["feature"] for one in report["culprits"] if one["slot"] == slot), None)
        rows = [
            (stretch["start"], one)
            for stretch in history
            for one in stretch["histograms"]
            if one["slot"] == slot and one["feature"] == first
        ][-NUM_RIDGES:]
        if first is not None and rows:
            drawn.append(f"<h3>{escape(first)}, {escape(slot)}</h3>{plot_ridges(rows)}")
    note = "<p>Filled: rows served, newest below. Dashed: training rows, which numeric cells divide evenly.</p>"
    return note + "".join(drawn) if drawn else "<p>No stretch of time has ended yet.</p>"


def _histograms(report: Report) -> str:
    """The culprits of the last hour: training rows, matched reference, and now, cell by cell."""
    parts = []
    for slot in report["slots"]:
        own = [one for one in report["histograms"] if one["slot"] == slot][:NUM_BARS]
        parts += [f"<h3>{escape(one['feature'])}, {escape(slot)}</h3>{plot_bars(one)}" for one in own]
    note = "<p>Each from left to right: training rows, the matched reference, rows of the last hour.</p>"
    return note + "".join(parts) if parts else "<p>No rows within the last hour.</p>"


def _episodes(report: Report) -> str:
    rows = [
        [
            moment(one["since"]),
            "stands" if one["until"] is None else moment(one["until"]),
            escape(", ".join(f"{culprit['feature']} ({culprit['slot'] or '–'})" for culprit in one["culprits"])),
        ]
        for one in reversed(report["episodes"])
    ]
    return _table(["since", "until", "culprits"], rows, "lll")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Cells are HTML; `alignment` has l or r for each column."""
    if not rows:
        return "<p>None.</p>"
    kinds = ['class="number"' if side == "r" else "" for side in alignment]
    head = "".join(f"<th {kind}>{title}</th>" for kind, title in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
