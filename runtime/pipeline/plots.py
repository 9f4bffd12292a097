"""The report's plots as SVG text that follows the page's colours. Needs matplotlib, imported when a plot is drawn.

Colours that matplotlib writes are placeholders, replaced by the page's CSS variables, so that a plot is readable on
light and dark pages alike. Text stays text.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from runtime.pipeline.summary import (
    Calibration,
    CandidateResult,
    DemoSummary,
    Event,
    GateDecision,
    QualityOfMonth,
    TargetStep,
)

INK, FAINT, LINE, BLUE, GREEN, ACCENT, BAD = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
)  # fmt: skip
_VARIABLES = {
    INK: "ink", FAINT: "faint", LINE: "line", BLUE: "blue", GREEN: "green", ACCENT: "accent", BAD: "bad"
}  # fmt: skip
SLOT_COLOURS = {"blue": BLUE, "green": GREEN}
_WIDTH = 9.6
_REM_PER_INCH = 6.25
"""At the widest plot's width the page is full, so that type has one size in all of them."""
SHARE_WINDOW_S = 3
"""Seconds that one point of the observed share averages over."""


def plot_split(summary: DemoSummary) -> str:
    """Green's share over time: what was asked for as a line, what was observed as points; events by number."""
    seconds, shares = _green_shares(summary)
    end = max([*seconds, *(event.second for event in summary.events)], default=1.0)

    def draw(axes: Any) -> None:
        steps = _green_targets(summary.targets)
        times = [time for time, _ in steps] + [end]
        values = [share for _, share in steps]
        if steps:
            axes.step(times, [*values, values[-1]], where="post", color=INK, linewidth=1.1, label="asked for")
        axes.plot(seconds, shares, "o", color=GREEN, markersize=4, zorder=3, label=f"observed, {SHARE_WINDOW_S} s each")
        axes.set_ylim(-0.04, 1.06)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_ylabel("share of slot green")
        axes.set_xlabel("seconds since the load began")
        axes.set_xlim(0, end)
        _mark_events(axes, summary.events)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)

    return _render("split", draw, height=3.4)


def plot_latency(summary: DemoSummary) -> str:
    """Median and 95th percentile of each slot, second by second, on a log scale."""
    end = max([*(one.second for one in summary.series), *(event.second for event in summary.events)], default=1)

    def draw(axes: Any) -> None:
        for slot, colour in SLOT_COLOURS.items():
            series = [one for one in summary.series if one.slot == slot]
            seconds = [one.second for one in series]
            axes.plot(seconds, [one.p50_ms for one in series], ".", color=colour, markersize=4, label=f"{slot}, median")
            axes.plot(
                seconds, [one.p95_ms for one in series], "_", color=colour, markersize=6, alpha=0.7,
                label=f"{slot}, 95 % are faster",
            )  # fmt: skip
        if summary.series:
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.set_ylabel("milliseconds")
        axes.set_xlabel("seconds since the load began")
        axes.set_xlim(0, end)
        _mark_events(axes, summary.events)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=4)

    return _render("latency", draw, height=3.4)


def plot_drift(drift_by_feature: dict[str, dict[str, float]]) -> str:
    """Features by months, the largest PSI first; the stronger the colour, the larger."""
    months = list(drift_by_feature)
    features = sorted(
        {feature for values in drift_by_feature.values() for feature in values},
        key=lambda feature: -max(values.get(feature, 0.0) for values in drift_by_feature.values()),
    )

    def draw(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        for row, feature in enumerate(features):
            for column, month in enumerate(months):
                value = drift_by_feature[month].get(feature)
                strength = 0.0 if value is None else min(1.0, value / (value + 0.5)) * 0.85
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=ACCENT, alpha=strength, linewidth=0))
                text = "–" if value is None else f"{value:.2f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=INK)
        axes.set_xlim(0, max(len(months), 1))
        axes.set_ylim(len(features) or 1, 0)
        axes.set_xticks([index + 0.5 for index in range(len(months))], months)
        axes.set_yticks([index + 0.5 for index in range(len(features))], features)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    return _render("drift", draw, height=0.6 + 0.3 * max(len(features), 1), width=3.4 + 1.3 * max(len(months), 1))


