"""Commands over continuous training: run it, see how it stands, and what led to what."""

import time
from functools import partial
from typing import Annotated

import typer

from runtime.cli.context import Output, find_endpoint, open_session, read_config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: group=choice, group.key=value.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Default: the only one, or the configured one.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Training again by itself, when something says so.", no_args_is_help=True)
    group.command()(run)
    group.command()(status)
    group.command()(history)
    app.add_typer(group, name="continuous")


def run(
    overrides: Overrides = None,
    is_once: Annotated[bool, typer.Option("--once", help="Look once, finish what is started, and end.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Start a training whatever the triggers say.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="With --now: why; kept in the lineage.")] = "",
    is_json: Json = False,
) -> None:
    """Look for a reason to train again every continuous.interval_s, and carry trainings through to their rollout.

    Killed at any point it goes on from the last finished step. While another process does this, a second one waits.
    """
    from runtime.cli import continuous_render as render
    from runtime.pipeline.continuous import asked_for, keep_looking, look
    from runtime.pipeline.continuous_lease import only_here
    from runtime.rollout.traffic import current_actor

    config = read_config(overrides or [])
    endpoint = config.serving.endpoint
    asked = asked_for(current_actor(), reason) if now else None
    output = Output(is_json)
    with open_session(config) as session:
        on_wait = None if is_once else session.progress.update
        with only_here(session.store, endpoint, on_wait=on_wait) as check:
            if is_once:
                looked = look(session, endpoint, reason=asked, check=check)
                output.show(looked, partial(render.looked, looked))
                return
            for looked in keep_looking(session, endpoint, reason=asked, check=check):
                output.show(looked, partial(render.looked, looked))


def status(overrides: Overrides = None, endpoint: Endpoint = None, is_json: Json = False) -> None:
    """Which triggers have a reason, what holds them back, and how far the last trainings are.

    Triggers and limits are those of the configuration: give it the overrides that `continuous run` was given.
    """
    from runtime.cli import continuous_render as render
    from runtime.pipeline.continuous_status import read_continuous
    from runtime.store.rollouts import RolloutStore

    config = read_config(overrides or [])
    store = RolloutStore.of(config.paths)
    if endpoint is None and overrides:
        endpoint = config.serving.endpoint
    found = read_continuous(config, store, find_endpoint(config, store, endpoint), time.time())
    Output(is_json).show(found, lambda: render.status_tables(found))


def history(
    endpoint: Endpoint = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 20,
    is_json: Json = False,
) -> None:
    """Every training in one line: what started it, and the data, model version and rollout that came of it."""
    from runtime.cli import continuous_render as render
    from runtime.pipeline.continuous_status import read_chains
    from runtime.store.rollouts import RolloutStore

    config = read_config()
    store = RolloutStore.of(config.paths)
    chains = read_chains(store, find_endpoint(config, store, endpoint), time.time(), limit=limit)
    Output(is_json).show(chains, lambda: render.history_table(chains))
