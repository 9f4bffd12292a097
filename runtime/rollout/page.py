"""A rollout's summary as one HTML page, readable by the reader's light or dark setting and on paper."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from runtime.serving.shadow import DIFFERENCE_BOUNDS

WIDTH, HEIGHT, MARGIN = 760, 240, 44

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2326; --faint: #5c676c; --line: #cfd6d8; --good: #14806a;
  --bad: #b5382a; }
@media (prefers-color-scheme: dark) { :root { --page: #14191b; --ink: #e6ebec; --faint: #9aa7ab; --line: #3a464a;
  --good: #54c2a4; --bad: #ef8475; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--faint); } th, td { padding: .35rem 1rem .35rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } .good { color: var(--good); } .bad { color: var(--bad); } .faint { color: var(--faint); }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 11px; }
.axis { stroke: var(--line); } .threshold { stroke: var(--ink); stroke-dasharray: 5 4; }
.rollback { stroke: var(--bad); fill: none; stroke-width: 2; }
.promotion { stroke: var(--good); fill: none; stroke-width: 2; }
code { overflow-wrap: anywhere; font-size: .85rem; }
"""

OUTCOME_TEXT = {
    "Succeeded": "was promoted",
    "RolledBack": "was rolled back by the analysis",
    "Aborted": "was aborted",
    "Failed": "could not go on and was taken back",
}


def render_page(content: dict[str, Any], *, signature: str | None = None) -> str:
    canary, primary = content["canary"], content["primary"]
    ending = OUTCOME_TEXT.get(content["phase"], f"is {content['phase']}")
    mark = {"Succeeded": "good", "RolledBack": "bad", "Failed": "bad"}.get(content["phase"], "")
    no_harm = (
        "<p>Steps passed by enough requests without evidence against the canary; nothing proves that it is as good.</p>"
        if content["basis"] == "no_harm"
        else ""
    )
    signed = "" if signature is None else f"<p class=faint>Ed25519 signature <code>{escape(signature)}</code></p>"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Rollout {escape(content["rollout"])}</title><style>{STYLE}</style>
<main>
<h1>Rollout {escape(content["rollout"])}</h1>
<p>{escape(canary["model"])} (slot {escape(canary["slot"])}) against {escape(primary["model"])}
 (slot {escape(primary["slot"])}) <b class="{mark}">{ending}</b>: {escape(content["reason"])}.</p>
<p class=faint>Plan {escape(content["plan_name"])}, started by {escape(content["author"])} at
 {escape(content["started_at"])}, {f"ended at {escape(content['ended_at'])}" if content["ended_at"] else "not ended"}.
 People and programs: {escape(", ".join(content["people"]))}.</p>
{no_harm}
{_shadow(content.get("shadow"))}
<h2>Evidence</h2>
{draw_evidence(content["evidence"])}
<h2>Steps</h2>
<div class=scroll>{_table(STEP_HEADS, [_step_cells(step) for step in content["steps"]])}</div>
<h2>Decisions</h2>
<div class=scroll>{_table(DECISION_HEADS, [_decision_cells(row) for row in content["decisions"]])}</div>
{signed}
</main></html>
"""


def draw_evidence(evidence: Sequence[dict[str, Any]]) -> str:
    """log E over time in both directions against log 1/α, as SVG."""
    if not evidence:
        return "<p class=faint>Nothing was counted yet.</p>"
    last_s = max(float(evidence[-1]["s"]), 1.0)
    thresholds = [float(evidence[-1][f"{direction}_threshold"]) for direction in ("rollback", "promotion")]
    top = max(thresholds) * 1.6
    bottom = -top / 2

    def x(seconds: float) -> float:
        return MARGIN + seconds / last_s * (WIDTH - 2 * MARGIN)

    def y(value: float) -> float:
        return MARGIN / 2 + (top - min(max(value, bottom), top)) / (top - bottom) * (HEIGHT - MARGIN)

    def path(name: str) -> str:
        return "M" + "L".join(f"{x(point['s']):.1f},{y(point[name]):.1f}" for point in evidence)

    lines = [
        f'<line class=threshold x1={MARGIN} x2={WIDTH - MARGIN} y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        for value in sorted(set(thresholds))
    ]
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="log evidence over time">
<line class=axis x1={MARGIN} x2={WIDTH - MARGIN} y1="{y(0):.1f}" y2="{y(0):.1f}"/>{"".join(lines)}
<path class=rollback d="{path("log_rollback")}"/><path class=promotion d="{path("log_promotion")}"/>
<text x="{MARGIN}" y="{y(thresholds[0]) - 5:.1f}">log 1/α</text><text x="4" y="{y(0) + 4:.1f}">0</text>
<text x="{MARGIN}" y="{HEIGHT - 4}">0 s</text><text x="{WIDTH - MARGIN - 20}" y="{HEIGHT - 4}">{last_s:.0f} s</text>
</svg>
<p class=faint><span class=bad>red</span>: the canary is worse than its margins; <span class=good>green</span>: it is
within them, of the metric that has shown least. Where a line reaches the dashed one, that is decided.</p>"""


def _shadow(shadow: dict[str, Any] | None) -> str:
    if shadow is None:
        return ""
    rows = [
        ("asked", f"{shadow['asked']:,}"),
        ("failed", f"{shadow['failed']:,}"),
        ("not asked, under load", f"{shadow['dropped']:,}"),
        ("mean difference of scores", f"{shadow['mean_difference']:.4f}"),
        ("largest difference", f"{shadow['largest_difference']:.4f}"),
        *((f"rows with a difference {text}", f"{number:,}") for text, number in difference_classes(shadow)),
    ]
    table = _table(("before any traffic", ""), rows)
    return f"<h2>Shadow</h2><p>{escape(shadow['reason'])}.</p><div class=scroll>{table}</div>"


def difference_classes(shadow: dict[str, Any]) -> list[tuple[str, int]]:
    """Of the differences of scores, as texts with the number of rows; without the empty ones."""
    bounds = [*DIFFERENCE_BOUNDS, math.inf]
    texts = [f"up to {high:g}" if math.isfinite(high) else f"above {bounds[-2]:g}" for high in bounds]
    texts[0] = "of 0"
    found = zip(texts, shadow["difference_counts"], strict=False)
    return [(text, number) for text, number in found if number]


DECISION_HEADS = ("row", "at", "who", "what", "why")
STEP_HEADS = ("step", "canary: requests, errors", "primary: requests, errors", "share observed", "evidence")


def _step_cells(step: dict[str, Any]) -> tuple[str, ...]:
    observed, (low, high) = step["share_observed"], step["share_interval"]
    verdict = step["verdict"]
    share = "-" if observed is None else f"{observed:.2%} [{low:.2%}, {high:.2%}]"
    evidence = "-" if verdict is None else f"{verdict['outcome']}: {'; '.join(verdict['reasons'])}"
    counted = [
        f"{step['counted'][role]['requests']:,}, {step['counted'][role]['errors']:,}" for role in ("canary", "primary")
    ]
    return (f"{step['percent']} %", *counted, share, evidence)


def _decision_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return str(row["row"]), row["at"][:19], row["who"], row["what"], row["why"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"
