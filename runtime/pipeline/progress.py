"""How long work tells what it is doing, without knowing how that is shown."""

from typing import Protocol


class Progress(Protocol):
    """One piece of work at a time, each with a name and, where known, a share done."""

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        """`text` is what is being done now; `total` 0 means that its size is not known."""


class Silent:
    """For callers that show nothing."""

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        return None
