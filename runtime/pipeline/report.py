"""The demo's report: one HTML file that needs nothing else, written for somebody who was not there."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from runtime.core.files import write_atomic
from runtime.pipeline import plots
from runtime.pipeline.report_style import STYLE
from runtime.pipeline.summary import DemoSummary, GateDecision, QualityOfMonth

METRIC_TITLES = {"auc": "AUC", "log_loss": "log loss", "brier": "Brier score"}
NUM_DRIFT_NAMED = 3


def write_report(summary: DemoSummary, directory: Path) -> Path:
    """Write `summary.json` and `report.html` into `directory`; returns the report's path."""
    page = render_report(summary)
    write_atomic(directory / "summary.json", json.dumps(summary.to_json(), indent=1, allow_nan=False))
    path = directory / "report.html"
    write_atomic(path, page)
    return path


def render_report(summary: DemoSummary) -> str:
    """The page. Every text of the summary is escaped; nothing is loaded from anywhere."""
    summary = _in_order(summary)
    sections = [
        _section("What was done, in order", _timeline(summary)),
        _section("How the traffic was split", _split(summary)),
        _section("How long answers took", _latency(summary)),
        _section("What the gate decided", _gates(summary)),
        _section("How the data moved", _drift(summary)),
        _section("How good the predictions were", _quality(summary)),
        _section("What these figures do not show", _list(summary.limits)),
        _section("Where it ran", _about(summary)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>teal: a demo run</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>A model, shipped and rolled back</h1>{_opening(summary)}{_tiles(summary)}</header>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _in_order(summary: DemoSummary) -> DemoSummary:
    """Months as the run met them, not by the alphabet."""
    order = {month: place for place, month in enumerate(summary.drift_by_feature)}

    def place(month: str) -> tuple[int, str]:
        return order.get(month, len(order)), month

    values = {name: getattr(summary, name) for name in DemoSummary.__slots__}
    values["quality_by_month"] = sorted(summary.quality_by_month, key=lambda one: (place(one.month), one.model))
    values["calibration"] = sorted(summary.calibration, key=lambda one: (place(one.month), one.model))
    return DemoSummary(**values)


def _opening(summary: DemoSummary) -> str:
    """What happened in a paragraph, each sentence only where there is something to say."""
    sentences = [
        f"Models were trained on real flights, compared, and served through one endpoint under a constant load, "
        f"in {_duration(summary.duration_s)}."
    ]
    scored = [one for one in summary.quality_by_month if one.auc is not None]
    if scored:
        by_month = ", ".join(f"{one.auc:.3f} in {escape(one.month)} ({escape(one.model)})" for one in scored)
        sentences.append(f"On the labels that came back, AUC was {by_month}.")
    refused = [gate for gate in summary.gates if gate.verdict != "Passed"]
    passed = len(summary.gates) - len(refused)
    if summary.gates:
        forced = sum(gate.is_forced for gate in refused)
        tail = f"; {forced} of the rejected went on by force, which the audit chain records" if forced else ""
        sentences.append(f"The gate passed {_count(passed, 'candidate')} and rejected {len(refused)}{tail}.")
    sentences.append(
        f"At the end <b>{escape(summary.champion)}</b> is the champion. A bad version was rolled back: its last answer "
        f"began {summary.rollback_ms:.0f} ms after the command was given."
    )
    return f'<p class="lede">{" ".join(sentences)}</p>'


def _tiles(summary: DemoSummary) -> str:
    within = sum(phase.ok for phase in summary.phases)
    tiles = [
        (f"{summary.requests_sent:,}", "requests sent", ""),
        (f"{summary.requests_failed:,}", "requests failed", "bad" if summary.requests_failed else "good"),
        (
            f"{within} of {len(summary.phases)}",
            "splits within their 99.9 % interval",
            "good" if within == len(summary.phases) else "bad",
        ),
        (
            f"{summary.rollback_ms:.0f} ms",
            "rollback, command to last bad answer",
            "good" if summary.rollback_ms <= 1000 else "bad",
        ),
    ]
    cells = "".join(
        f'<div class="tile {kind}"><b>{value}</b><span>{title}</span></div>' for value, title, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _timeline(summary: DemoSummary) -> str:
    if not summary.events:
        return "<p>No events were recorded.</p>"
    items = []
    for event in summary.events:
        moment = f"{event.second:.0f} s" if event.second >= 0 else "before"
        detail = f"<span>{escape(event.detail)}</span>" if event.detail else ""
        items.append(f"<li><time>{moment}</time><b>{escape(event.title)}</b>{detail}</li>")
    return (
        "<p>Seconds count from the first request of the load. The numbers stand in the plots below.</p>"
        f'<ol class="timeline">{"".join(items)}</ol>'
    )


def _split(summary: DemoSummary) -> str:
    rows = [
        [
            escape(phase.name),
            _percent(phase.split_target),
            _percent(phase.split_observed),
            f"{phase.n:,}",
            f"{_percent(phase.interval_low)} to {_percent(phase.interval_high)}",
            _mark(phase.ok, "within", "outside"),
        ]
        for phase in summary.phases
    ]
    heads = ["phase", "asked for", "observed", "answers", "99.9 % interval", ""]
    return (
        "<p>An endpoint has two slots, blue and green. A new version goes into the slot without traffic and then "
        "gets a share of it. The edge decides by a hash of each request's key, so a key stays where it is while the "
        "share holds. If it works, the observed share differs from the one asked for by chance alone: the interval "
        f"says how far that may be.</p>{_figure(plots.plot_split(summary))}{_table(heads, rows, 'lrrrrl')}"
    )


def _latency(summary: DemoSummary) -> str:
    return (
        "<p>Seen by the client: the time from sending a request to its whole answer. Each point is one second of one "
        f"slot; the scale is logarithmic.</p>{_figure(plots.plot_latency(summary))}"
    )


def _gates(summary: DemoSummary) -> str:
    rows = [_gate_row(gate) for gate in summary.gates]
    return (
        "<p>Before it may get traffic a candidate is compared with the champion on the same rows. It passes only if "
        "the data rules out that it is worse by more than a margin: the lower end of its interval must lie right of "
        "the tick.</p>"
        f"{_figure(plots.plot_gates(summary.gates))}"
        f"{_table(['candidate', 'champion', 'rows', 'verdict', 'why'], rows, 'llrll')}"
        "<p>All candidates that were trained, on the rows that their own training held out. Sweeps of different "
        "windows hold out different rows, so compare within a sweep.</p>"
        f"{_figure(plots.plot_candidates(summary.candidates))}"
    )


def _gate_row(gate: GateDecision) -> list[str]:
    verdict = _mark(gate.verdict == "Passed", "passed", "rejected") + (" <em>forced</em>" if gate.is_forced else "")
    n = f"{gate.n:,}" if gate.n else "–"
    return [escape(gate.candidate), escape(gate.champion), n, verdict, "<br>".join(map(escape, gate.reasons))]


def _drift(summary: DemoSummary) -> str:
    moved = []
    for month, values in summary.drift_by_feature.items():
        largest = sorted(values.items(), key=lambda item: -item[1])[:NUM_DRIFT_NAMED]
        if largest:
            named = ", ".join(f"{escape(feature)} ({psi:.2f})" for feature, psi in largest)
            moved.append(f"In {escape(month)} {named} moved most.")
    return (
        "<p>Each feature of the requests beside the rows that the serving model was trained on, as the population "
        "stability index: 0 is no difference, and above 0.1 is usually looked at. It is an effect size and no test, "
        f"and it does not say whether the predictions suffered. {' '.join(moved)}</p>"
        f"{_figure(plots.plot_drift(summary.drift_by_feature))}"
    )


def _quality(summary: DemoSummary) -> str:
    rows = [_quality_row(one) for one in summary.quality_by_month]
    heads = ["month", "model", "slot", "labels", "AUC", "log loss", "mean score", "observed rate", "calibration error"]
    calibration = ""
    if summary.calibration:
        calibration = (
            "<p>Calibration: where a score means what it says, the points lie on the line. Each point is a "
            f"fifteenth of the rows.</p>{_figure(plots.plot_calibration(summary.calibration))}"
        )
    return (
        "<p>Labels came back after the predictions and were joined to the log of what was answered. AUC 0.5 is a "
        "guess, 1 a perfect ranking; log loss also punishes scores that are too sure. Intervals are 95 % and take "
        f"whole days as independent.</p>{_figure(plots.plot_quality(summary.quality_by_month))}"
        f"{_table(heads, rows, 'lllrrrrrr')}{calibration}"
    )


def _quality_row(one: QualityOfMonth) -> list[str]:
    return [
        escape(one.month),
        escape(one.model),
        escape(one.slot),
        f"{one.n:,}",
        _estimate(one.auc, one.auc_low, one.auc_high),
        _estimate(one.log_loss, one.log_loss_low, one.log_loss_high),
        _number(one.mean_score),
        _number(one.observed_rate),
        _number(one.calibration_error),
    ]


def _about(summary: DemoSummary) -> str:
    facts = {"data versions": ", ".join(summary.data_versions), "duration": _duration(summary.duration_s)}
    rows = [[escape(name), escape(value)] for name, value in (facts | summary.about).items()]
    return _table(["", ""], rows, "ll")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """Cells are HTML; `alignment` has l or r for each column."""
    kinds = ['class="number"' if side == "r" else "" for side in alignment]
    body = "".join(
        "<tr>" + "".join(f"<td {kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    if not body:
        return "<p>Nothing was recorded.</p>"
    head = "".join(f"<th {kind}>{title}</th>" for kind, title in zip(kinds, heads, strict=True)) if any(heads) else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    if not sentences:
        return "<p>Nothing was recorded.</p>"
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _mark(is_good: bool, good: str, bad: str) -> str:
    return f'<span class="mark {"good" if is_good else "bad"}">{good if is_good else bad}</span>'


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f"<small>{low:.3f} to {high:.3f}</small>"
    return f"{value:.3f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
