"""Rollouts drawn for a terminal. Nothing here computes or asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runtime.cli.render import endpoint_table
from runtime.store.records import EndpointState
from runtime.store.rollouts import AnalysisTick, Rollout, moment

if TYPE_CHECKING:
    from runtime.rollout.certificate import Certificate
    from runtime.rollout.commands import Draft
    from runtime.rollout.plan import StepOutlook

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


def status(rollout: Rollout, state: EndpointState, ticks: Sequence[AnalysisTick], note: str | None) -> RenderableType:
    head = Text.assemble(
        (f"{rollout.id} ", "bold"),
        (rollout.phase, PHASE_STYLE.get(rollout.phase, "bold")),
        f"  {rollout.canary_model} against {rollout.primary_model}, plan {rollout.plan_name}, by {rollout.author}",
    )
    parts: list[RenderableType] = [head, Text(f"{rollout.reason}", style="dim"), endpoint_table([state])]
    if ticks:
        parts += [_metric_table(ticks[-1].verdict), *evidence_plots(ticks)]
    else:
        parts.append(Text("nothing was counted yet", style="dim"))
    if note is not None:
        parts.append(Text(note, style="red"))
    return Group(*parts)


def evidence_plots(ticks: Sequence[AnalysisTick]) -> list[RenderableType]:
    """Evidence over time, the newest right, both directions; the dashed row is 1/α."""
    return [
        _plot("against the canary", [tick.verdict["log_rollback"] for tick in ticks], _last(ticks, "rollback"), "red"),
        _plot(
            "for the canary, in its step",
            [tick.verdict["log_promotion"] for tick in ticks],
            _last(ticks, "promotion"),
            "green",
        ),
    ]


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


def _plot(title: str, values: Sequence[float], threshold: float, style: str) -> RenderableType:
    top = threshold * 1.25
    shown = list(values)[-PLOT_WIDTH:]
    threshold_row = int(threshold / top * PLOT_HEIGHT)
    lines = [Text(f"{title}: log E {values[-1]:.2f} of {threshold:.2f}", style="bold")]
    for row in reversed(range(PLOT_HEIGHT)):
        cells = ""
        for value in shown:
            filled = min(max(value, 0.0) / top, 1.0) * PLOT_HEIGHT - row
            cells += EIGHTHS[min(max(int(filled * 8), 0), 8)]
        line = Text(("1/α ┤" if row == threshold_row else "    │"), style="dim")
        if row == threshold_row:
            cells = "".join("┄" if cell == " " else cell for cell in cells.ljust(PLOT_WIDTH))
        lines.append(line + Text(cells, style=style))
    return Group(*lines, Text(f"    └{'─' * PLOT_WIDTH} {len(values)} ticks", style="dim"))


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
