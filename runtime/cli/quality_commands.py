"""Commands over quality, labels and alerts."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import quality_render as render
from runtime.cli.context import Output, find_endpoint, progress_bar, read_config
from runtime.core.errors import UsageError
from runtime.rollout.traffic import current_actor
from runtime.store.control import ControlStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: group=choice, group.key=value.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: the only one, or the configured one.")]
Since = Annotated[str | None, typer.Option("--since", help="First moment, ISO 8601 in UTC.")]
Until = Annotated[str | None, typer.Option("--until", help="First moment not taken.")]


def register(app: typer.Typer) -> None:
    app.command()(feedback)
    monitor = _group(app, "monitor", "What the monitor sees, and what it concludes.")
    monitor.command()(quality)
    monitor.command()(alerts)
    monitor.command()(ack)
    monitor.command()(rules)


def _group(app: typer.Typer, name: str, text: str) -> typer.Typer:
    """The group of that name, which another room's commands may have made before."""
    for group in app.registered_groups:
        if group.name == name and group.typer_instance is not None:
            return group.typer_instance
    made = typer.Typer(help=text, no_args_is_help=True)
    app.add_typer(made, name=name)
    return made


def quality(
    endpoint: Endpoint = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[str | None, typer.Option("--by", help="hour, day, week, month or all; default by the span.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="Also by this category; repeatable.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page to this file.")] = None,
    is_json: Json = False,
) -> None:
    """How good the logged predictions were, by the labels that came back; and by estimate where none came yet."""
    from runtime.pipeline.quality_page import write_quality_page
    from runtime.pipeline.quality_report import PERIODS, read_quality

    period = next((name for name in PERIODS if name == by), None)
    if by is not None and period is None:
        raise UsageError(f"--by must be one of {', '.join(PERIODS)} but got {by!r}")
    config = read_config()
    store = ControlStore.of(config.paths)
    name = find_endpoint(config, store, endpoint)
    overview = read_quality(config, store, name, since=since, until=until, period=period, slices=slices or ())
    if html is not None:
        write_quality_page(overview, html)
    Output(is_json).show(overview, lambda: render.quality_tables(overview))


def feedback(
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet: prediction_id, row, label.")],
    endpoint: Endpoint = None,
    is_json: Json = False,
) -> None:
    """Send labels that came back to the endpoint. Sending one again does no harm."""
    from runtime.pipeline.feedback_table import send_feedback

    config = read_config()
    name = find_endpoint(config, ControlStore.of(config.paths), endpoint)
    with progress_bar() as progress:
        sent = send_feedback(config, name, file, progress)
    Output(is_json).show(sent, lambda: render.feedback_line(sent.endpoint, sent.num_labels, sent.num_accepted))


def alerts(
    endpoint: Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: every endpoint.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Also what is resolved, and what happened lately.")] = False,
    is_json: Json = False,
) -> None:
    """What fires, since when, whom it hurts and what to do. Does not need the platform to run."""
    from runtime.pipeline.quality_watch import read_alerts

    store = ControlStore.of(read_config().paths)
    found = list(read_alerts(store, endpoint).values())
    shown = found if is_all else [alert for alert in found if alert.phase != "resolved"]
    events = store.alert_events(limit=20) if is_all else []
    Output(is_json).show({"alerts": shown, "events": events}, lambda: render.alert_tables(shown, events, time.time()))


def ack(
    alert: Annotated[str, typer.Argument(help="The alert's id, as `teal monitor alerts` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="What you are doing about it; kept in the audit chain.")] = "",
    is_json: Json = False,
) -> None:
    """Say that you look after an alert. It stays acknowledged until it is resolved or found to be worse."""
    from runtime.pipeline.quality_watch import acknowledge_alert

    store = ControlStore.of(read_config().paths)
    after = acknowledge_alert(store, alert, actor=current_actor(), reason=reason, now=time.time())
    Output(is_json).show(after, lambda: render.alert_tables([after], [], time.time()))


def rules() -> None:
    """The alert rules as a rule file for Prometheus: `teal monitor rules > rules.yaml`."""
    from runtime.monitoring.rules import render_rules

    sys.stdout.write(render_rules(read_config().alerts))