def plot_candidates(candidates: Sequence[CandidateResult]) -> str:
    """Every candidate by AUC and log loss on what its training held out."""
    looks = {"Passed": (GREEN, "o"), "Rejected": (BAD, "X"), "": (FAINT, ".")}
    titles = {"Passed": "passed the gate", "Rejected": "rejected by the gate", "": "did not come to the gate"}

    def draw(axes: Any) -> None:
        for verdict, (colour, marker) in looks.items():
            shown = [one for one in candidates if one.verdict == verdict and one.auc is not None]
            if not shown:
                continue
            losses = [one.log_loss for one in shown]
            axes.plot(
                [one.auc for one in shown], losses, marker, color=colour, markersize=8, alpha=0.9,
                label=titles[verdict],
            )  # fmt: skip
            for one in shown:
                if verdict:
                    axes.annotate(
                        one.name, (one.auc, one.log_loss), xytext=(7, 5), textcoords="offset points", color=INK
                    )
        axes.margins(0.18)
        axes.set_xlabel("AUC: further right ranks better")
        axes.set_ylabel("log loss: lower is better")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3)

    return _render("candidates", draw, height=3.6)


def plot_gates(gates: Sequence[GateDecision]) -> str:
    """Each gated metric's improvement with its bounds, beside the loss that is still tolerated."""
    rows = [(gate, one) for gate in gates for one in gate.differences if one.margin is not None]

    def draw(axes: Any) -> None:
        for row, (_, one) in enumerate(rows):
            is_kept = one.lower > -(one.margin or 0.0)
            colour = GREEN if is_kept else BAD
            axes.plot([one.lower, one.upper], [row, row], "-", color=colour, linewidth=2.5, alpha=0.75)
            axes.plot([one.improvement], [row], "o", color=colour, markersize=6)
            axes.plot([-(one.margin or 0.0)] * 2, [row - 0.34, row + 0.34], "-", color=INK, linewidth=1.6)
        axes.axvline(0, color=LINE, linewidth=1)
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        titles = {"auc": "AUC", "log_loss": "log loss", "brier": "Brier score"}
        labels = [f"{gate.candidate} · {titles.get(one.metric, one.metric)}" for gate, one in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlabel("improvement over the champion (right is better); the tick is the loss still tolerated")
        axes.grid(visible=False, axis="y")

    return _render("gates", draw, height=0.9 + 0.36 * max(len(rows), 1))


def plot_quality(qualities: Sequence[QualityOfMonth]) -> str:
    """AUC and log loss of each month and model with 95 % intervals."""
    labels = [f"{one.month}\n{one.model}" for one in qualities]

    def draw(axes: Any, name: str, title: str) -> None:
        for place, one in enumerate(qualities):
            value, low, high = (getattr(one, name + end) for end in ("", "_low", "_high"))
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([place, place], [low, high], "-", color=ACCENT, linewidth=2.5, alpha=0.75)
            axes.plot([place], [value], "o", color=ACCENT, markersize=6)
            axes.annotate(f"{value:.3f}", (place, value), xytext=(9, -3), textcoords="offset points", color=INK)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.6, max(len(labels), 1) - 0.3)
        axes.margins(y=0.2)
        axes.set_title(title, loc="left")
        axes.grid(visible=False, axis="x")

    return _render(
        "quality",
        lambda axes: draw(axes, "auc", "AUC: higher is better"),
        lambda axes: draw(axes, "log_loss", "log loss: lower is better"),
        height=3.2,
    )


