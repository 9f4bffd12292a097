"""Drift as one HTML file that needs nothing else: evidence, culprits, a heat map over time, histograms over time."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from runtime.pipeline.report_style import STYLE

Report = Mapping[str, Any]

WIDTH = 920
LABEL_WIDTH = 150
ROW_HEIGHT = 18
RIDGE_HEIGHT = 46
NUM_RIDGES = 24
NUM_FEATURES = 30
NUM_CULPRITS = 10
FULL_PSI = 0.5
"""At which a cell of the heat map has its full colour."""
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
        ("Culprits", _culprits(report)),
        ("How far, over minutes, an hour, a day, a week", _effects(report)),
        ("Features over time", _heat_map(report, history)),
        ("Histograms over time", _ridgelines(report, history)),
        ("Reference and current", _histograms(report)),
        ("Past alarms", _episodes(report)),
    ]
    drawn = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)
    return f"<header><h1>Drift of {escape(report['endpoint'])}</h1>{_opening(report)}</header>{drawn}"


def _opening(report: Report) -> str:
    alarm = f"The alarm stands since {_moment(report['alarm_since'])}." if report["is_alarm"] else "No alarm stands."
    evidence = report["log_evidence"]
    share = 0.0 if evidence is None else min(max(evidence / report["log_threshold"], 0.0), 1.0)
    colour = "var(--bad)" if report["is_alarm"] else "var(--accent)"
    gauge = (
        f'<svg viewBox="0 0 {WIDTH} 14" role="img" aria-label="evidence against threshold">'
        f'<rect width="{WIDTH}" height="14" fill="var(--card)"/>'
        f'<rect width="{WIDTH * share:.1f}" height="14" fill="{colour}"/></svg>'
    )
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
    return (
        f'<p class="lede">{alarm} One false alarm in {report["budget_days"]:g} days at most, over all features, both '
        f"slots and the volume; shifts below a PSI of about {2 * report['margin']:g} are no drift. {slots} {skews}</p>"
        f"<figure>{gauge}</figure>"
    )


def _culprits(report: Report) -> str:
    rows = []
    for culprit in report["culprits"][:NUM_CULPRITS]:
        evidence = culprit["log_evidence"]
        if evidence is None:
            continue
        share = evidence / report["log_threshold"]
        rows.append(
            [
                escape(culprit["feature"]),
                escape(culprit["slot"] or "–"),
                f"10<sup>{evidence / math.log(10):.1f}</sup>",
                f"{max(share, 0):.0%}",
                _moment(culprit["since"]),
            ]
        )
    note = "<p>Ranked by their own evidence. The claim is about the endpoint: none goes with a single feature.</p>"
    return note + _table(["feature", "slot", "evidence", "of the threshold's logarithm", "since"], rows, "llrrl")


def _effects(report: Report) -> str:
    parts = [f"<p>{CAVEAT} “Without drift” is what sampling alone gives on average with as many rows.</p>"]
    for window, entries in report["windows"].items():
        for entry in entries:
            rows = [
                [
                    escape(one["feature"]),
                    f"{one['psi']:.3f}",
                    f"{one['psi_without_drift']:.3f}",
                    f"{one['jensen_shannon']:.3f}",
                    "–" if one["wasserstein"] is None else f"{one['wasserstein']:.2f} sd",
                ]
                for one in entry["features"][:NUM_CULPRITS]
            ]
            changes = "".join(
                f"<li>{escape(one['feature'])}: {escape(one['kind'])} in {one['share']:.1%} of rows, "
                f"{one['reference_share']:.1%} in training</li>"
                for one in entry["schema"]
            )
            parts.append(
                f"<h3>{escape(window)}, {escape(entry['slot'])} {escape(entry['model_version'])}, "
                f"{entry['rows']:,} rows</h3>"
                + _table(["feature", "PSI", "without drift", "Jensen–Shannon", "Wasserstein"], rows, "lrrrr")
                + (f"<ul>{changes}</ul>" if changes else "")
            )
    return "".join(parts)


def _heat_map(report: Report, history: Sequence[Report]) -> str:
    """PSI above what sampling alone gives, a row a feature, a column a stretch; stretches with an alarm are marked."""
    cells: dict[str, dict[int, float]] = {}
    for column, stretch in enumerate(history):
        for entry in stretch["entries"]:
            for one in entry["features"]:
                above = max(one["psi"] - one["psi_without_drift"], 0.0)
                by_column = cells.setdefault(one["feature"], {})
                by_column[column] = max(above, by_column.get(column, 0.0))
    if not cells:
        return "<p>No stretch of time has ended yet.</p>"
    features = sorted(cells, key=lambda name: -max(cells[name].values()))[:NUM_FEATURES]
    width = (WIDTH - LABEL_WIDTH) / len(history)
    height = ROW_HEIGHT * (len(features) + 2)
    parts = []
    for row, feature in enumerate(features):
        y = ROW_HEIGHT * (row + 1)
        parts.append(_text(LABEL_WIDTH - 8, y + 13, feature, anchor="end"))
        for column, value in cells[feature].items():
            strength = min(value / FULL_PSI, 1.0)
            if strength < 0.02:
                continue
            parts.append(
                f'<rect x="{LABEL_WIDTH + column * width:.1f}" y="{y + 1}" width="{width + 0.3:.1f}" '
                f'height="{ROW_HEIGHT - 2}" fill="var(--accent)" opacity="{strength:.2f}">'
                f"<title>{escape(feature)}, {_moment(history[column]['start'])}: PSI {value:.2f}</title></rect>"
            )
    for column, stretch in enumerate(history):
        if stretch["is_alarm"]:
            parts.append(
                f'<rect x="{LABEL_WIDTH + column * width:.1f}" y="{ROW_HEIGHT - 6}" width="{width + 0.3:.1f}" '
                'height="4" fill="var(--bad)"/>'
            )
    y = height - 4
    parts.append(_text(LABEL_WIDTH, y, _moment(history[0]["start"])))
    parts.append(_text(WIDTH, y, _moment(history[-1]["start"]), anchor="end"))
    return (
        "<p>PSI against the training rows, less what sampling alone gives; full colour from "
        f"{FULL_PSI:g} on. A red mark: the alarm stood.</p>{_svg(height, parts)}"
    )


def _ridgelines(report: Report, history: Sequence[Report]) -> str:
    """The first culprit of each slot: its histogram stretch by stretch over the training rows'."""
    drawn = []
    for slot in report["slots"]:
        first = next((one["feature"] for one in report["culprits"] if one["slot"] == slot), None)
        if first is None:
            continue
        rows = [
            (stretch["start"], one)
            for stretch in history
            for one in stretch["histograms"]
            if one["slot"] == slot and one["feature"] == first
        ][-NUM_RIDGES:]
        if rows:
            drawn.append(f"<h3>{escape(first)}, {escape(slot)}</h3>{_ridges(rows)}")
    return "".join(drawn) or "<p>No stretch of time has ended yet.</p>"


