"""Losses on labels that came back, by the share that was in force when the row was answered.

A label comes hours after its answer, in another step perhaps. It counts for the slot that answered, and is compared
only with rows that were answered at the same share: over a change of share the slots' mixtures of old and new rows
differ, and a loss that moves with the hour would be taken for the canary's.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.data.metrics import log_losses
from runtime.rollout.event_counts import ValueSums
from runtime.store.records import SLOTS, EndpointState

logger = logging.getLogger(__name__)

MIN_ROWS = 50
"""Labelled rows of each slot in one comparison: below it a variance is too rough to weigh it by."""
LOSS_CAP = 4.0
"""Of the log loss: bounded, so that a few sure mistakes do not decide. Beyond a score of 0.018 it is not worse."""
REFRESH_S = 2.0
COST_SHARE = 10
"""Reading labels may take one part in so many of the time."""


class Labelled(NamedTuple):
    """Answered rows whose label is known, in one array each."""

    at: npt.NDArray[np.float64]
    """Seconds since 1970 at which the request arrived."""
    slot: npt.NDArray[np.str_]
    model: npt.NDArray[np.str_]
    """`name:3`"""
    score: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]
    """0 or 1"""


ReadLabelled = Callable[[str, float], Labelled | None]
"""Of an endpoint, answered since a time in seconds since 1970; None where nothing was logged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of a rollout in which every live edge gave the canary one share."""

    step: int
    share: int
    since: float
    until: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "share": self.share, "since": self.since, "until": self.until}


LossSums = dict[str, dict[str, list[float]]]
"""`LOSS/STEP` to slot to rows, sum and sum of squares since the rollout began. They only grow, but for labels that were
corrected."""


def sum_losses(
    labelled: Labelled, spans: Sequence[Span], kinds: Collection[str], models: Mapping[str, str]
) -> LossSums:
    """`models`: slot to the label of the model that the rollout is about; rows of others count for nobody."""
    found: LossSums = {}
    for kind in kinds:
        losses = _LOSSES[kind](labelled.label, labelled.score)
        for span in spans:
            until = np.inf if span.until is None else span.until
            is_within = (labelled.at >= span.since) & (labelled.at < until)
            cells = {}
            for slot, model in models.items():
                chosen = losses[is_within & (labelled.slot == slot) & (labelled.model == model)]
                cells[slot] = [float(chosen.size), float(chosen.sum()), float(chosen @ chosen)]
            found[f"{kind}/{span.step}"] = cells
    return found


def fresh_sums(now: LossSums, taken: LossSums, key: str, canary: str, primary: str) -> ValueSums | None:
    """What came since it was last taken; None while it is too little of either slot. By counts alone."""
    cells, before = now.get(key, {}), taken.get(key, {})
    fresh = {
        slot: np.array(cells.get(slot, [0, 0, 0])) - np.array(before.get(slot, [0, 0, 0])) for slot in (canary, primary)
    }
    if min(fresh[canary][0], fresh[primary][0]) < MIN_ROWS:
        return None
    return ValueSums(
        canary_rows=int(fresh[canary][0]),
        canary_sum=float(fresh[canary][1]),
        canary_squares=float(fresh[canary][2]),
        primary_rows=int(fresh[primary][0]),
        primary_sum=float(fresh[primary][1]),
        primary_squares=float(fresh[primary][2]),
    )


class LossReader:
    """Reads in a thread of its own: joining labels takes long, and a rollback must not wait for it."""

    def __init__(self, read: ReadLabelled) -> None:
        self._read = read
        self._labelled: dict[str, Labelled] = {}
        self._next_at: dict[str, float] = {}
        self._working: threading.Thread | None = None

    def read_losses(self, endpoint: EndpointState, spans: Sequence[Span], kinds: Collection[str]) -> LossSums | None:
        """As they were read last; None before they were."""
        if spans and time.monotonic() >= self._next_at.get(endpoint.name, 0.0):
            self._begin(endpoint.name, min(span.since for span in spans))
        labelled = self._labelled.get(endpoint.name)
        if labelled is None:
            return None
        filled = {str(slot): endpoint.slot(slot).model for slot in SLOTS}
        models = {slot: model.label for slot, model in filled.items() if model is not None}
        return sum_losses(labelled, spans, kinds, models)

    def finish(self) -> None:
        """Wait for what is being read."""
        if self._working is not None:
            self._working.join()

    def _begin(self, endpoint: str, since: float) -> None:
        if self._working is not None and self._working.is_alive():
            return

        def work() -> None:
            started = time.monotonic()
            try:
                labelled = self._read(endpoint, since)
                if labelled is not None:
                    self._labelled[endpoint] = labelled
            except Exception:
                # Without labels a rollout proves nothing by them; the next read tries again.
                logger.exception("labels of %s cannot be read", endpoint)
            ended = time.monotonic()
            self._next_at[endpoint] = ended + max(REFRESH_S, COST_SHARE * (ended - started))

        self._working = threading.Thread(target=work, name="labels of rollouts", daemon=True)
        self._working.start()


def _errors(labels: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    is_wrong: npt.NDArray[np.float64] = ((scores >= 0.5) != (labels >= 0.5)).astype(np.float64)
    return is_wrong


def _briers(labels: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = (scores - labels) ** 2
    return squares


def _log_losses(labels: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    capped: npt.NDArray[np.float64] = np.minimum(log_losses(labels, scores), LOSS_CAP)
    return capped


_LOSSES = {"error": _errors, "brier": _briers, "log_loss": _log_losses}
