"""Commands that move traffic: shift, rollback, promote, and what the audit chain says of it. They do not join Ray."""

from typing import Annotated

import typer

from runtime.cli import render
from runtime.cli.context import Output, find_endpoint, read_config
from runtime.core.errors import RefusedError
from runtime.rollout import operations, traffic
from runtime.store.audit import find_breaks
from runtime.store.control import ControlStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: the only one, or the configured one.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit chain.")]


def register(app: typer.Typer) -> None:
    app.command()(shift)
    app.command()(rollback)
    app.command()(promote)
    app.command()(history)
    audit = typer.Typer(help="The hash-chained record of every change.", no_args_is_help=True)
    audit.command("verify")(verify)
    audit.callback()(lambda: None)
    app.add_typer(audit, name="audit")


def shift(percent: str, endpoint: Endpoint = None, reason: Reason = "", is_json: Json = False) -> None:
    """Give the canary PERCENT of the traffic."""
    share = traffic.parse_percent(percent)
    config = read_config()
    store = ControlStore(config.paths.control)
    name = find_endpoint(config, store, endpoint)
    moved = operations.shift(config, store, name, share, actor=traffic.current_actor(), reason=reason)
    Output(is_json).show(moved, lambda: render.moved(moved))


def rollback(
    to: Annotated[str, typer.Option("--to", help="Percent that the canary keeps.")] = "0",
    endpoint: Endpoint = None,
    reason: Reason = "",
    is_json: Json = False,
) -> None:
    """Take the canary's traffic away, all of it or down to a percentage."""
    share = traffic.parse_percent(to)
    config = read_config()
    store = ControlStore(config.paths.control)
    name = find_endpoint(config, store, endpoint)
    moved = operations.rollback(config, store, name, share, actor=traffic.current_actor(), reason=reason)
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
    transitions = ControlStore(read_config().paths.control).transitions(endpoint)
    Output(is_json).show(transitions, lambda: render.transition_table(transitions))


def verify(is_json: Json = False) -> None:
    """Check that no row of the audit chain was changed, removed or reordered."""
    transitions = ControlStore(read_config().paths.control).transitions()
    faults = find_breaks(transitions)
    Output(is_json).show(
        {"rows": len(transitions), "faults": faults},
        lambda: "\n".join(faults) if faults else f"the chain of {len(transitions)} rows is whole",
    )
    if faults:
        raise RefusedError(f"the audit chain is broken in {len(faults)} places")
