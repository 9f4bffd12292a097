"""A share of the answered requests asked again of the other slot, off the answers' way; what differs is recorded.

It is the first to go under load: more than `max_ongoing` at a time are dropped and counted, never queued.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from runtime.data.delta import table_uri
from runtime.serving.arrow import CONTENT_TYPE, encode_table
from runtime.serving.delta_log import DeltaLog

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

Send = Callable[[bytes, str], Awaitable[tuple[int, bytes]]]
"""Body and content type to the other slot's predict path, with the edge's secret and `HEADER`: status and body back.
Asked with JSON it answers JSON, with Arrow Arrow; it gives up by itself after a while."""


class Difference(NamedTuple):
    """One request as both slots answered it."""

    prediction_id: str
    at_ns: int
    model_version: str
    shadow_model_version: str
    scores: npt.NDArray[np.float64]
    shadow_scores: npt.NDArray[np.float64]


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
        self._asked_below = round(fraction * (1 << 16))
        self._log = log
        self._max_ongoing = max_ongoing
        self._ongoing: set[asyncio.Task[None]] = set()
        self._compared = self._dropped = self._failed = 0
        self._largest = 0.0

    def offer(
        self, prediction_id: str, rows: Sequence[Mapping[str, Any]] | pa.Table, scores: npt.NDArray[np.float64]
    ) -> None:
        """Ask the other slot the same, if this request is one of the share and there is room."""
        # Other digits than those that choose what is logged, so that the two choices are independent.
        if int(prediction_id[-12:-8], 16) >= self._asked_below:
            return
        if len(self._ongoing) >= self._max_ongoing:
            self._dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._compare(prediction_id, rows, scores))
        self._ongoing.add(task)
        task.add_done_callback(self._ongoing.discard)

    def status(self) -> dict[str, float]:
        return {
            "ongoing": len(self._ongoing),
            "compared": self._compared,
            "dropped": self._dropped,
            "failed": self._failed,
            "largest_difference": self._largest,
        }

    async def _compare(
        self, prediction_id: str, rows: Sequence[Mapping[str, Any]] | pa.Table, scores: npt.NDArray[np.float64]
    ) -> None:
        try:
            is_table = isinstance(rows, pa.Table)
            body = encode_table(rows) if is_table else orjson.dumps({"instances": rows})
            status, answer = await self._send(body, CONTENT_TYPE.decode() if is_table else "application/json")
            if status != 200:
                raise ValueError(f"the other slot answered {status}: {answer[:200]!r}")
            version, shadow_scores = _read_arrow(answer) if is_table else _read_json(answer)
            if shadow_scores.shape != scores.shape:
                raise ValueError(f"the other slot answered {len(shadow_scores)} scores for {len(scores)} rows")
        except Exception as error:  # noqa: BLE001 - the other slot's trouble is nobody's answer
            self._failed += 1
            if self._failed in (1, 10) or self._failed % 1000 == 0:
                logger.warning("a shadow request failed (%d times): %s", self._failed, error)
            return
        self._compared += 1
        self._largest = max(self._largest, float(np.abs(scores - shadow_scores).max()))
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
