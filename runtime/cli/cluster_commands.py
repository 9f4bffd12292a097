"""Commands over the platform: up, down, status, doctor, submit, demo."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import render
from runtime.cli.context import (
    Output,
    config_for_start,
    progress_bar,
    read_config,
    saved_config_path,
)
from runtime.config.compose import load_config, save_config
from runtime.core.errors import TealError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: group=choice, group.key=value.")]


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)
    app.command(context_settings={"ignore_unknown_options": True})(submit)
    app.command()(demo)


def up(overrides: Overrides = None, is_json: Json = False) -> None:
    """Start Ray, the control store, the edge and the monitor; a second `up` without other settings changes nothing."""
    from runtime.pipeline.platform import start_platform

    config = config_for_start(overrides or [])
    path = saved_config_path()
    # Serve is compared by the platform itself; what else it runs takes its settings when it starts.
    has_new_settings = path.exists() and load_config(path).edge != config.edge
    with progress_bar() as progress:
        platform = start_platform(config, progress, on_running=lambda: save_config(config, path))
    platform = replace(platform, is_changed=platform.is_changed or has_new_settings)
    Output(is_json).show(platform, lambda: render.platform(platform))


def down(is_json: Json = False) -> None:
    """Stop everything that `up` started; state on disk stays."""
    from runtime.pipeline.platform import stop_platform

    stopped = stop_platform(read_config())
    Output(is_json).show({"stopped": stopped}, lambda: "stopped" if stopped else "nothing was running")


def status(is_json: Json = False) -> None:
    """What is running, which slot holds what, who gets which share."""
    from runtime.pipeline.platform import read_status

    platform = read_status(read_config())
    Output(is_json).show(platform, lambda: render.status(platform))


def doctor(overrides: Overrides = None, is_json: Json = False) -> None:
    """Examine this machine and say how to mend what is wrong. Exit code 1 if something is an error."""
    from runtime.cluster.doctor import examine
    from runtime.serving.edge_doctor import examine_edge
    from runtime.serving.replica_doctor import examine_gpus, examine_reader

    config = read_config(overrides or [])
    of_replicas = [examine_reader(), *examine_gpus(config.serving.gpus_per_replica)]
    findings = [*examine(config), *examine_edge(config), *of_replicas]
    Output(is_json).show(findings, lambda: render.finding_table(findings))
    if any(finding.status == "error" for finding in findings):
        raise TealError("the doctor found errors; each line says how to mend it")


def submit(job: str, overrides: Overrides = None) -> None:
    """Run a file of jobs/ on the cluster through the Ray Jobs API and follow its output."""
    from runtime.cluster.jobs import submit as submit_job

    result = submit_job(read_config(), job, overrides or [], on_log=lambda text: typer.echo(text, nl=False))
    if result.exit_code != 0:
        raise typer.Exit(result.exit_code)


def demo(
    directory: Annotated[Path, typer.Option("--out", help="Where report.html and summary.json go.")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running to look around.")] = False,
    is_json: Json = False,
) -> None:
    """The whole loop on a year of real flights: train, serve, decay, retrain, ship, refuse, break, roll back."""
    from runtime.cli.demo_screen import DemoScreen
    from runtime.pipeline.demo import run_demo

    with DemoScreen(is_json) as screen:
        summary = run_demo(directory.resolve(), screen, keep=keep)
    Output(is_json).show(summary, lambda: render.demo_table(summary, directory.resolve()))
