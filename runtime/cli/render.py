"""Values drawn for a terminal. Nothing here computes or asks."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from runtime.cli.continuous_render import chain_tree
from runtime.cli.render_monitor import monitor_tables
from runtime.cli.style import SLOT_STYLE
from runtime.store.records import SLOTS, DataVersion, EndpointState, ModelVersion, Slot

if TYPE_CHECKING:
    from runtime.cluster.doctor import Finding
    from runtime.governance.gate import GateReport
    from runtime.pipeline.platform import PlatformStatus
    from runtime.pipeline.steps import Deployed
    from runtime.pipeline.summary import DemoSummary
    from runtime.pipeline.trace import PredictionTrace
    from runtime.rollout.operations import Moved
    from runtime.training.sweep import SweepResult

BAR_WIDTH = 20


def share_bar(state: EndpointState) -> Text:
    """The split as a bar of both slots' colours."""
    num_green = round(state.green_share / 10_000 * BAR_WIDTH)
    return Text("█" * (BAR_WIDTH - num_green), style="blue") + Text("█" * num_green, style="green")


def endpoint_table(states: Sequence[EndpointState], ready: Mapping[str, Mapping[Slot, int]] | None = None) -> Table:
    """`ready`: endpoint and slot to how many replicas can answer, where that was asked."""
    table = Table("endpoint", "gen", "slot", "role", "model", "share", "split", box=None)
    if ready is not None:
        table.add_column("replicas")
    for state in states:
        for slot in SLOTS:
            model = state.slot(slot).model
            role = "primary" if slot == state.primary else "canary"
            is_first = slot == SLOTS[0]
            table.add_row(
                state.name if is_first else "",
                str(state.generation) if is_first else "",
                Text(slot, style=SLOT_STYLE[slot]),
                role if model else "-",
                model.label if model else "empty",
                f"{state.slot_share(slot) / 100:g} %" if model else "-",
                share_bar(state) if is_first else "",
                *(() if ready is None else [_ready_text(ready.get(state.name, {}).get(slot), state.slot_share(slot))]),
            )
    return table


def _ready_text(num_ready: int | None, share: int) -> Text:
    """Red where there is traffic and nobody to answer."""
    if num_ready is None:
        return Text("-")
    return Text(str(num_ready), style="red" if share and not num_ready else "")


def moved(moved: "Moved") -> RenderableType:
    seconds = moved.acknowledged_s
    if moved.is_rehearsed:
        note = "so it would be; nothing was changed" if moved.is_new else "there would be nothing to change"
    elif seconds is None:
        note = "nothing to change"
    else:
        repeated = "" if moved.is_new else "done before with this key; "
        note = f"{repeated}applied by every edge in {seconds * 1000:.0f} ms"
    return Group(endpoint_table([moved.endpoint]), Text(note, style="dim"))


def platform(status: "PlatformStatus") -> RenderableType:
    if status.is_new:
        first = "started"
    else:
        first = f"already running; {'the changed settings hold now' if status.is_changed else 'nothing was changed'}"
    table = Table(show_header=False, box=None)
    table.add_row("edge", status.edge_url)
    table.add_row("Ray dashboard", status.dashboard_url)
    table.add_row("metrics", status.metrics_url)
    parts: list[RenderableType] = [Text(first, style="bold"), table]
    if status.endpoints:
        parts.append(endpoint_table(status.endpoints))
    return Group(*parts)


def status(status: "PlatformStatus") -> RenderableType:
    if not status.is_running:
        parts: list[RenderableType] = [Text("nothing is running; `teal up` starts it", style="bold")]
        if status.endpoints:
            parts += [Text("desired:"), endpoint_table(status.endpoints)]
        return Group(*parts)
    table = Table(show_header=False, box=None)
    table.add_row("edge", status.edge_url, _edge_text(status.edge))
    table.add_row("Ray dashboard", status.dashboard_url)
    table.add_row("metrics", status.metrics_url)
    facts: list[RenderableType] = [table]
    if len(status.edges) > 1:
        facts.append(edge_table(status.edges))
    if not status.endpoints:
        return Group(*facts, Text("no endpoint yet; `teal deploy` makes one"))
    return Group(
        *facts,
        endpoint_table(status.endpoints, status.ready),
        *(monitor_tables(status.monitor) if status.monitor else ()),
    )


