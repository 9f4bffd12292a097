"""Rollouts drawn for a terminal. Nothing here computes or asks."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runtime.cli.render import endpoint_table
from runtime.store.records import EndpointState
from runtime.store.rollouts import AnalysisTick, Rollout, moment

if TYPE_CHECKING:
    from runtime.rollout.analysis import Verdict
    from runtime.rollout.certificate import Certificate
    from runtime.rollout.commands import Draft
    from runtime.rollout.plan import StepOutlook
    from runtime.rollout.shadowing import ShadowVerdict

PLOT_WIDTH, PLOT_HEIGHT = 64, 8
EIGHTHS = " ▁▂▃▄▅▆▇█"
PHASE_STYLE = {"Succeeded": "green", "RolledBack": "red", "Failed": "red", "Aborted": "yellow", "Holding": "yellow"}


def draft(draft: "Draft") -> RenderableType:
    title = Text(f"{draft.canary} against {draft.primary} on {draft.endpoint!r}, plan {draft.plan_name}", style="bold")
    return Group(title, outlook(draft.steps, draft.promote_on), Text("nothing was started", style="dim"))


def outlook(steps: Sequence["StepOutlook"], promote_on: str) -> RenderableType:
    table = Table("step", "requests needed", "because of", "at the expected traffic", "at most", box=None)
    for step in steps:
        needed = "never" if step.requests == float("inf") else f"about {step.requests:,.0f}"
        seconds = "-" if step.seconds is None else _duration(step.seconds)
        style = "" if step.can_decide else "red"
        table.add_row(f"{step.percent} %", needed, step.decided_by, seconds, _duration(step.max_s), style=style)
    table.add_row("100 %", "-", "-", "-", "-")
    if promote_on == "no_harm":
        return Group(table, Text("promote_on no_harm: steps pass without proof that the canary is as good", "yellow"))
    return table


def status(
    rollout: Rollout,
    state: EndpointState,
    ticks: Sequence[AnalysisTick],
    note: str | None,
    shadow: "ShadowVerdict | None" = None,
) -> RenderableType:
    head = Text.assemble(
        (f"{rollout.id} ", "bold"),
        (rollout.phase, PHASE_STYLE.get(rollout.phase, "bold")),
        f"  {rollout.canary_model} against {rollout.primary_model}, plan {rollout.plan_name}, by {rollout.author}",
    )
    parts: list[RenderableType] = [
        head,
        Text(f"{rollout.reason}", style="dim"),
        steps_line(rollout),
        endpoint_table([state]),
    ]
    if shadow is not None:
        parts.append(_shadow_table(shadow))
    if ticks:
        parts += [_metric_table(ticks[-1].verdict), *evidence_plots(ticks)]
    elif shadow is None:
        parts.append(Text("nothing was counted yet", style="dim"))
    if note is not None:
        parts.append(Text(note, style="red"))
    return Group(*parts)


def steps_line(rollout: Rollout) -> Text:
    """Where it is among the plan's steps: those behind it, the one it is at, those to come."""
    parts: list[tuple[str, str]] = []
    if rollout.plan.get("shadow"):
        is_here = rollout.phase == "Shadowing"
        parts.append(
            ("● shadow" if is_here else "✓ shadow" if rollout.step >= 0 else "○ shadow", "bold" if is_here else "")
        )
    for number, percent in enumerate(rollout.plan["steps_percent"]):
        is_behind = number < rollout.step or rollout.phase == "Succeeded"
        is_here = number == rollout.step and not is_behind
        mark = "✓" if is_behind else "●" if is_here and rollout.is_active else "✗" if is_here else "○"
        parts.append((f"{mark} {percent} %", "bold" if is_here else "green" if is_behind else "dim"))
    return Text("  →  ").join(Text(text, style=style) for text, style in parts)


def progress_text(rollout: Rollout, verdict: "Verdict | None", step_requests: int, note: str) -> str:
    """One line for who waits: the step, what it lacks, and how far the evidence is in both directions."""
    steps = rollout.plan["steps_percent"]
    at = f"at {steps[rollout.step]} %" if rollout.step >= 0 else "no traffic yet"
    if verdict is None or rollout.phase not in ("Progressing", "Holding"):
        return f"{rollout.id}: {rollout.phase}, {at}: {note}"
    evidence = (
        f"log E for it {verdict.log_promotion:.1f} of {verdict.promotion_threshold:.1f}, "
        f"against it {verdict.log_rollback:.1f} of {verdict.rollback_threshold:.1f}"
    )
    return f"{rollout.id}: {rollout.phase}, {at}, {step_requests:,} requests; {evidence}"


def evidence_plots(ticks: Sequence[AnalysisTick]) -> list[RenderableType]:
    """Evidence over time, the newest right, both directions; the dashed row is 1/α, a ┴ where a step began."""
    starts = [before.step != after.step for before, after in pairwise(ticks)]
    found = []
    for direction, title, style in (
        ("rollback", "against the canary", "red"),
        ("promotion", "for the canary, in its step", "green"),
    ):
        values = [float(tick.verdict[f"log_{direction}"]) for tick in ticks]
        found.append(_plot(title, values, [False, *starts], _last(ticks, direction), style))
    return found


