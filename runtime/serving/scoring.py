"""From encoded rows to scores, counted and logged: the part that every protocol shares. Knows no protocol."""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runtime.core.errors import ContractError
from runtime.core.ids import format_uuid7
from runtime.data.accumulate import Accumulator
from runtime.data.counts import Counts
from runtime.data.encoding import MANY_ROWS, Encoded
from runtime.data.rows import RowError
from runtime.models.bundle import Bundle
from runtime.models.predictor import Predictor
from runtime.serving.batching import MicroBatcher
from runtime.serving.codec import RequestFault
from runtime.serving.delta_log import DeltaLog
from runtime.serving.payload import Answer
from runtime.serving.shadow import Shadow

logger = logging.getLogger(__name__)

Scores = npt.NDArray[np.float64]

WARM_UP_ROWS = (1, 1, 8, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotIdentity:
    """Who answers."""

    endpoint: str
    slot: str
    app: str
    model_name: str
    model_version: int
    bundle_sha256: str
    data_version: str

    @property
    def model_label(self) -> str:
        return f"{self.model_name}:{self.model_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_body_bytes: int
    max_rows: int


class Call(NamedTuple):
    """One request's circumstances, whatever it came by. Times in nanoseconds since 1970."""

    at_ns: int
    generation: int = 0
    request_id: str = ""
    deadline_ns: int = 0
    """Nobody waits for the answer from here on; 0 where nobody said."""
    is_explained: bool = False
    is_shadow: bool = False
    """Asked by the other slot for comparison: neither logged nor counted."""
    traceparent: str = ""


class Question(NamedTuple):
    """What was asked, as the model takes it and as it came."""

    encoded: Encoded
    rows: Sequence[Mapping[str, Any]] | pa.Table
    """Many rows are a table of their features, however they came."""


class Scored(NamedTuple):
    prediction_id: str
    scores: Scores


class Scorer:
    """One bundle, asked from one event loop."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        identity: SlotIdentity,
        payload: DeltaLog[Answer],
        payload_fraction: float = 1.0,
        batcher: MicroBatcher | None = None,
    ) -> None:
        """`payload_fraction` of the answers are logged, chosen by their id."""
        self.bundle = bundle
        self.identity = identity
        self.predictor = Predictor(bundle.model)
        self.payload = payload
        self.batcher = batcher
        self.shadow: Shadow | None = None
        self.num_expired = 0
        self.num_background_failures = 0
        self._logged_below = round(payload_fraction * (1 << 32))
        self._accumulator = Accumulator(bundle.profile)

    def warm_up(self) -> None:
        """Compile the model and run it a few times, so that the first request does not pay for what happens once."""
        encoding = self.bundle.encoding
        self.predictor = Predictor.for_serving(self.bundle.model, encoding.cardinalities)
        for rows in WARM_UP_ROWS:
            numeric = np.full((rows, len(encoding.numeric)), np.nan, dtype=np.float32)
            self.predictor.predict(numeric, np.zeros((rows, len(encoding.categorical)), dtype=np.int64))

    def take_counts(self) -> Counts:
        return self._accumulator.take()

    def encode_rows(self, rows: Sequence[Any]) -> Question:
        """RequestFault 422 names the first value that breaks the contract."""
        encoding, columns = self.bundle.encoding, self.bundle.columns
        try:
            if len(rows) < MANY_ROWS:
                return Question(encoding.encode_rows(rows, columns), rows)
            encoded, table = encoding.encode_listed(rows, columns)
            return Question(encoded, rows if table is None else table)
        except RowError as error:
            raise RequestFault.of_row(error) from error

    def encode_document(self, body: bytes, *, max_rows: int) -> Question | None:
        """Many rows as JSON, if they are alike and without a fault; None where they must be read one by one."""
        found = self.bundle.encoding.encode_document(body, self.bundle.columns, max_rows=max_rows)
        return None if found is None else Question(*found)

    def encode_table(self, table: pa.Table) -> Question:
        """RequestFault 422 names the first value that breaks the contract, or a column of another type."""
        try:
            return Question(self.bundle.encoding.encode_request_table(table, self.bundle.columns), table)
        except RowError as error:
            raise RequestFault.of_row(error) from error
        except ContractError as error:
            raise RequestFault(422, "contract", str(error)) from error

    def status(self) -> dict[str, Any]:
        return {
            "expired": self.num_expired,
            "background_failures": self.num_background_failures,
            "row_multiple": self.predictor.row_multiple,
            "is_compiled": self.predictor.is_traced,
            **({} if self.batcher is None else {"batcher": self.batcher.status()}),
            **({} if self.shadow is None else {"shadow": self.shadow.status()}),
        }

    async def score(self, question: Question, call: Call) -> Scored:
        """RequestFault 408 if the deadline has passed, 429 if too much waits, 500 if the model fails."""
        if call.deadline_ns and time.time_ns() >= call.deadline_ns:
            self.num_expired += 1
            raise RequestFault(408, "deadline", "the deadline that the request set (x-timeout-ms) has passed")
        started_ns = time.time_ns()
        encoded = question.encoded
        if self.batcher is None:
            scores = self.compute(encoded)
        else:
            scores = await self.batcher.score(encoded, call.deadline_ns)
        prediction_id = format_uuid7(call.at_ns // 1_000_000, os.urandom(10))
        if call.is_shadow:
            return Scored(prediction_id, scores)
        try:
            self._accumulator.add(encoded.numeric, encoded.categorical, scores)
            if int(prediction_id[-8:], 16) < self._logged_below:
                self.payload.add(
                    Answer(
                        prediction_id=prediction_id,
                        at_ns=call.at_ns,
                        started_ns=started_ns,
                        generation=call.generation,
                        request_id=call.request_id,
                        rows=question.rows,
                        scores=scores,
                        latency_ms=(time.time_ns() - call.at_ns) / 1e6,
                    ),
                    len(scores),
                    question.rows.get_total_buffer_size() if isinstance(question.rows, pa.Table) else None,
                )
            if self.shadow is not None:
                self.shadow.offer(prediction_id, question.rows, scores, call.traceparent)
        except Exception:  # noqa: BLE001 - a fault of the log must not become one of the answer
            self._note_background_failure()
        return Scored(prediction_id, scores)

    def compute(self, encoded: Encoded) -> Scores:
        """RequestFault 500 if the model fails or answers a score that is not finite."""
        try:
            scores = self.predictor.predict(encoded.numeric, encoded.categorical)
            # One by itself at a fifth of the price: most requests have one row.
            if not (math.isfinite(scores[0]) if len(scores) == 1 else np.isfinite(scores).all()):
                scores = self._score_within_bounds(encoded, scores)
        except Exception as error:
            message = f"model {self.identity.model_label} failed on this input"
            raise RequestFault(500, "model_failed", message) from error
        return scores

    def _score_within_bounds(self, encoded: Encoded, scores: Scores) -> Scores:
        """Scores with those that overflowed asked again; the other rows keep their bits. ValueError if that fails too.

        The contract may let through whatever a float holds, and a caller must not make the model look broken.
        """
        again = self.predictor.predict(self.predictor.within_bounds(encoded.numeric), encoded.categorical)
        scores = np.where(np.isfinite(scores), scores, again)
        if not np.isfinite(scores).all():
            raise ValueError("the model answered a score that is not finite")
        return scores

    def _note_background_failure(self) -> None:
        self.num_background_failures += 1
        if self.num_background_failures == 1:
            logger.exception("counting or logging an answer failed; this and later failures are counted")