def plot_calibration(calibration: Sequence[Calibration]) -> str:
    """Observed rate against mean score in bins of equal mass; on the diagonal a score means what it says."""
    curves = list(calibration)

    def draw(axes: Any, curve: Calibration, top: float) -> None:
        axes.plot([0, top], [0, top], "-", color=LINE, linewidth=1.2)
        axes.plot(curve.mean_scores, curve.observed_rates, "o-", color=ACCENT, markersize=4, linewidth=1.2)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_aspect("equal")
        axes.set_title(f"{curve.month}, {curve.model}", loc="left")
        axes.set_xlabel("mean score")
        axes.set_ylabel("observed rate")

    top = max([0.1, *(v for curve in curves for v in (*curve.mean_scores, *curve.observed_rates))]) * 1.05
    drawings = [lambda axes, curve=curve: draw(axes, curve, top) for curve in curves]
    return _render("calibration", *drawings, height=3.3, width=min(_WIDTH, 3.4 * max(len(curves), 1)))


def _green_shares(summary: DemoSummary) -> tuple[list[float], list[float]]:
    answers: dict[int, dict[str, int]] = {}
    for one in summary.series:
        window = answers.setdefault(one.second // SHARE_WINDOW_S, {})
        window[one.slot] = window.get(one.slot, 0) + one.num_answers
    # A window across a step would show a mixture that nobody asked for.
    mixed = {int(step.second) // SHARE_WINDOW_S for step in summary.targets}
    windows = sorted(set(answers) - mixed)
    middles = [(window + 0.5) * SHARE_WINDOW_S for window in windows]
    return middles, [answers[window].get("green", 0) / sum(answers[window].values()) for window in windows]


def _green_targets(targets: Sequence[TargetStep]) -> list[tuple[float, float]]:
    """(second, green's share), from 0 on. Before its first step the slot that got it had nothing."""
    steps = [(step.second, step.share if step.slot == "green" else 1 - step.share) for step in targets]
    if steps and steps[0][0] > 0:
        steps.insert(0, (0.0, 0.0 if targets[0].slot == "green" else 1.0))
    return steps


def _mark_events(axes: Any, events: Sequence[Event]) -> None:
    """A numbered line an event; numbers that would touch are raised in turn."""
    left, right = axes.get_xlim()
    last, level = -float("inf"), 0
    for number, event in enumerate(events, start=1):
        axes.axvline(event.second, color=LINE, linewidth=1, zorder=0)
        level = (level + 1) % 3 if (event.second - last) < 0.022 * (right - left) else 0
        axes.annotate(
            str(number), (event.second, 1), xycoords=("data", "axes fraction"), xytext=(0, 3 + 11 * level),
            textcoords="offset points", ha="center", color=FAINT, annotation_clip=False,
        )  # fmt: skip
        last = event.second


def _render(name: str, *drawings: Callable[[Any], None], height: float, width: float = _WIDTH) -> str:
    """One figure with the drawings side by side, as an SVG element without outside references."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "text.parse_math": False,
        "svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9.5,
        "text.color": INK, "axes.labelcolor": FAINT, "axes.edgecolor": LINE, "axes.titlecolor": INK,
        "axes.titlesize": 9.5, "xtick.color": FAINT, "ytick.color": FAINT, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.alpha": 0.5, "grid.linewidth": 0.6,
        "legend.frameon": False, "legend.labelcolor": INK, "axes.axisbelow": True,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        for axes, drawing in zip(
            figure.subplots(1, max(len(drawings), 1), squeeze=False)[0], drawings or (_draw_nothing,), strict=True
        ):
            drawing(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _adopt(buffer.getvalue(), name, width)


def _draw_nothing(axes: Any) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to show", ha="center", va="center")


def _adopt(svg: str, name: str, width: float) -> str:
    """The bare element, in the page's colours and type, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    natural = f'style="max-width: {width * _REM_PER_INCH:g}rem"'
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', rf"<svg \1{natural}", svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
