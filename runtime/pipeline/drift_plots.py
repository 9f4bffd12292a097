"""The drift page's plots as SVG in the page's colours: evidence, heat map, ridgelines, bars. Every text is escaped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

WIDTH = 920
LABEL_WIDTH = 150
ROW_HEIGHT = 20
RIDGE_STEP = 22
RIDGE_HEIGHT = 40
"""Ridges reach into those above; each hides what is behind it."""
BAR_HEIGHT = 110
NUM_MARKS = 6
FULL_PSI = 0.5
"""At which a cell of the heat map has its full colour."""
FAINTEST = 0.04
CHARACTER_WIDTH = 6.2
"""Of the labels' type, on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A stretch of time in the heat map."""

    start: float
    is_alarm: bool
    cells: Mapping[str, float]
    """Feature to PSI above what sampling alone gives; features without rows are left out."""


def plot_evidence(log_evidence: float | None, log_threshold: float, *, is_alarm: bool) -> str:
    """The evidence on a scale of powers of ten up to twice the threshold's, with the threshold marked."""
    reach = 2 * log_threshold
    share = 0.0 if log_evidence is None else min(max(log_evidence / reach, 0.0), 1.0)
    colour = "var(--bad)" if is_alarm else "var(--accent)"
    budget = f"alarm from 10^{log_threshold / math.log(10):.1f} on"
    told = "no evidence" if log_evidence is None else f"10^{log_evidence / math.log(10):.1f}"
    parts = [
        f'<rect y="16" width="{WIDTH}" height="12" fill="var(--card)"/>',
        f'<rect y="16" width="{WIDTH * share:.1f}" height="12" fill="{colour}"/>',
        f'<path d="M{WIDTH / 2},12 V32" stroke="var(--ink)" stroke-width="1.5"/>',
        _text(WIDTH / 2, 10, budget, anchor="middle"),
        _text(0, 44, f"evidence now: {told}"),
    ]
    return _svg("evidence", 50, parts)


def plot_heat_map(columns: Sequence[Column], features: Sequence[str], *, width_s: float) -> str:
    """A row a feature, a column a stretch; stretches with an alarm are marked above."""
    width = (WIDTH - LABEL_WIDTH) / max(len(columns), 1)
    bottom = ROW_HEIGHT * (len(features) + 1)
    parts = []
    for row, feature in enumerate(features):
        y = ROW_HEIGHT * (row + 1)
        parts.append(_text(LABEL_WIDTH - 8, y + 14, feature, anchor="end"))
        for index, column in enumerate(columns):
            if feature not in column.cells:
                continue
            place = (
                f'x="{LABEL_WIDTH + index * width:.1f}" y="{y + 1}" width="{width + 0.3:.1f}" height="{ROW_HEIGHT - 2}"'
            )
            strength = min(column.cells[feature] / FULL_PSI, 1.0)
            title = f"<title>{escape(feature)}, {moment(column.start)}: PSI {column.cells[feature]:.2f}</title>"
            parts.append(f'<rect {place} fill="var(--card)">{title}</rect>')
            if strength >= FAINTEST:
                parts.append(f'<rect class="cell" {place} fill="var(--accent)" opacity="{strength:.2f}">{title}</rect>')
    for index, column in enumerate(columns):
        if column.is_alarm:
            parts.append(
                f'<rect class="alarm" x="{LABEL_WIDTH + index * width:.1f}" y="{ROW_HEIGHT - 8}" '
                f'width="{width + 0.3:.1f}" height="5" fill="var(--bad)"><title>the alarm stood</title></rect>'
            )
    every = max(math.ceil(len(columns) / NUM_MARKS), 1)
    for index in range(0, len(columns), every):
        x = LABEL_WIDTH + index * width
        parts.append(f'<path d="M{x:.1f},{bottom} v5" stroke="var(--faint)"/>')
        parts.append(_text(x, bottom + 17, moment(columns[index].start)))
    parts += _heat_legend(bottom + 38, width_s)
    return _svg("heat map", bottom + 46, parts)


