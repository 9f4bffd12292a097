"""How far the step of a training is, told in the store, so that `teal continuous status` sees it from elsewhere."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from runtime.pipeline.progress import Progress
from runtime.store.control import ControlStore
from runtime.store.trainings import Training

STEP_NAME = "continuous progress"
INTERVAL_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgress:
    training: str
    text: str
    done: int
    total: int
    """0 where the size is not known."""
    at: float
    """Seconds since 1970."""


class StoredProgress:
    """Shows it where it was shown before, and stores each new text, and its share once a second at most."""

    def __init__(
        self, shown: Progress, store: ControlStore, training: Training, clock: Callable[[], float] = time.time
    ) -> None:
        self._shown = shown
        self._store = store
        self._training = training
        self._clock = clock
        self._told: StepProgress | None = None

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        self._shown.update(text, done, total)
        at = self._clock()
        told = self._told
        if told is not None and told.text == text and 0 <= at - told.at < INTERVAL_S:
            return
        self._told = StepProgress(training=self._training.id, text=text, done=done, total=total, at=at)
        self._store.record_step(_key(self._training.endpoint), STEP_NAME, asdict(self._told))


def read_progress(store: ControlStore, training: Training) -> StepProgress | None:
    """None if its steps have told nothing yet."""
    found: dict[str, Any] | None = store.step_outputs(_key(training.endpoint))
    return None if found is None or found["training"] != training.id else StepProgress(**found)


def _key(endpoint: str) -> str:
    return f"{STEP_NAME}/{endpoint}"
