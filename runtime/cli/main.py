"""The command's entry: what `teal` understands, and how errors end."""

import os
import sys

import typer
from rich.console import Console

from runtime.cli import (
    access_commands,
    cluster_commands,
    continuous_commands,
    data_commands,
    model_commands,
    monitor_commands,
    quality_commands,
    rollout_commands,
    store_commands,
    traffic_commands,
)
from runtime.config.compose import SEARCH_VARIABLE
from runtime.core.errors import TealError

app = typer.Typer(
    name="teal",
    help="Train, serve, watch and roll back torch models on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    home: str = typer.Option(None, "--home", help="Directory of all state; default $TEAL_HOME, else .teal"),
    configs: str = typer.Option(None, "--configs", help=f"Your own configs directory; default ${SEARCH_VARIABLE}"),
) -> None:
    if home is not None:
        os.environ["TEAL_HOME"] = home
    if configs is not None:
        os.environ[SEARCH_VARIABLE] = os.pathsep.join(filter(None, [configs, os.environ.get(SEARCH_VARIABLE)]))


for commands in (
    access_commands,
    cluster_commands,
    continuous_commands,
    data_commands,
    model_commands,
    monitor_commands,
    quality_commands,
    rollout_commands,
    store_commands,
    traffic_commands,
):
    commands.register(app)


def run() -> None:
    """Run `teal` and exit: errors of teal in one line with their code, everything else as the fault it is."""
    try:
        app()
    except TealError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {_escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on from what is stored")
        sys.exit(130)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
