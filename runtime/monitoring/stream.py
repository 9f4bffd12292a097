"""Change of level in one stream of numbers: losses or scores, a value a time. Control charts and ADWIN.

The charts take a known mean and deviation of the stream while it is well; their run lengths hold for independent normal
values, so feed them means over a tick rather than single losses. Every detector starts over after its alarm. None knows
what the values mean. Sources: Montgomery, Introduction to Statistical Quality Control (Shewhart, CUSUM); Lucas &
Saccucci, Technometrics 32:1, 1990 (EWMA); Page, Biometrika 41:100, 1954 and Mouss et al. 2004 (Page-Hinkley); Bifet &
Gavalda, SDM 2007 (ADWIN).
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from runtime.core.errors import ConfigError, ContractError


class StreamDetector(Protocol):
    """Takes a value, says whether the level has changed."""

    kind: ClassVar[str]

    def update(self, value: float) -> bool:
        """Whether this value raises the alarm. ContractError, and nothing changed, if it is not finite."""

    def reset(self) -> None:
        """Forget the stream."""

    def to_json(self) -> dict[str, Any]:
        """`load_detector` gives back the same detector to the last bit."""


class Shewhart:
    """Alarm at a value further than `limit` deviations from the mean: 370 values between false alarms at 3."""

    kind: ClassVar[str] = "shewhart"

    def __init__(self, *, mean: float, deviation: float, limit: float = 3.0) -> None:
        _check_stream(mean, deviation)
        _check_positive("limit", limit)
        self._mean, self._deviation, self._limit = mean, deviation, limit

    def update(self, value: float) -> bool:
        _check_value(value)
        return abs(value - self._mean) > self._limit * self._deviation

    def reset(self) -> None:
        """Nothing to forget."""

    def to_json(self) -> dict[str, Any]:
        parameters = {"mean": self._mean, "deviation": self._deviation, "limit": self._limit}
        return {"kind": self.kind, "parameters": parameters, "state": {}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        del state


class Cusum:
    """Two-sided cumulative sums beyond a slack: 465 values between false alarms at slack .5 and limit 5."""

    kind: ClassVar[str] = "cusum"

    def __init__(self, *, mean: float, deviation: float, slack: float = 0.5, limit: float = 5.0) -> None:
        _check_stream(mean, deviation)
        _check_positive("limit", limit)
        if not (math.isfinite(slack) and slack >= 0):
            raise ConfigError(f"slack must be at least 0 but got {slack}")
        self._mean, self._deviation, self._slack, self._limit = mean, deviation, slack, limit
        self._above = self._below = 0.0

    def update(self, value: float) -> bool:
        _check_value(value)
        score = (value - self._mean) / self._deviation
        self._above = max(0.0, self._above + score - self._slack)
        self._below = max(0.0, self._below - score - self._slack)
        if self._above <= self._limit and self._below <= self._limit:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        self._above = self._below = 0.0

    def to_json(self) -> dict[str, Any]:
        parameters = {"mean": self._mean, "deviation": self._deviation, "slack": self._slack, "limit": self._limit}
        return {"kind": self.kind, "parameters": parameters, "state": {"above": self._above, "below": self._below}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._above, self._below = float(state["above"]), float(state["below"])


class Ewma:
    """A weighted mean that forgets, with the limits of its steady state: 500 between false alarms at .1 and 2.814."""

    kind: ClassVar[str] = "ewma"

    def __init__(self, *, mean: float, deviation: float, weight: float = 0.1, limit: float = 2.814) -> None:
        _check_stream(mean, deviation)
        _check_positive("limit", limit)
        if not 0 < weight <= 1:
            raise ConfigError(f"weight must be above 0 and at most 1 but got {weight}")
        self._mean, self._deviation, self._weight, self._limit = mean, deviation, weight, limit
        self._bound = limit * math.sqrt(weight / (2 - weight))
        self._level = 0.0

    def update(self, value: float) -> bool:
        _check_value(value)
        self._level += self._weight * ((value - self._mean) / self._deviation - self._level)
        if abs(self._level) <= self._bound:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        self._level = 0.0

    def to_json(self) -> dict[str, Any]:
        parameters = {"mean": self._mean, "deviation": self._deviation, "weight": self._weight, "limit": self._limit}
        return {"kind": self.kind, "parameters": parameters, "state": {"level": self._level}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._level = float(state["level"])


class PageHinkley:
    """Sums of deviations from the running mean, both ways; no mean is given. `slack` and `limit` in value units."""

    kind: ClassVar[str] = "page_hinkley"

    def __init__(
        self, *, limit: float = 50.0, slack: float = 0.005, forgetting: float = 0.9999, min_values: int = 30
    ) -> None:
        _check_positive("limit", limit)
        if not (math.isfinite(slack) and slack >= 0):
            raise ConfigError(f"slack must be at least 0 but got {slack}")
        if not 0 < forgetting <= 1:
            raise ConfigError(f"forgetting must be above 0 and at most 1 but got {forgetting}")
        if min_values < 1:
            raise ConfigError(f"min_values must be at least 1 but got {min_values}")
        self._limit, self._slack, self._forgetting, self._min_values = limit, slack, forgetting, min_values
        self._num_values = 0
        self._mean = self._rise = self._fall = self._lowest = self._highest = 0.0

    def update(self, value: float) -> bool:
        _check_value(value)
        self._num_values += 1
        self._mean += (value - self._mean) / self._num_values
        residual = value - self._mean
        self._rise = self._forgetting * self._rise + residual - self._slack
        self._fall = self._forgetting * self._fall + residual + self._slack
        self._lowest = min(self._lowest, self._rise)
        self._highest = max(self._highest, self._fall)
        if self._num_values < self._min_values:
            return False
        if self._rise - self._lowest <= self._limit and self._highest - self._fall <= self._limit:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        self._num_values = 0
        self._mean = self._rise = self._fall = self._lowest = self._highest = 0.0

    def to_json(self) -> dict[str, Any]:
        parameters = {
            "limit": self._limit,
            "slack": self._slack,
            "forgetting": self._forgetting,
            "min_values": self._min_values,
        }
        state = {name: getattr(self, f"_{name}") for name in ("mean", "rise", "fall", "lowest", "highest")}
        return {"kind": self.kind, "parameters": parameters, "state": state | {"num_values": self._num_values}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._num_values = int(state["num_values"])
        for name in ("mean", "rise", "fall", "lowest", "highest"):
            setattr(self, f"_{name}", float(state[name]))


class Adwin:
    """A window that drops its oldest part while two parts of it differ in mean; a drop is the alarm.

    Values should lie in a range of about `value_range`. The window is kept in buckets of doubling size, so memory grows
    with the logarithm of its length. `confidence` bounds the false alarms of one check in the paper's normal
    approximation, not those of a stream.
    """

    kind: ClassVar[str] = "adwin"
    _MAX_BUCKETS = 5
    """Buckets of one size; one more and the two oldest become one of double size."""
    _MIN_PART = 5
    """Values below which a part of the window is not compared."""

    def __init__(self, *, confidence: float = 0.002, value_range: float = 1.0, check_every: int = 32) -> None:
        if not 0 < confidence < 1:
            raise ConfigError(f"confidence must be between 0 and 1 but got {confidence}")
        _check_positive("value_range", value_range)
        if check_every < 1:
            raise ConfigError(f"check_every must be at least 1 but got {check_every}")
        self._confidence, self._value_range, self._check_every = confidence, value_range, check_every
        self.reset()

    @property
    def width(self) -> int:
        """Values in the window."""
        return sum(len(row) << size for size, row in enumerate(self._rows))

    @property
    def mean(self) -> float:
        """Mean of the window; nan without values."""
        width = self.width
        return sum(total for row in self._rows for total, _ in row) / width if width else math.nan

    def update(self, value: float) -> bool:
        _check_value(value)
        self._add(value)
        self._num_values += 1
        is_changed = False
        if self._num_values % self._check_every == 0:
            while self._has_cut():
                self._drop_oldest()
                is_changed = True
        return is_changed

    def reset(self) -> None:
        self._num_values = 0
        self._rows: list[list[tuple[float, float]]] = [[]]  # by size, oldest first: total, sum of squared deviations

    def to_json(self) -> dict[str, Any]:
        parameters = {
            "confidence": self._confidence,
            "value_range": self._value_range,
            "check_every": self._check_every,
        }
        rows = [[list(bucket) for bucket in row] for row in self._rows]
        return {"kind": self.kind, "parameters": parameters, "state": {"num_values": self._num_values, "rows": rows}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._num_values = int(state["num_values"])
        self._rows = [[(float(total), float(squares)) for total, squares in row] for row in state["rows"]]

    def _add(self, value: float) -> None:
        self._rows[0].append((value, 0.0))
        size = 0
        while len(self._rows[size]) > self._MAX_BUCKETS:
            (total, squares), (other, more) = self._rows[size][:2]
            del self._rows[size][:2]
            if size + 1 == len(self._rows):
                self._rows.append([])
            # Chan's merge of two parts of 2**size values each
            self._rows[size + 1].append((total + other, squares + more + (total - other) ** 2 / (2 << size)))
            size += 1

    def _has_cut(self) -> bool:
        buckets = [(1 << size, *bucket) for size in reversed(range(len(self._rows))) for bucket in self._rows[size]]
        width = sum(number for number, _, _ in buckets)
        if width < 2 * self._MIN_PART:
            return False
        whole = sum(total for _, total, _ in buckets)
        mean = whole / width
        within = sum(squares + number * (total / number - mean) ** 2 for number, total, squares in buckets)
        log_term = math.log(2 * math.log(width) / self._confidence)
        old_number, old_total = 0, 0.0
        for number, total, _ in buckets:
            old_number += number
            old_total += total
            new_number = width - old_number
            if new_number < self._MIN_PART:
                return False
            if old_number < self._MIN_PART:
                continue
            inverse = 1 / (old_number - self._MIN_PART + 1) + 1 / (new_number - self._MIN_PART + 1)
            bound = math.sqrt(2 * inverse * within / width * log_term)
            bound += 2 / 3 * inverse * log_term * self._value_range
            if abs(old_total / old_number - (whole - old_total) / new_number) > bound:
                return True
        return False

    def _drop_oldest(self) -> None:
        del self._rows[-1][0]
        while len(self._rows) > 1 and not self._rows[-1]:
            del self._rows[-1]


_KINDS: dict[str, type[Any]] = {kind.kind: kind for kind in (Shewhart, Cusum, Ewma, PageHinkley, Adwin)}


def load_detector(value: Mapping[str, Any]) -> StreamDetector:
    """The detector that `to_json` described. ContractError if it describes none."""
    kind = value.get("kind")
    if kind not in _KINDS:
        raise ContractError(f"unknown stream detector {kind!r}: must be one of {', '.join(sorted(_KINDS))}")
    try:
        detector = _KINDS[kind](**value["parameters"])
        detector._restore(value["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(f"the state of {kind!r} is broken ({error!r}): start a new detector") from error
    loaded: StreamDetector = detector
    return loaded


def _check_value(value: float) -> None:
    if not math.isfinite(value):
        raise ContractError(f"a stream detector takes finite values but got {value}: leave out what is missing")


def _check_stream(mean: float, deviation: float) -> None:
    if not math.isfinite(mean):
        raise ConfigError(f"mean must be finite but got {mean}")
    _check_positive("deviation", deviation)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be finite and above 0 but got {value}")