def history(rollouts: Sequence[Rollout]) -> RenderableType:
    table = Table("rollout", "phase", "canary", "against", "plan", "by", "started", "ended", "why", box=None)
    for rollout in rollouts:
        table.add_row(
            rollout.id,
            Text(rollout.phase, style=PHASE_STYLE.get(rollout.phase, "")),
            rollout.canary_model,
            rollout.primary_model,
            rollout.plan_name,
            rollout.author,
            moment(rollout.created_at)[:19],
            "-" if rollout.ended_at is None else moment(rollout.ended_at)[:19],
            rollout.reason,
        )
    return table if rollouts else Text("no rollout yet; `teal rollout start` begins one")


def certificate(certificate: "Certificate", path: Path, faults: Sequence[str] | None) -> RenderableType:
    content = certificate.content
    table = Table(show_header=False, box=None)
    table.add_row("rollout", f"{content['rollout']}: {content['phase']}, {content['reason']}")
    table.add_row("models", f"{content['canary']['model']} against {content['primary']['model']}")
    table.add_row("people", ", ".join(content["people"]))
    table.add_row("sha256", certificate.sha256)
    table.add_row("files", f"{path}, {path.with_suffix('.html')}")
    if faults is not None:
        mark = (
            Text("; ".join(faults), style="red") if faults else Text("signature and audit chain agree", style="green")
        )
        table.add_row("verified", mark)
    return table


def _last(ticks: Sequence[AnalysisTick], direction: str) -> float:
    return float(ticks[-1].verdict[f"{direction}_threshold"])


def _plot(title: str, values: Sequence[float], starts: Sequence[bool], threshold: float, style: str) -> RenderableType:
    heading = Text(f"{title}: log E {values[-1]:.2f} of {threshold:.2f}", style="bold")
    if max(values) <= 0:
        return heading + Text(f", never above 0 in {len(values)} ticks", style="dim")
    top = threshold * 1.25
    shown = list(values)[-PLOT_WIDTH:]
    threshold_row = int(threshold / top * PLOT_HEIGHT)
    lines = [heading]
    for row in reversed(range(PLOT_HEIGHT)):
        cells = ""
        for value in shown:
            filled = min(max(value, 0.0) / top, 1.0) * PLOT_HEIGHT - row
            cells += EIGHTHS[min(max(int(filled * 8), 0), 8)]
        line = Text(("1/α ┤" if row == threshold_row else "    │"), style="dim")
        if row == threshold_row:
            cells = "".join("┄" if cell == " " else cell for cell in cells.ljust(PLOT_WIDTH))
        lines.append(line + Text(cells, style=style))
    axis = "".join("┴" if is_start else "─" for is_start in list(starts)[-PLOT_WIDTH:]).ljust(PLOT_WIDTH, "─")
    return Group(*lines, Text(f"    └{axis} {len(values)} ticks", style="dim"))


def _shadow_table(shadow: "ShadowVerdict") -> Table:
    from runtime.rollout.page import difference_classes

    table = Table("in the shadow", f"{shadow.outcome}: {shadow.reason}", box=None)
    table.add_row(
        "asked", f"{shadow.asked:,}, {shadow.failed:,} of them failed; {shadow.dropped:,} left out under load"
    )
    difference = f"{shadow.mean_difference:.4f} on average, {shadow.largest_difference:.4f} at most"
    table.add_row("scores differ by", difference)
    classes = difference_classes(asdict(shadow))
    table.add_row("rows by difference", ", ".join(f"{text}: {number:,}" for text, number in classes) or "-")
    if shadow.latency_p50_ms is not None and shadow.latency_p95_ms is not None:
        table.add_row("answered within", f"p50 {shadow.latency_p50_ms:.1f} ms, p95 {shadow.latency_p95_ms:.1f} ms")
    against = f"{shadow.log_errors:.2f} by errors, {shadow.log_difference:.2f} by scores, of {shadow.threshold:.2f}"
    table.add_row("log E against", against)
    return table


def _metric_table(verdict: dict[str, Any]) -> Table:
    table = Table("metric", "canary", "primary", "log E against", "log E for", box=None)
    for metric in verdict["metrics"]:
        canary, primary = (
            f"{metric[f'{role}_requests']:,}"
            if metric[f"{role}_events"] is None
            else f"{metric[f'{role}_events']:,} of {metric[f'{role}_requests']:,}"
            for role in ("canary", "primary")
        )
        name = metric["name"] + (" (asymptotic)" if metric["is_asymptotic"] else "")
        table.add_row(name, canary, primary, f"{metric['log_rollback']:.2f}", f"{metric['log_promotion']:.2f}")
    return table


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
