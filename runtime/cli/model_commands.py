"""Commands over models: train and sweep candidates, compare, register, deploy, list."""

from dataclasses import replace
from typing import Annotated

import typer

from runtime.cli import render
from runtime.cli.context import Output, find_endpoint, open_session, read_config
from runtime.core.errors import RefusedError
from runtime.rollout.traffic import current_actor
from runtime.store.control import ControlStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: group=choice, group.key=value.")]
Run = Annotated[str | None, typer.Option("--run", help="The candidate's run; default the best of the last sweep.")]
Force = Annotated[bool, typer.Option("--force", help="Go past the gate; recorded with who and why.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit chain.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: repeated with it, nothing happens again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check what can be checked and show it; start nothing.")]


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(sweep)
    app.command()(compare)
    app.command("register")(register_model)
    app.command()(deploy)
    model = typer.Typer(help="Registered models.", no_args_is_help=True)
    model.command("list")(list_models)
    model.callback()(lambda: None)
    app.add_typer(model, name="model")


def train(overrides: Overrides = None, is_json: Json = False) -> None:
    """Train one candidate of the configured family, with no search."""
    _sweep(overrides or [], is_json, is_single=True)


def sweep(overrides: Overrides = None, is_json: Json = False) -> None:
    """Train candidates of every family in tune.families; the best is what `compare` and `register` take."""
    _sweep(overrides or [], is_json, is_single=False)


def _sweep(overrides: list[str], is_json: bool, *, is_single: bool) -> None:
    from runtime.pipeline.steps import sweep_models

    config = read_config(overrides)
    if is_single:
        tune = replace(config.tune, families=[config.model.name], num_samples=1)
        config = replace(config, tune=tune, model=replace(config.model, space={}))
    with open_session(config) as session:
        result = sweep_models(session)
    Output(is_json).show(result, lambda: render.candidate_table(result))


def compare(overrides: Overrides = None, run: Run = None, is_json: Json = False) -> None:
    """The gate: candidate against champion on the same rows. Exit code 3 and the reasons if it is rejected."""
    from runtime.pipeline.steps import compare_candidate

    with open_session(read_config(overrides or [])) as session:
        report = compare_candidate(session, run)
    Output(is_json).show(report, lambda: render.gate_report(report))
    if report.verdict != "Passed":
        raise RefusedError(f"the gate rejects the candidate: {'; '.join(report.reasons)}")


def register_model(
    overrides: Overrides = None, run: Run = None, force: Force = False, reason: Reason = "", is_json: Json = False
) -> None:
    """Gate a candidate and register it as a model version."""
    from runtime.pipeline.steps import register_candidate

    with open_session(read_config(overrides or [])) as session:
        registered = register_candidate(session, run, actor=current_actor(), force=force, reason=reason)
    Output(is_json).show(registered, lambda: [render.gate_report(registered.report), f"{registered.model.label}"])


def deploy(
    model: Annotated[str | None, typer.Argument(help="NAME:VERSION or NAME@ALIAS; default the challenger.")] = None,
    force: Force = False,
    reason: Reason = "",
    dry_run: DryRun = False,
    key: Key = None,
    is_json: Json = False,
) -> None:
    """Put a registered version into the idle slot and wait until it can answer. Traffic stays where it is."""
    from runtime.pipeline.steps import CHALLENGER, deploy_version

    with open_session(read_config()) as session:
        reference = model or f"{find_endpoint(session.config, session.store, None)}@{CHALLENGER}"
        deployed = deploy_version(
            session, reference, actor=current_actor(), force=force, reason=reason, key=key, is_rehearsed=dry_run
        )
    Output(is_json).show(deployed, lambda: render.deployed(deployed))


def list_models(is_json: Json = False) -> None:
    """Registered versions with their gate verdicts."""
    models = ControlStore.of(read_config().paths).model_versions()
    Output(is_json).show(models, lambda: render.model_table(models))