def edge_table(edges: Sequence[dict[str, Any]]) -> Table:
    """One row a node's edge; what is wrong with it in red."""
    table = Table("edge", "node", "seen", "applies", "", box=None)
    for edge in edges:
        seen = "never" if edge["seen_s"] is None else f"{edge['seen_s']:g} s ago"
        applies = ", ".join(f"{name} {generation}" for name, generation in edge["generations"].items()) or "-"
        table.add_row(
            edge["edge_id"], (edge["node"] or "-")[:12], seen, applies, Text(edge["problem"] or "", style="red")
        )
    return table


def _edge_text(edge: dict[str, Any] | None) -> str:
    if edge is None:
        return "not answering"
    return "applies " + (", ".join(f"{name} {number}" for name, number in edge["generations"].items()) or "nothing yet")


def prepared(version: DataVersion, is_new: bool) -> RenderableType:
    first = f"{version.label} written" if is_new else f"{version.label} has the same inputs; nothing was written"
    return Group(Text(first, style="bold"), data_table([version]))


def data_table(versions: Sequence[DataVersion], current: Set[str] = frozenset()) -> Table:
    """`current` has the labels of those that a sweep takes without being told otherwise."""
    table = Table("version", "rows", "made of", "fingerprint", "made", "at", box=None)
    for version in versions:
        window, served = version.lineage["config"], version.lineage.get("served")
        rows = f"{window['since'] or 'start'} .. {window['until'] or 'end'}"
        if served is not None:
            rows = f"{served['base_table']}@{served['base_version']} and {served['num_rows']:,} served rows"
        table.add_row(
            Text(version.label).append(" current" if version.label in current else "", style="green"),
            f"{version.num_rows:,}",
            rows,
            version.fingerprint[:12],
            version.created_at[:19],
            version.uri,
        )
    return table


def candidate_table(result: "SweepResult") -> Table:
    table = Table("run", "family", "AUC", "log loss", "settings", box=None, title=f"sweep {result.run_id}")
    for candidate in sorted(result.candidates, key=lambda item: item.metrics["log_loss"]):
        is_best = candidate.run_id == result.best.run_id
        settings = ", ".join(f"{key}={value}" for key, value in candidate.arguments.items())
        table.add_row(
            candidate.run_id,
            candidate.family,
            f"{candidate.metrics['auc']:.4f}",
            f"{candidate.metrics['log_loss']:.4f}",
            settings,
            style="bold" if is_best else "",
        )
    return table


def gate_report(report: "GateReport") -> RenderableType:
    comparison = report.comparison
    table = Table("metric", "candidate", "champion", "difference", "bound of the improvement", "margin", box=None)
    for metric in comparison.metrics:
        table.add_row(
            metric.metric,
            f"{metric.candidate:.4f}",
            f"{metric.champion:.4f}",
            f"{metric.difference:+.4f}",
            f"{metric.lower:+.4f} .. {metric.upper:+.4f}",
            "-" if metric.margin is None else f"{metric.margin:g}",
        )
    champion = "base rate" if comparison.is_base_rate else "champion"
    title = Text(
        f"{report.verdict}: {comparison.num_rows:,} rows in {comparison.num_clusters} groups against the {champion}, "
        f"{comparison.confidence:.1%} bounds, seed {comparison.seed}, this holdout gated {report.num_previous_gates} "
        "times before",
        style="green" if report.verdict == "Passed" else "red",
    )
    return Group(title, table, *(Text(f"· {reason}") for reason in report.reasons))


def deployed(deployed: "Deployed") -> str:
    role = "the primary" if deployed.is_primary else "the canary; `teal shift 10` gives it traffic"
    if deployed.is_rehearsed:
        return f"{deployed.model.label} would be in slot {deployed.slot}, {role}; nothing was changed"
    done = "deployed" if deployed.is_new else "already deployed; nothing was changed"
    return f"{deployed.model.label} in slot {deployed.slot}, {role}: {done}"


def model_table(models: Sequence[ModelVersion]) -> Table:
    table = Table("model", "gate", "family", "data", "run", "bundle", box=None)
    for model in models:
        gate = model.lineage.get("gate", {})
        verdict = gate.get("verdict", "-") + (f", forced by {gate['forced_by']}" if gate.get("forced_by") else "")
        lineage = model.lineage
        table.add_row(
            model.label,
            verdict,
            str(lineage.get("family", "-")),
            str(lineage.get("data_version", "-")),
            model.run_id[:12],
            model.bundle_sha256[:12],
        )
    return table


