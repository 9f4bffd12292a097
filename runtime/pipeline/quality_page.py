"""An endpoint's quality as one HTML file that needs nothing else: curves with intervals, calibration, slices."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from runtime.core.files import write_atomic
from runtime.monitoring.cbpe import CAVEAT
from runtime.monitoring.quality_figures import Estimate
from runtime.pipeline.quality_report import PeriodQuality, QualityOverview
from runtime.pipeline.report_style import STYLE

WIDTH, HEIGHT, MARGIN = 920, 240, 48
COLOURS = ("var(--blue)", "var(--green)", "var(--accent)", "var(--bad)")


def write_quality_page(overview: QualityOverview, path: Path) -> None:
    write_atomic(path, render_quality_page(overview))


def render_quality_page(overview: QualityOverview) -> str:
    """Every text is escaped; nothing is loaded from anywhere."""
    counts = overview.counts
    lede = (
        f"{counts.labelled:,} of {counts.predictions:,} logged predictions have a label. Of {counts.labels:,} labels "
        f"{counts.repeated:,} were repeated, {counts.conflicting:,} contradicted an earlier one, {counts.late:,} came "
        f"late, {counts.waiting:,} wait for their prediction and {counts.unknown:,} were given up."
    )
    sections = [
        ("AUC", _curves(overview, "auc")),
        ("Log loss", _curves(overview, "log_loss")),
        ("All figures", _table(overview.qualities)),
    ]
    if overview.slices:
        sections.append(("Slices", _table(overview.slices)))
    sections.append(("Calibration", _calibration(overview)))
    body = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Quality of {escape(overview.endpoint)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><h1>Quality of {escape(overview.endpoint)}</h1><p class="lede">{lede}</p></header>'
        f"{body}</main></body></html>\n"
    )


def _curves(overview: QualityOverview, metric: str) -> str:
    """One line a slot and version with its intervals as bars; the estimate without labels dashed."""
    periods = sorted({one.period for one in overview.qualities})
    places = {period: MARGIN + (WIDTH - 2 * MARGIN) * (k + 0.5) / len(periods) for k, period in enumerate(periods)}
    series: dict[tuple[str, str], list[PeriodQuality]] = {}
    for one in overview.qualities:
        series.setdefault((one.slot, one.model_version), []).append(one)
    estimates = [
        getattr(part, metric)
        for one in overview.qualities
        for part in (one.measured, one.estimated)
        if part is not None
    ]
    values = [value for estimate in estimates for value in _bounds(estimate)]
    if not values:
        return "<p>No label came back yet, or all have one value.</p>"
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / span

    parts = [_axis(periods, places, low, high)]
    for number, ((slot, model), points) in enumerate(sorted(series.items())):
        colour = COLOURS[number % len(COLOURS)]
        measured = [(places[one.period], getattr(one.measured, metric)) for one in points]
        estimated = [(places[one.period], getattr(one.estimated, metric)) for one in points if one.estimated]
        line = " ".join(f"{x:.1f},{y(one.value):.1f}" for x, one in measured if one.value is not None)
        guess = " ".join(f"{x:.1f},{y(one.value):.1f}" for x, one in estimated if one.value is not None)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<polyline points="{guess}" fill="none" stroke="{colour}" stroke-dasharray="4 4"/>')
        for x, one in measured:
            if one.value is None:
                continue
            if one.low is not None:
                parts.append(f'<path d="M{x:.1f},{y(one.low):.1f}V{y(one.high):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y(one.value):.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{MARGIN}" y="{14 + 14 * number}" font-size="12" fill="{colour}">{escape(slot)} {escape(model)}'
            "</text>"
        )
    note = f"<p><small>Bars: {overview.confidence:.0%} intervals. Dashed: estimated, {CAVEAT}.</small></p>"
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg></figure>{note}'


def _axis(periods: Sequence[str], places: dict[str, float], low: float, high: float) -> str:
    step = max(1, len(periods) // 10)
    texts = [
        f'<text x="{places[period]:.1f}" y="{HEIGHT - 16}" font-size="11" text-anchor="middle" fill="var(--faint)">'
        f"{escape(period)}</text>"
        for period in periods[::step]
    ]
    for value, place in ((low, HEIGHT - MARGIN), (high, MARGIN)):
        texts.append(f'<text x="4" y="{place + 4}" font-size="11" fill="var(--faint)">{value:.3f}</text>')
        texts.append(f'<path d="M{MARGIN},{place}H{WIDTH - MARGIN}" stroke="var(--line)"/>')
    return "".join(texts)


def _table(qualities: Sequence[PeriodQuality]) -> str:
    head = ("period", "slice", "slot", "model", "rows", "labelled", "AUC", "log loss", "gap", "estimated AUC")
    rows = []
    for one in qualities:
        figures = one.measured
        cells = (
            one.period,
            "all" if one.slice_column is None else f"{one.slice_column}={one.slice_value}",
            one.slot,
            one.model_version,
            f"{figures.num_rows:,}",
            f"{figures.num_labelled:,}",
            _text(figures.auc),
            _text(figures.log_loss),
            _text(figures.calibration_gap),
            "-" if one.estimated is None else _text(one.estimated.auc),
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{header}</tr>{"".join(rows)}</table></div>'


def _calibration(overview: QualityOverview) -> str:
    """Mean score against observed rate of the newest period of each version; the diagonal is perfect."""
    size = 260
    newest = {(one.slot, one.model_version): one for one in overview.qualities if one.measured.calibration}
    if not newest:
        return "<p>No label came back yet.</p>"
    parts = [f'<path d="M0,{size}L{size},0" stroke="var(--line)"/>']
    for number, (key, one) in enumerate(sorted(newest.items())):
        colour = COLOURS[number % len(COLOURS)]
        for mean, rate, _ in one.measured.calibration:
            parts.append(f'<circle cx="{mean * size:.1f}" cy="{(1 - rate) * size:.1f}" r="3" fill="{colour}"/>')
        text = f"{key[0]} {key[1]}, {one.period}"
        parts.append(f'<text x="4" y="{14 + 14 * number}" font-size="11" fill="{colour}">{escape(text)}</text>')
    picture = f'<svg viewBox="0 0 {size} {size}" role="img">{"".join(parts)}</svg>'
    return (
        f'<figure style="max-width:{size}px">{picture}</figure>'
        "<p><small>Across: mean score of a bin. Up: observed rate.</small></p>"
    )


def _bounds(estimate: Estimate) -> list[float]:
    return [value for value in (estimate.value, estimate.low, estimate.high) if value is not None]


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.3f}" + ("" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]")
