"""Micro-batches: rows that come while the model is busy are asked together when it is free. Nobody waits otherwise.

For models that run off the event loop (a GPU, a large net): for a small one the hop to a thread costs more than it
saves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.data.encoding import Encoded
from runtime.serving.codec import RequestFault

Scores = npt.NDArray[np.float64]

RETRY_AFTER_S = 1


class Waiting(NamedTuple):
    encoded: Encoded
    deadline_ns: int
    answer: "asyncio.Future[Scores]"


class MicroBatcher:
    """One batch in the model at a time, in one thread. For one event loop."""

    def __init__(
        self,
        compute: Callable[[Encoded], Scores],
        *,
        max_batch_rows: int = 1024,
        max_waiting_rows: int = 8192,
    ) -> None:
        """`compute` answers a row the same in any company. A request larger than a batch is one by itself."""
        if not 1 <= max_batch_rows <= max_waiting_rows:
            raise ValueError(f"need 1 <= max_batch_rows <= max_waiting_rows, got {max_batch_rows}, {max_waiting_rows}")
        self._compute = compute
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[Waiting] = deque()
        self._waiting_rows = 0
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.num_batches = 0
        self.num_expired = 0
        self.num_refused = 0

    async def score(self, encoded: Encoded, deadline_ns: int = 0) -> Scores:
        """[rows] scores. RequestFault 429 if too many rows wait, 408 if the deadline passes before they are asked."""
        rows = len(encoded)
        # Nothing waits: then even one request of more rows than may wait is taken.
        if self._waiting_rows and self._waiting_rows + rows > self._max_waiting_rows:
            self.num_refused += 1
            message = f"{self._waiting_rows} rows wait for the model already; try again later"
            raise RequestFault(429, "overloaded", message, retry_after_s=RETRY_AFTER_S)
        answer: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(encoded, deadline_ns, answer))
        self._waiting_rows += rows
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    def status(self) -> dict[str, int]:
        return {
            "waiting_rows": self._waiting_rows,
            "batches": self.num_batches,
            "expired": self.num_expired,
            "refused": self.num_refused,
        }

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._take_batch():
                self.num_batches += 1
                parts = [waiting.encoded for waiting in batch]
                try:
                    scores = await loop.run_in_executor(self._thread, self._compute, _join(parts))
                except Exception as error:  # noqa: BLE001 - told to whoever waits for it
                    await self._answer_apart(batch, error)
                    continue
                start = 0
                for waiting in batch:
                    end = start + len(waiting.encoded)
                    if not waiting.answer.done():
                        waiting.answer.set_result(scores[start:end])
                    start = end
        finally:
            self._running = None

    async def _answer_apart(self, batch: list[Waiting], error: Exception) -> None:
        """One request that the model fails on must not fail those that it happened to be asked with."""
        loop = asyncio.get_running_loop()
        for waiting in batch:
            if waiting.answer.done():
                continue
            try:
                if len(batch) == 1:
                    raise error
                scores = await loop.run_in_executor(self._thread, self._compute, waiting.encoded)
            except Exception as own_error:  # noqa: BLE001 - told to whoever waits for it
                if not waiting.answer.done():
                    waiting.answer.set_exception(own_error)
            else:
                if not waiting.answer.done():
                    waiting.answer.set_result(scores)

    def _take_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        rows = 0
        now_ns = time.time_ns()
        while self._waiting:
            first = self._waiting[0]
            if batch and rows + len(first.encoded) > self._max_batch_rows:
                break
            self._waiting.popleft()
            self._waiting_rows -= len(first.encoded)
            if first.answer.done():  # whoever asked has gone
                continue
            if first.deadline_ns and now_ns >= first.deadline_ns:
                self.num_expired += 1
                message = "the deadline that the request set (x-timeout-ms) passed while it waited"
                first.answer.set_exception(RequestFault(408, "deadline", message))
                continue
            batch.append(first)
            rows += len(first.encoded)
        return batch


def _join(parts: list[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    return Encoded(
        numeric=np.concatenate([part.numeric for part in parts]),
        categorical=np.concatenate([part.categorical for part in parts]),
    )
