"""Commands over the monitor: what it counted, what drifts, and what a budget would have meant on history."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import render_monitor as render
from runtime.cli.context import Output, find_endpoint, open_session, read_config
from runtime.store.control import ControlStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: all.")]


def register(app: typer.Typer) -> None:
    monitor = typer.Typer(help="What the monitor sees, and what it concludes.", no_args_is_help=True)
    monitor.command()(status)
    monitor.command()(drift)
    monitor.command()(replay)
    monitor.command()(shadow)
    app.add_typer(monitor, name="monitor")


def status(is_json: Json = False) -> None:
    """Counts, latency and the features that moved most, by slot and model version."""
    from runtime.pipeline.steps import monitor_status as read_monitor

    with open_session(read_config()) as session:
        state = read_monitor(session)
    Output(is_json).show(state, lambda: render.monitor_tables(state))


def drift(
    endpoint: Endpoint = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page with plots to this file.")] = None,
    level: Annotated[str, typer.Option("--by", help="Width of the page's columns: minutes (five) or hours.")] = "hours",
    is_json: Json = False,
) -> None:
    """Evidence of drift against the false alarm budget, its culprits, and how far each feature has moved."""
    from runtime.pipeline.drift_report import read_drift, write_drift_page

    with open_session(read_config()) as session:
        found = read_drift(session, endpoint, level=level, with_history=html is not None)
    if html is not None:
        write_drift_page(found, html)
    Output(is_json).show(
        {"endpoints": found.reports, "entries": found.state["entries"]},
        lambda: render.drift_report(found.reports, found.state),
    )


def replay(
    stretch: Annotated[str, typer.Argument(help="TABLE@SINCE..UNTIL by its time column; either may be left out.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Version whose training rows are the reference, as name:3.")
    ] = None,
    tick_s: Annotated[float, typer.Option("--tick", help="Seconds of the table's time in a tick.")] = 3600.0,
    budgets: Annotated[
        list[float] | None, typer.Option("--budget", help="Days in which one false alarm is allowed; repeatable.")
    ] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Default: monitoring.drift_margin.")] = None,
    is_payload: Annotated[
        bool, typer.Option("--payload", help="TABLE is an endpoint: replay its payload log.")
    ] = False,
    is_json: Json = False,
) -> None:
    """Run the drift detector over history and say when it would have alarmed: to set budgets before going live."""
    from runtime.pipeline.drift_replay import replay_history

    with open_session(read_config()) as session:
        found = replay_history(
            session,
            stretch,
            model=model,
            tick_s=tick_s,
            budgets_days=budgets,
            margin=margin,
            is_payload=is_payload,
        )
    Output(is_json).show(found, lambda: render.replay_tables(found))


def shadow(
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", "-e", help="Default: the only one, or the configured one.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="How far to look back.", min=0.0)] = 24.0,
    is_json: Json = False,
) -> None:
    """How the other slot's answers differ from those that were given, where the shadow asked both."""
    from runtime.serving.shadow_report import read_shadow_reports

    config = read_config()
    name = find_endpoint(config, ControlStore.of(config.paths), endpoint)
    found = read_shadow_reports(config.paths.payload, name, datetime.now(UTC) - timedelta(hours=hours))
    Output(is_json).show(found, lambda: render.shadow_tables(found))
