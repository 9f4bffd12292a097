"""Concept drift of one model version: has the loss on labelled rows changed its level?

The stream is the mean loss of each stretch of time, by default a day: rows of one day share what the day brought, and
detectors that took them as independent would raise an alarm at every storm. A CUSUM compares it with the reference (465
stretches to a false alarm, for independent normal values of a known mean), ADWIN with the model's own past.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.metrics import Floats
from runtime.monitoring.stream import Adwin, Cusum, load_detector

LOSS_CAP = 4.0
"""Nats: a single certain error must not look like a change."""
LEARNED_BATCHES = 20
"""Without a reference the first stretches are it."""
STANDING_BATCHES = 10
"""A rise that lasts raises the alarm again within about so many stretches; later than that it is over."""
ALARMS_KEPT = 20
ADWIN_RANGE = 6.0
"""Deviations that the mean of a stretch stays within."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossReference:
    """Mean capped losses of stretches of time while the model was well."""

    mean: float
    deviation: float
    """Of one stretch's mean."""
    num_batches: int
    """Stretches that both are known from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossAlarm:
    detector: Literal["adwin", "cusum"]
    at: float
    """The end of the stretch that raised it, seconds since 1970."""
    batch: int
    """Its number."""
    level: float
    """Mean loss now."""
    before: float
    """Mean loss that it is compared with."""

    @property
    def is_rise(self) -> bool:
        return self.level > self.before


def loss_reference(losses: Floats, at: Floats, *, batch_s: float, min_rows: int) -> LossReference | None:
    """Of rows with a time, in seconds since 1970; None where there are too few stretches to tell how they vary."""
    _, stretches = np.unique(at // batch_s, return_inverse=True)
    counts = np.bincount(stretches)
    sums = np.bincount(stretches, weights=np.minimum(losses, LOSS_CAP))
    is_enough = counts >= min_rows
    means = sums[is_enough] / counts[is_enough]
    return None if means.size < LEARNED_BATCHES // 2 else _reference(means)


class LossWatch:
    """Takes losses in the order their labels came; its state is JSON."""

    def __init__(
        self, *, batch_s: float, min_rows: int, tolerance: float, reference: LossReference | None = None
    ) -> None:
        self._batch_s, self._min_rows, self._tolerance = batch_s, min_rows, tolerance
        self._reference = reference
        self._cusum: Cusum | None = None if reference is None else _make_cusum(reference, tolerance)
        self._adwin = Adwin(value_range=ADWIN_RANGE, check_every=1)
        self._stretch: int | None = None
        self._batch_rows, self._batch_sum = 0, 0.0
        self._levels: list[float] = []
        self.num_rows = self.num_batches = 0
        self.alarms: list[LossAlarm] = []

    @property
    def reference(self) -> LossReference | None:
        """What the CUSUM compares with; None while it is still learned."""
        return self._reference

    @property
    def mean(self) -> float | None:
        """Mean capped loss of the last stretches."""
        return float(np.mean(self._levels[-STANDING_BATCHES:])) if self._levels else None

    @property
    def has_risen(self) -> bool:
        """Whether the last change was a rise, and lately."""
        if not self.alarms:
            return False
        last = self.alarms[-1]
        return last.is_rise and self.num_batches - last.batch <= STANDING_BATCHES

    def observe(self, losses: Floats, at: Floats) -> list[LossAlarm]:
        """The alarms that these rows raised. `at` is when each was predicted, seconds since 1970, shape [n].

        A label that comes late counts in the stretch that is open when it comes.
        """
        found: list[LossAlarm] = []
        capped = np.minimum(losses, LOSS_CAP)
        numbers = np.maximum.accumulate((at // self._batch_s).astype(np.int64)) if at.size else at.astype(np.int64)
        for number in np.unique(numbers).tolist():
            if self._stretch is not None and number > self._stretch and self._batch_rows >= self._min_rows:
                found += self._close((self._stretch + 1) * self._batch_s)
            self._stretch = number if self._stretch is None else max(number, self._stretch)
            chosen = numbers == number
            self._batch_rows += int(chosen.sum())
            self._batch_sum += float(capped[chosen].sum())
        self.num_rows += int(losses.size)
        self.alarms = [*self.alarms, *found][-ALARMS_KEPT:]
        return found

    def _close(self, at: float) -> list[LossAlarm]:
        mean = self._batch_sum / self._batch_rows
        self._batch_rows, self._batch_sum = 0, 0.0
        self.num_batches += 1
        self._levels = [*self._levels, mean][-LEARNED_BATCHES:]
        if self._reference is None or self._cusum is None:
            if len(self._levels) == LEARNED_BATCHES:
                self._reference = _reference(np.array(self._levels))
                self._cusum = _make_cusum(self._reference, self._tolerance)
            return []
        found: list[LossAlarm] = []
        scale, origin = self._reference.deviation, self._reference.mean
        before = self._adwin.mean
        if self._adwin.update((mean - origin) / scale):
            found += self._alarm("adwin", at, origin + scale * self._adwin.mean, origin + scale * before)
        if self._cusum.update(mean):
            found += self._alarm("cusum", at, float(np.mean(self._levels[-3:])), origin)
        return found

    def _alarm(self, detector: Literal["adwin", "cusum"], at: float, level: float, before: float) -> list[LossAlarm]:
        if math.isnan(before) or abs(level - before) <= self._tolerance:
            return []
        return [LossAlarm(detector=detector, at=at, batch=self.num_batches, level=level, before=before)]

    def to_json(self) -> dict[str, Any]:
        return {
            "batch_s": self._batch_s,
            "min_rows": self._min_rows,
            "tolerance": self._tolerance,
            "reference": None if self._reference is None else asdict(self._reference),
            "cusum": None if self._cusum is None else self._cusum.to_json(),
            "adwin": self._adwin.to_json(),
            "stretch": self._stretch,
            "batch_rows": self._batch_rows,
            "batch_sum": self._batch_sum,
            "levels": self._levels,
            "num_rows": self.num_rows,
            "num_batches": self.num_batches,
            "alarms": [asdict(alarm) for alarm in self.alarms],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LossWatch":
        """ContractError if the value is no state of a watch."""
        try:
            reference = None if value["reference"] is None else LossReference(**value["reference"])
            settings = {name: value[name] for name in ("batch_s", "min_rows", "tolerance")}
            watch = cls(**settings, reference=reference)
            cusum = None if value["cusum"] is None else load_detector(value["cusum"])
            adwin = load_detector(value["adwin"])
            watch._stretch = value["stretch"]
            watch._batch_rows, watch._batch_sum = int(value["batch_rows"]), float(value["batch_sum"])
            watch._levels = [float(level) for level in value["levels"]]
            watch.num_rows, watch.num_batches = int(value["num_rows"]), int(value["num_batches"])
            watch.alarms = [LossAlarm(**alarm) for alarm in value["alarms"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"the state of a loss watch is broken: {error!r}") from error
        if not isinstance(adwin, Adwin) or not isinstance(cusum, Cusum | None):
            raise ContractError("the state of a loss watch holds other detectors than an ADWIN and a CUSUM")
        watch._adwin, watch._cusum = adwin, cusum
        return watch


def _reference(means: Floats) -> LossReference:
    deviation = max(float(means.std(ddof=1)), 1e-3)
    return LossReference(mean=float(means.mean()), deviation=deviation, num_batches=means.size)


def _make_cusum(reference: LossReference, tolerance: float) -> Cusum:
    # The reference is a sample: a standard error of its mean and of its deviation on the careful side.
    number = reference.num_batches
    deviation = reference.deviation * (1 + 1 / math.sqrt(2 * number))
    slack = max(0.5, tolerance / deviation) + 1 / math.sqrt(number)
    return Cusum(mean=reference.mean, deviation=deviation, slack=slack)
