"""The demo's stages as a list that grows, with what was found under each; progress below."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class DemoScreen:
    """Context manager; implements the demo's Screen. Draws on standard error, so that JSON can have standard output."""

    def __init__(self, is_quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=is_quiet, highlight=False)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._started = time.monotonic()

    def __enter__(self) -> "DemoScreen":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, title: str) -> None:
        elapsed = time.monotonic() - self._started
        self._console.print(Text(f"{elapsed:4.0f} s  ", style="dim") + Text(title, style="bold"))
        self._progress.reset(self._task, description=title, total=None)

    def fact(self, text: str) -> None:
        self._console.print(Text(f"        {text}"))

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        self._progress.update(self._task, description=text, completed=done, total=total or None)