def plot_ridges(rows: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Histograms of one feature, oldest first: filled what was served, as a line the training rows."""
    highest = max((share for _, one in rows for name in ("trained", "current") for share in one[name]), default=1.0)
    first = rows[0][1]
    parts = []
    for index, (start, one) in enumerate(rows):
        base = RIDGE_HEIGHT + RIDGE_STEP * index
        parts.append(_text(LABEL_WIDTH - 8, base, moment(start), anchor="end"))
        current = _outline(one["current"], base, highest)
        parts.append(f'<path d="{current}" fill="var(--page)"/>')
        parts.append(
            f'<path class="ridge" d="{current}" fill="var(--accent)" fill-opacity="0.35" stroke="var(--accent)"/>'
        )
        parts.append(
            f'<path d="{_outline(one["trained"], base, highest)}" fill="none" stroke="var(--ink)" '
            'stroke-opacity="0.55" stroke-dasharray="3 2"/>'
        )
    base = RIDGE_HEIGHT + RIDGE_STEP * (len(rows) - 1)
    parts += _axis(first, LABEL_WIDTH, WIDTH - LABEL_WIDTH, base + 14)
    return _svg("ridgelines", base + 22, parts)


def plot_bars(histogram: Mapping[str, Any]) -> str:
    """Cell by cell: training rows, the matched reference, rows of the last hour."""
    looks = (("trained", "var(--line)"), ("reference", "var(--faint)"), ("current", "var(--accent)"))
    highest = max((share for name, _ in looks for share in histogram[name]), default=1.0) or 1.0
    width = WIDTH / max(len(histogram["labels"]), 1)
    parts = []
    for index, label in enumerate(histogram["labels"]):
        for offset, (name, colour) in enumerate(looks):
            share = histogram[name][index]
            tall = share / highest * BAR_HEIGHT
            parts.append(
                f'<rect x="{width * (index + 0.08 + 0.28 * offset):.1f}" y="{BAR_HEIGHT - tall:.1f}" '
                f'width="{width * 0.26:.1f}" height="{tall:.1f}" fill="{colour}">'
                f"<title>{escape(label)}: {name} {share:.1%}</title></rect>"
            )
    parts.append(f'<path d="M0,{BAR_HEIGHT} H{WIDTH}" stroke="var(--line)"/>')
    parts += _axis(histogram, 0, WIDTH, BAR_HEIGHT + 15)
    return _svg("bars", BAR_HEIGHT + 22, parts)


def moment(at: float | None) -> str:
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _heat_legend(y: float, width_s: float) -> list[str]:
    steps = (0.0, 0.1, 0.2, 0.3, 0.4, FULL_PSI)
    parts = [_text(LABEL_WIDTH, y, f"a column is {width_s / 60:g} minutes; PSI beyond sampling:")]
    for index, value in enumerate(steps):
        x = LABEL_WIDTH + 330 + index * 62
        place = f'x="{x}" y="{y - 10}" width="26" height="12"'
        parts.append(f'<rect {place} fill="var(--card)" stroke="var(--line)" stroke-width="0.5"/>')
        parts.append(f'<rect {place} fill="var(--accent)" opacity="{value / FULL_PSI:.2f}"/>')
        parts.append(_text(x + 30, y, f"{value:g}" if value < FULL_PSI else f"{value:g}+"))
    return parts


def _outline(shares: Sequence[float], base: float, highest: float) -> str:
    width = (WIDTH - LABEL_WIDTH) / max(len(shares), 1)
    steps = [f"M{LABEL_WIDTH},{base}"]
    for index, share in enumerate(shares):
        y = base - share / max(highest, 1e-9) * RIDGE_HEIGHT
        steps.append(f"L{LABEL_WIDTH + index * width:.1f},{y:.1f} L{LABEL_WIDTH + (index + 1) * width:.1f},{y:.1f}")
    return f"{' '.join(steps)} L{WIDTH},{base}"


def _axis(histogram: Mapping[str, Any], left: float, width: float, y: float) -> list[str]:
    """Names of the cells as far as they have room; of numeric ones the edges between them, as these differ in width."""
    labels, edges = histogram["labels"], histogram["edges"]
    step = width / max(len(labels), 1)
    if edges is None:
        every = max(math.ceil(max((len(label) for label in labels), default=1) * CHARACTER_WIDTH / step), 1)
        marks = [(index + 0.5, label) for index, label in enumerate(labels) if index % every == 0]
    else:
        bounds = [(index, low) for index, (low, _) in enumerate(edges) if low is not None]
        every = max(math.ceil(len(bounds) * 9 * CHARACTER_WIDTH / width), 1)
        room = 13 * CHARACTER_WIDTH / step  # for the last label, which stands at the end
        marks = [(float(index), f"{low:.4g}") for index, low in bounds[::every] if index + room < len(labels)]
        last = _text(left + width, y, labels[-1], anchor="end")
        return [*(_text(left + place * step, y, label, anchor="middle") for place, label in marks), last]
    return [_text(left + place * step, y, label, anchor="middle") for place, label in marks]


def _svg(name: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}" font-size="11">'
        f"{''.join(parts)}</svg></figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--faint)">{escape(text)}</text>'