def finding_table(findings: Sequence["Finding"]) -> Table:
    style = {"ok": "green", "warning": "yellow", "error": "red"}
    table = Table("check", "status", "found", "how to mend it", box=None)
    for finding in findings:
        table.add_row(finding.name, Text(finding.status, style=style[finding.status]), finding.detail, finding.remedy)
    return table


def trace_tree(lineage: "PredictionTrace") -> Tree:
    """Prediction, model, run, configuration, data version, sources: one level each."""
    first = lineage.rows[0]
    tree = Tree(f"prediction {lineage.prediction_id} ({len(lineage.rows)} rows, {first['at']}, slot {first['slot']})")
    tree.add(f"score {first['score']:.6f} for {_features(first)}")
    model = tree.add(f"model {lineage.model.label}, bundle sha256 {lineage.model.bundle_sha256}")
    model.add(f"run {lineage.model.run_id}")
    model.add(f"config_sha256 {lineage.model.lineage.get('config_sha256', '-')}")
    model.add(f"code {_code(lineage.model.lineage.get('code', {}))}")
    gate = lineage.model.lineage.get("gate", {})
    verdict = model.add(f"gate {gate.get('verdict', '-')}")
    for reason in gate.get("reasons", ()):
        verdict.add(reason)
    if gate.get("forced_by"):
        verdict.add(f"forced by {gate['forced_by']}: {gate.get('forced_reason') or 'no reason given'}")
    if lineage.chain is not None:
        model.add(chain_tree(lineage.chain))
    data = model.add(f"data {lineage.data.label}, {lineage.data.num_rows:,} rows, {lineage.data.fingerprint}")
    if lineage.base is not None:
        served = lineage.data.lineage["served"]
        data.add(
            f"{served['num_rows']:,} served rows with labels, {served['since'][:19]} to {served['until'][:19]}: "
            f"payload log at version {served['payload_version']}, labels at version {served['feedback_version']}"
        )
        data = data.add(f"data {lineage.base.label}, {lineage.base.num_rows:,} rows, {lineage.base.fingerprint}")
    prepared = lineage.base or lineage.data
    data.add(f"configuration sha256 {prepared.lineage['inputs']['config_sha256']}")
    sources = data.add("sources")
    for name, source in prepared.lineage["sources"].items():
        sources.add(f"{name}: {source['uri']}, sha256 {source['sha256']}")
    return tree


def _code(code: dict[str, Any]) -> str:
    changed = f" with changes {code['diff_sha256'][:12]}" if code.get("diff_sha256") else ""
    return f"{code.get('commit', '-')}{changed}"


LOGGED_ABOUT_REQUEST = {
    "prediction_id", "row", "at", "at_day", "started_at", "slot", "generation", "model_name", "model_version",
    "data_version", "request_id", "score", "latency_ms",
}  # fmt: skip


def _features(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items() if name not in LOGGED_ABOUT_REQUEST)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def demo_table(summary: "DemoSummary", directory: Path) -> RenderableType:
    """The demo's closing table."""
    table = Table(show_header=False, box=None, title="what happened")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("requests", f"{summary.requests_sent:,} sent, {summary.requests_failed} failed")
    for phase in summary.phases:
        mark = "within" if phase.ok else "OUTSIDE"
        table.add_row(
            f"split, {phase.name}",
            f"{phase.split_observed:.1%} of {phase.n:,}, target {phase.split_target:.0%}: "
            f"{mark} {phase.interval_low:.1%} .. {phase.interval_high:.1%}",
        )
    for quality in summary.quality_by_month:
        table.add_row(
            f"quality, {quality.month}, {quality.model}",
            f"AUC {_figure(quality.auc)}, log loss {_figure(quality.log_loss)} on {quality.n:,} labelled flights",
        )
    for gate in summary.gates:
        table.add_row(f"gate, {gate.candidate}", f"{gate.verdict}: {gate.reasons[0] if gate.reasons else ''}")
    table.add_row("champion", summary.champion)
    table.add_row("data versions", ", ".join(summary.data_versions))
    table.add_row("rollback", f"{summary.rollback_ms:.0f} ms from the command to the last answer of the bad slot")
    table.add_row("duration", f"{summary.duration_s:.0f} s")
    table.add_row("report", str(directory / "report.html"))
    table.add_row("summary", str(directory / "summary.json"))
    return table
