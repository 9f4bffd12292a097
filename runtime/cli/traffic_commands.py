"""Commands that move traffic: shift, rollback, promote, and what the audit chain says of it. They do not join Ray."""

from typing import Annotated, Any

import typer

from runtime.cli import render, render_history
from runtime.cli.context import Output, find_endpoint, progress_bar, read_config
from runtime.core.errors import RefusedError, UsageError
from runtime.rollout import operations, traffic
from runtime.store.records import Head
from runtime.store.rollouts import RolloutStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: the only one, or the configured one.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit chain.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: repeated with it, nothing happens again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would be; change nothing.")]


def register(app: typer.Typer) -> None:
    app.command()(shift)
    app.command()(rollback)
    app.command()(promote)
    app.command()(history)
    audit = typer.Typer(help="The hash-chained record of every change.", no_args_is_help=True)
    audit.command("verify")(verify)
    audit.callback()(lambda: None)
    app.add_typer(audit, name="audit")


def shift(
    percent: str,
    endpoint: Endpoint = None,
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="End the rollout that moves this traffic.")] = False,
    dry_run: DryRun = False,
    key: Key = None,
    is_json: Json = False,
) -> None:
    """Give the canary PERCENT of the traffic."""
    share = traffic.parse_percent(percent)
    config = read_config()
    store = RolloutStore.of(config.paths)
    name = find_endpoint(config, store, endpoint)
    actor = traffic.current_actor()
    with progress_bar() as progress:
        moved = operations.shift(
            config,
            store,
            name,
            share,
            actor=actor,
            reason=reason,
            force=force,
            key=key,
            is_rehearsed=dry_run,
            on_progress=progress.update,
        )
    Output(is_json).show(moved, lambda: render.moved(moved))


def rollback(
    to: Annotated[str | None, typer.Option("--to", help="Percent that the canary keeps.")] = None,
    version: Annotated[int | None, typer.Option("--version", help="Back to this version, if a slot holds it.")] = None,
    endpoint: Endpoint = None,
    reason: Reason = "",
    dry_run: DryRun = False,
    key: Key = None,
    is_json: Json = False,
) -> None:
    """Take the canary's traffic away, all of it or down to a percentage; or go back to an earlier version."""
    if to is not None and version is not None:
        raise UsageError(f"give --to {to} or --version {version}, not both")
    share = traffic.parse_percent(to or "0")
    config = read_config()
    store = RolloutStore.of(config.paths)
    name = find_endpoint(config, store, endpoint)
    options: dict[str, Any] = {
        "actor": traffic.current_actor(),
        "reason": reason,
        "key": key,
        "is_rehearsed": dry_run,
    }
    if version is None:
        moved = operations.rollback(config, store, name, share, **options)
    else:
        moved = operations.return_to(config, store, name, version, **options)
    Output(is_json).show(moved, lambda: render.moved(moved))


def promote(endpoint: Endpoint = None, is_json: Json = False) -> None:
    """Make the canary, which must have all traffic, the primary and its model the champion."""
    from runtime.cli.context import open_session
    from runtime.pipeline.steps import promote_canary

    with open_session(read_config()) as session:
        name = find_endpoint(session.config, session.store, endpoint)
        state = promote_canary(session, name, actor=traffic.current_actor())
    Output(is_json).show(state, lambda: render.endpoint_table([state]))


def history(endpoint: Endpoint = None, is_json: Json = False) -> None:
    """What was changed, when and by whom."""
    transitions = RolloutStore.of(read_config().paths).transitions(endpoint)
    Output(is_json).show(transitions, lambda: render_history.transition_table(transitions))


def verify(
    head: Annotated[str | None, typer.Option("--head", help="SEQUENCE:HASH that somebody wrote down.")] = None,
    is_json: Json = False,
) -> None:
    """Check that no row of the audit chain was changed, removed or reordered, and that endpoints are what it says."""
    found = RolloutStore.of(read_config().paths).verify_audit(None if head is None else _parse_head(head))
    Output(is_json).show(
        found, lambda: "\n".join(found.faults) or f"the chain of {found.num_rows} rows is whole{_end_text(found.head)}"
    )
    if found.faults:
        raise RefusedError(f"the audit chain is broken in {len(found.faults)} places")


def _parse_head(text: str) -> Head:
    sequence, _, digest = text.partition(":")
    if not sequence.isdigit() or not digest:
        raise UsageError(f"--head must look like SEQUENCE:HASH but got {text!r}")
    return Head(sequence=int(sequence), hash=digest)


def _end_text(head: Head | None) -> str:
    return "" if head is None else f"; it ends at {head.sequence}:{head.hash}"
