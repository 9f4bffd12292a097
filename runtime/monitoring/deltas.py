"""What a replica sends: the counts of one interval, numbered, so that one that comes twice counts once."""

from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.core.errors import ContractError
from runtime.data.counts import Counts, Int64s, pack_counts, unpack_counts
from runtime.telemetry.latency import NUM_BUCKETS

MAX_REPLICAS = 4096
MAX_GAPS = 256
SILENT_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Series:
    """What is counted apart."""

    endpoint: str
    slot: str
    model_version: str
    """Label, `name:version`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Counts of a stretch of time; they add exactly."""

    requests: int
    rows: int
    errors: int
    refused: int
    """Requests that broke the contract: the caller's fault, no error of the model."""
    latency: Int64s
    """[98] buckets of telemetry.latency."""
    counts: Counts
    first_at: float
    """Seconds since 1970 at which the first of it arrived."""
    last_at: float

    def merge(self, other: "Tally") -> "Tally":
        """ContractError if the counts are of different features."""
        return Tally(
            requests=self.requests + other.requests,
            rows=self.rows + other.rows,
            errors=self.errors + other.errors,
            refused=self.refused + other.refused,
            latency=self.latency + other.latency,
            counts=self.counts.merge(other.counts),
            first_at=min(self.first_at, other.first_at),
            last_at=max(self.last_at, other.last_at),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "rows": self.rows,
            "errors": self.errors,
            "refused": self.refused,
            "latency": self.latency.tolist(),
            "counts": counts_json(self.counts),
            "first_at": self.first_at,
            "last_at": self.last_at,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Tally":
        return cls(
            requests=value["requests"],
            rows=value["rows"],
            errors=value["errors"],
            refused=value["refused"],
            latency=np.array(value["latency"], dtype=np.int64),
            counts=counts_from_json(value["counts"]),
            first_at=value["first_at"],
            last_at=value["last_at"],
        )


def add_tallies(sums: dict[Series, Tally], more: Mapping[Series, Tally]) -> dict[Series, Tally]:
    """Merge `more` into `sums`, series by series; returns `sums`."""
    for series, tally in more.items():
        sums[series] = sums[series].merge(tally) if series in sums else tally
    return sums


def counts_json(counts: Counts) -> list[Any]:
    return [b64encode(part).decode() if isinstance(part, bytes) else part for part in pack_counts(counts)]


def counts_from_json(value: Any) -> Counts:
    rows, num_numeric, cardinalities, places, value_type, values, moments = value
    return unpack_counts(
        (
            rows,
            num_numeric,
            tuple(cardinalities),
            None if places is None else b64decode(places),
            value_type,
            b64decode(values),
            b64decode(moments),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """One interval of one replica."""

    series: Series
    replica: str
    sequence: int
    tally: Tally

    @classmethod
    def from_message(cls, message: Mapping[str, Any], at: float) -> "Delta":
        """A replica's message that arrived at `at`. ContractError names the field that is missing or wrong."""
        message = {"refused": 0, **message}
        for name in ("endpoint", "slot", "model_version", "replica"):
            if not isinstance(message.get(name), str) or not message[name]:
                raise ContractError(f"delta: {name} must be text that is not empty but got {message.get(name)!r}")
        for name in ("sequence", "requests", "rows", "errors", "refused"):
            value = message.get(name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise ContractError(f"delta: {name} must be a whole number of at least 0 but got {value!r}")
        counts = message.get("counts")
        if not isinstance(counts, Counts):
            raise ContractError(f"delta: counts must be Counts but got {type(counts).__name__}")
        latency = np.asarray(message.get("latency_ms_counts"))
        if latency.shape != (NUM_BUCKETS,) or latency.dtype.kind not in "iu" or latency.min() < 0:
            raise ContractError(
                f"delta: latency_ms_counts must be {NUM_BUCKETS} counts as telemetry.latency makes them "
                f"but got {latency.dtype} of shape {latency.shape}"
            )
        return cls(
            series=Series(endpoint=message["endpoint"], slot=message["slot"], model_version=message["model_version"]),
            replica=message["replica"],
            sequence=int(message["sequence"]),
            tally=Tally(
                requests=int(message["requests"]),
                rows=int(message["rows"]),
                errors=int(message["errors"]),
                refused=int(message["refused"]),
                latency=latency.astype(np.int64),
                counts=counts,
                first_at=at,
                last_at=at,
            ),
        )


@dataclass(kw_only=True, slots=True)
class _Seen:
    below: int
    """Every sequence number under it counts as seen."""
    last_at: float
    above: set[int] = field(default_factory=set)


class SeenDeltas:
    """Which (replica, sequence) were taken in, in bounded memory.

    Numbers may come out of order. A gap that stays open is given up after 256 later ones. A replica is forgotten when
    it was silent for a day, or longest of 4,097.
    """

    def __init__(self) -> None:
        self._replicas: OrderedDict[str, _Seen] = OrderedDict()

    def __len__(self) -> int:
        """Replicas known."""
        return len(self._replicas)

    def __contains__(self, key: tuple[str, int]) -> bool:
        replica, sequence = key
        seen = self._replicas.get(replica)
        return seen is not None and (sequence < seen.below or sequence in seen.above)

    def add(self, replica: str, sequence: int, at: float) -> None:
        seen = self._replicas.get(replica)
        if seen is None:
            seen = self._replicas[replica] = _Seen(below=0, last_at=at)
        self._replicas.move_to_end(replica)
        seen.last_at = at
        seen.above.add(sequence)
        if len(seen.above) > MAX_GAPS:
            seen.below = min(seen.above)
        while seen.below in seen.above:
            seen.above.remove(seen.below)
            seen.below += 1
        if len(self._replicas) > MAX_REPLICAS:
            self._replicas.popitem(last=False)

    def forget_silent(self, now: float) -> None:
        """Drop the replicas that are gone: a delta is sent again within seconds, never after a day."""
        while self._replicas:
            replica = next(iter(self._replicas))
            if self._replicas[replica].last_at > now - SILENT_S:
                return
            del self._replicas[replica]

    def to_json(self) -> dict[str, Any]:
        return {replica: [seen.below, sorted(seen.above), seen.last_at] for replica, seen in self._replicas.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SeenDeltas":
        restored = cls()
        for replica, (below, above, last_at) in value.items():
            restored._replicas[replica] = _Seen(below=below, above=set(above), last_at=last_at)
        return restored