def _ridges(rows: Sequence[tuple[float, Report]]) -> str:
    highest = max((share for _, one in rows for name in ("trained", "current") for share in one[name]), default=1.0)
    height = RIDGE_HEIGHT // 2 * (len(rows) + 2)
    parts = []
    for index, (start, one) in enumerate(rows):
        base = RIDGE_HEIGHT // 2 * (index + 2)
        parts.append(_text(LABEL_WIDTH - 8, base, _moment(start), anchor="end"))
        parts.append(_profile_path(one["trained"], base, highest, 'fill="none" stroke="var(--faint)"'))
        parts.append(
            _profile_path(
                one["current"], base, highest, 'fill="var(--accent)" fill-opacity="0.45" stroke="var(--accent)"'
            )
        )
    return f"<p>Filled: rows served. Line: training rows.</p>{_svg(height, parts)}"


def _profile_path(shares: Sequence[float], base: float, highest: float, look: str) -> str:
    width = (WIDTH - LABEL_WIDTH) / max(len(shares), 1)
    steps = [f"M{LABEL_WIDTH},{base}"]
    for index, share in enumerate(shares):
        y = base - share / max(highest, 1e-9) * RIDGE_HEIGHT
        steps.append(f"L{LABEL_WIDTH + index * width:.1f},{y:.1f} L{LABEL_WIDTH + (index + 1) * width:.1f},{y:.1f}")
    return f'<path d="{" ".join(steps)} L{WIDTH},{base}" stroke-width="1" {look}/>'


def _histograms(report: Report) -> str:
    """The culprits of the last hour: training rows, matched reference, and now, cell by cell."""
    parts = []
    for one in report["histograms"]:
        highest = max([*one["trained"], *one["reference"], *one["current"]], default=1.0) or 1.0
        width = WIDTH / max(len(one["labels"]), 1)
        bars = []
        for index, label in enumerate(one["labels"]):
            x = index * width
            for offset, (name, colour) in enumerate(
                (("trained", "var(--line)"), ("reference", "var(--faint)"), ("current", "var(--accent)"))
            ):
                tall = one[name][index] / highest * 100
                bars.append(
                    f'<rect x="{x + width * (0.08 + 0.28 * offset):.1f}" y="{100 - tall:.1f}" '
                    f'width="{width * 0.26:.1f}" height="{tall:.1f}" fill="{colour}">'
                    f"<title>{escape(label)}: {name} {one[name][index]:.1%}</title></rect>"
                )
            bars.append(_text(x + width / 2, 114, label if len(one["labels"]) <= 12 else "", anchor="middle"))
        parts.append(f"<h3>{escape(one['feature'])}, {escape(one['slot'])}</h3>{_svg(120, bars)}")
    note = "<p>From left to right: training rows, the matched reference, rows of the last hour. Hover for values.</p>"
    return note + "".join(parts) if parts else "<p>No rows within the last hour.</p>"


def _episodes(report: Report) -> str:
    rows = [
        [
            _moment(one["since"]),
            "stands" if one["until"] is None else _moment(one["until"]),
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


def _svg(height: float, parts: Sequence[str]) -> str:
    return f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" font-size="11">{"".join(parts)}</svg></figure>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--faint)">{escape(text)}</text>'


def _moment(at: float | None) -> str:
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
