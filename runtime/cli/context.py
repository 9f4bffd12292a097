"""What every command shares: the configuration it runs under, where its output goes, how its errors end."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runtime.config.compose import compose, load_config, to_plain
from runtime.config.schema import Config
from runtime.core.errors import UsageError

if TYPE_CHECKING:
    from runtime.pipeline.steps import Session
    from runtime.store.control import ControlStore

SAVED_CONFIG = "config.json"
"""Under the run directory: the configuration that `teal up` was given."""


def saved_config_path() -> Path:
    return Path(os.environ.get("TEAL_HOME") or ".teal").resolve() / "run" / SAVED_CONFIG


def read_config(overrides: Sequence[str] = ()) -> Config:
    """The composed configuration; cluster and paths are those that `teal up` was given, if it ran.

    Without overrides what `teal up` saved is read as it is, which takes milliseconds: a rollback must not wait.
    """
    saved = load_config(saved_config_path()) if saved_config_path().exists() else None
    if saved is not None and not overrides:
        return saved
    config = compose(overrides)
    return config if saved is None else replace(config, cluster=saved.cluster, paths=saved.paths)


def config_for_start(overrides: Sequence[str]) -> Config:
    """What `teal up` starts: what runs already, if nothing else is asked for, else the composed configuration.

    UsageError if something else runs: ports and paths of a running platform cannot change.
    """
    from runtime.cluster.ray_process import read_state

    path = saved_config_path()
    if not path.exists() or read_state(path.parent) is None:
        return compose(overrides)
    running = load_config(path)
    if not overrides:
        return running
    wanted = compose(overrides)
    changes = [
        f"{key} is {old!r}, not {new!r}"
        for part in ("cluster", "paths")
        for key, old, new in _differences(part, to_plain(getattr(running, part)), to_plain(getattr(wanted, part)))
        if any(override.lstrip("+").startswith(f"{key}=") for override in overrides)
    ]
    if changes:
        raise UsageError(f"the platform runs with other settings: {', '.join(changes)}; run `teal down` first")
    return replace(wanted, cluster=running.cluster, paths=running.paths)


def _differences(prefix: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            yield from _differences(f"{prefix}.{key}", old[key], new.get(key))
    elif old != new:
        yield prefix, old, new


def find_endpoint(config: Config, store: "ControlStore", asked: str | None) -> str:
    """The endpoint asked for; without one the only one there is, else the configured one."""
    if asked is not None:
        return asked
    names = [state.name for state in store.endpoints()]
    return names[0] if len(names) == 1 else config.serving.endpoint


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's answer goes: a drawing for people, JSON for programs. Progress goes to standard error."""

    is_json: bool

    def show(self, data: Any, render: Callable[[], RenderableType | Sequence[RenderableType]]) -> None:
        if self.is_json:
            sys.stdout.write(json.dumps(to_jsonable(data), indent=1) + "\n")
            return
        drawn = render()
        Console().print(Group(*drawn) if isinstance(drawn, list | tuple) else drawn)


def to_jsonable(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON's own types."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_jsonable(asdict(value))
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_jsonable(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class ProgressBar:
    """The Progress of long work, drawn on standard error; one line that ends when the work does."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        self._progress.update(self._task, description=text, completed=done, total=total or None)


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield ProgressBar(progress)


@contextmanager
def open_session(config: Config) -> Iterator["Session"]:
    """A session whose steps draw their progress."""
    from runtime.pipeline.steps import Session

    with progress_bar() as progress, Session.open(config, progress) as session:
        yield session
