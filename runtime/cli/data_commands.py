"""Commands over data: prepare and list versions, follow a prediction back to its sources, keep its log small."""

from typing import Annotated

import typer

from runtime.cli import render
from runtime.cli.context import Output, find_endpoint, open_session, read_config
from runtime.store.control import ControlStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: group=choice, group.key=value.")]


def register(app: typer.Typer) -> None:
    app.command()(prepare)
    app.command()(trace)
    data = typer.Typer(help="Versioned tables.", no_args_is_help=True)
    data.command("list")(list_versions)
    data.callback()(lambda: None)
    app.add_typer(data, name="data")
    payload = typer.Typer(help="The log of what was asked and answered.", no_args_is_help=True)
    payload.command("compact")(compact_payload)
    payload.callback()(lambda: None)
    app.add_typer(payload, name="payload")


def prepare(overrides: Overrides = None, is_json: Json = False) -> None:
    """Write one version of a table: read, join, check against the contract, commit with lineage and profile."""
    from runtime.pipeline.steps import prepare_data

    with open_session(read_config(overrides or [])) as session:
        prepared = prepare_data(session)
    Output(is_json).show(prepared, lambda: render.prepared(prepared.version, prepared.is_new))


def list_versions(is_json: Json = False) -> None:
    """Every committed version of every table, and which is current: what the last `prepare` gave, and a sweep takes."""
    from runtime.data.current import current_version

    store = ControlStore.of(read_config().paths)
    versions = store.data_versions()
    current = {current_version(store, table).label for table in {version.table for version in versions}}
    Output(is_json).show(versions, lambda: render.data_table(versions, current))


def trace(prediction_id: str, is_json: Json = False) -> None:
    """From a prediction's id to its model, run, configuration, data version and source files."""
    from runtime.pipeline.trace import trace_prediction
    from runtime.store.rollouts import RolloutStore

    config = read_config()
    lineage = trace_prediction(config, RolloutStore.of(config.paths), prediction_id)
    Output(is_json).show(lineage, lambda: render.trace_tree(lineage))


def compact_payload(
    endpoint: Annotated[str | None, typer.Argument(help="Default: the only one there is.")] = None,
    is_json: Json = False,
) -> None:
    """Merge the small files of past days into large ones, sorted by prediction id; replicas may write meanwhile."""
    from runtime.serving.compaction import compact
    from runtime.serving.payload import payload_uri

    config = read_config()
    name = find_endpoint(config, ControlStore.of(config.paths), endpoint)
    done = compact(payload_uri(config.paths.payload, name))
    Output(is_json).show(
        done,
        lambda: (
            f"{name}: {done.num_days} days merged, {done.num_files_before} files are {done.num_files_after} now, "
            f"{done.num_files_deleted} unused ones deleted"
        ),
    )
