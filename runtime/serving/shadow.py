"""A share of the answered requests asked again of the other slot, off the answers' way; what differs is recorded.

It is the first to go under load: more than `max_ongoing` at a time are dropped and counted, never queued.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from runtime.data.delta import table_uri
from runtime.serving.arrow import CONTENT_TYPE, encode_table
from runtime.serving.delta_log import DeltaLog
from runtime.serving.tracing import child_traceparent
from runtime.telemetry.latency import BOUNDS_MS, NUM_BUCKETS

logger = logging.getLogger(__name__)

HEADER = "x-teal-shadow"
"""A request with it is answered, and neither logged nor counted: nobody asked it."""
MAX_ONGOING = 4
SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("row", pa.int32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("model_version", pa.string()),
        ("shadow_model_version", pa.string()),
        ("score", pa.float64()),
        ("shadow_score", pa.float64()),
    ]
)

DIFFERENCE_BOUNDS = (0.0, 1e-6, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Upper bounds of the classes that differences of scores are counted in, without their sign; one more is open above."""

Send = Callable[[bytes, str, str | None], Awaitable[tuple[int, bytes]]]
"""Body, content type and traceparent to the other slot's predict path, with the edge's secret and `HEADER`: status and
body back.
Asked with JSON it answers JSON, with Arrow Arrow; it gives up by itself after a while."""


class Difference(NamedTuple):
    """One request as both slots answered it."""

    prediction_id: str
    at_ns: int
    model_version: str
    shadow_model_version: str
    scores: npt.NDArray[np.float64]
    shadow_scores: npt.NDArray[np.float64]


class Asked(NamedTuple):
    """What the other slot is asked in the shadow, and for whom."""

    fraction: float
    """Of the answered requests."""
    rollout: str | None = None
    """The one that is told what was counted; None where the configuration alone wants it."""


class Tally:
    """What came of the requests in the shadow since it began. For one event loop."""

    def __init__(self) -> None:
        self.compared = self.dropped = self.failed = self.rows = 0
        self.largest = 0.0
        self._sums = np.zeros(2)
        self._classes = np.zeros(len(DIFFERENCE_BOUNDS) + 1, dtype=np.int64)
        self._latency = [0] * NUM_BUCKETS

    def add(self, differences: npt.NDArray[np.float64], latency_ms: float) -> None:
        """The differences of one request's rows, without their sign."""
        self.compared += 1
        self.rows += differences.size
        self.largest = max(self.largest, float(differences.max(initial=0.0)))
        self._sums += (differences.sum(), differences @ differences)
        places = np.searchsorted(DIFFERENCE_BOUNDS, differences)
        self._classes += np.bincount(places, minlength=self._classes.size)
        self._latency[bisect_left(BOUNDS_MS, latency_ms)] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "failed": self.failed,
            "dropped": self.dropped,
            "rows": self.rows,
            "difference_sum": float(self._sums[0]),
            "difference_squares": float(self._sums[1]),
            "largest_difference": self.largest,
            "difference_counts": self._classes.tolist(),
            "latency": list(self._latency),
        }


class Shadow:
    """For one event loop."""

    def __init__(
        self,
        send: Send,
        *,
        model_version: str,
        fraction: float,
        log: DeltaLog[Difference],
        max_ongoing: int = MAX_ONGOING,
    ) -> None:
        """`fraction` of the requests, chosen by the id of their answer."""
        self._send = send
        self._model_version = model_version
        self._log = log
        self._max_ongoing = max_ongoing
        self._ongoing: set[asyncio.Task[None]] = set()
        self.begin(fraction)

    def begin(self, fraction: float) -> None:
        """Ask this fraction from now on, and count anew. What is under way counts where it began."""
        self._asked_below = round(fraction * (1 << 16))
        self.tally = Tally()

    def offer(
        self,
        prediction_id: str,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        scores: npt.NDArray[np.float64],
        traceparent: str = "",
    ) -> None:
        """Ask the other slot the same, if this request is one of the share and there is room."""
        # Other digits than those that choose what is logged, so that the two choices are independent.
        if int(prediction_id[-12:-8], 16) >= self._asked_below:
            return
        if len(self._ongoing) >= self._max_ongoing:
            self.tally.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._compare(prediction_id, rows, scores, traceparent))
        self._ongoing.add(task)
        task.add_done_callback(self._ongoing.discard)

    def status(self) -> dict[str, float]:
        return {
            "ongoing": len(self._ongoing),
            "compared": self.tally.compared,
            "dropped": self.tally.dropped,
            "failed": self.tally.failed,
            "largest_difference": self.tally.largest,
        }

    async def _compare(
        self,
        prediction_id: str,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        scores: npt.NDArray[np.float64],
        traceparent: str,
    ) -> None:
        tally, started = self.tally, time.perf_counter()
        try:
            is_table = isinstance(rows, pa.Table)
            body = encode_table(rows) if is_table else orjson.dumps({"instances": rows})
            status, answer = await self._send(
                body, CONTENT_TYPE.decode() if is_table else "application/json", child_traceparent(traceparent)
            )
            if status != 200:
                raise ValueError(f"the other slot answered {status}: {answer[:200]!r}")
            version, shadow_scores = _read_arrow(answer) if is_table else _read_json(answer)
            if shadow_scores.shape != scores.shape:
                raise ValueError(f"the other slot answered {len(shadow_scores)} scores for {len(scores)} rows")
        except Exception as error:  # noqa: BLE001 - the other slot's trouble is nobody's answer
            tally.failed += 1
            if tally.failed in (1, 10) or tally.failed % 1000 == 0:
                logger.warning("a shadow request failed (%d times): %s", tally.failed, error)
            return
        tally.add(np.abs(scores - shadow_scores), (time.perf_counter() - started) * 1000)
        now_ns = time.time_ns()
        difference = Difference(prediction_id, now_ns, self._model_version, version, scores, shadow_scores)
        self._log.add(difference, len(scores))


def shadow_uri(payload: str, endpoint: str) -> str:
    return table_uri(payload, f"{endpoint}_shadow")


def build_differences(differences: Sequence[Difference]) -> pa.Table:
    """For a DeltaLog: one row for each row that both slots answered."""
    lengths = [len(difference.scores) for difference in differences]
    owners = pa.array(np.repeat(np.arange(len(differences)), lengths))
    values: dict[str, Any] = {
        "prediction_id": [difference.prediction_id for difference in differences],
        "at": [difference.at_ns // 1000 for difference in differences],
        "model_version": [difference.model_version for difference in differences],
        "shadow_model_version": [difference.shadow_model_version for difference in differences],
    }
    columns = {name: pa.array(of_each, SCHEMA.field(name).type).take(owners) for name, of_each in values.items()}
    columns["row"] = pa.array([row for length in lengths for row in range(length)], pa.int32())
    for name, of_each in (
        ("score", [difference.scores for difference in differences]),
        ("shadow_score", [difference.shadow_scores for difference in differences]),
    ):
        columns[name] = pa.array(np.concatenate([np.zeros(0), *of_each]))
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _read_json(body: bytes) -> tuple[str, npt.NDArray[np.float64]]:
    answer = orjson.loads(body)
    return answer["model_version"], np.array([row["score"] for row in answer["predictions"]], dtype=np.float64)


def _read_arrow(body: bytes) -> tuple[str, npt.NDArray[np.float64]]:
    table = pa.ipc.open_stream(body).read_all()
    return table.schema.metadata[b"model_version"].decode(), table.column("score").to_numpy()
