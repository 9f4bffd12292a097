"""A constant load on the edge, from a process of its own, so that the work of the caller does not disturb its clock.

Open loop: requests start by the clock, whether or not earlier ones have been answered. Every request is one row with a
routing key of its own; every answer is recorded with the generation that routed it, so that what a share promised can
be compared with what it did, exactly, however long a change took to arrive.
"""

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

REQUEST_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One request of the load."""

    started_at: float
    """Seconds since 1970."""
    latency_ms: float
    status: int
    """HTTP status, 0 if no answer came."""
    slot: str
    generation: int
    model_version: str

    @property
    def is_failed(self) -> bool:
        return self.status != 200


class BackgroundLoad:
    """Requests at a steady rate until stopped. `rows` may be exchanged while it runs."""

    def __init__(self, url: str, rows: Sequence[dict[str, Any]], *, rate_per_s: float, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(
            target=_run, args=(child_pipe, url, list(rows), rate_per_s, seed), daemon=True, name="teal-load"
        )
        self._process.start()
        child_pipe.close()

    def set_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        self._ask("rows", list(rows))

    def counts(self) -> dict[int, dict[str, int]]:
        """Answers so far: generation to slot to number."""
        counts: dict[int, dict[str, int]] = self._ask("counts")
        return counts

    def answers(self) -> list[Answer]:
        """Every answer so far."""
        answers: list[Answer] = self._ask("answers")
        return answers

    def wait_for(self, generation: int, num_answers: int, *, timeout_s: float) -> None:
        """Wait until so many answers were routed by a generation; TimeoutError says how many were."""
        deadline = time.monotonic() + timeout_s
        while (seen := sum(self.counts().get(generation, {}).values())) < num_answers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"generation {generation}: {seen} of {num_answers} answers after {timeout_s:g} s")
            time.sleep(0.05)

    def stop(self) -> list[Answer]:
        """Send no more, wait for what is on its way, return everything. Idempotent."""
        if not self._process.is_alive():
            return []
        answers: list[Answer] = self._ask("stop")
        self._process.join(STOP_TIMEOUT_S)
        return answers

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _ask(self, command: str, value: Any = None) -> Any:
        self._pipe.send((command, value))
        if not self._pipe.poll(STOP_TIMEOUT_S):
            raise TimeoutError(f"the load process did not answer {command!r} within {STOP_TIMEOUT_S:g} s")
        return self._pipe.recv()


def _run(pipe: Connection, url: str, rows: list[dict[str, Any]], rate_per_s: float, seed: int) -> None:
    asyncio.run(_Generator(pipe, url, rows, rate_per_s, seed).run())


class _Generator:
    def __init__(self, pipe: Connection, url: str, rows: list[dict[str, Any]], rate_per_s: float, seed: int) -> None:
        self.pipe, self.url, self.rate_per_s, self.seed = pipe, url, rate_per_s, seed
        self.bodies = _encode(rows)
        self.answers: list[Answer] = []
        self.counts: dict[int, dict[str, int]] = {}
        self.in_flight: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        import aiohttp

        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as client:
            threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
            started, sent = loop.time(), 0
            while not self.stopping.is_set():
                due = int((loop.time() - started) * self.rate_per_s)
                while sent <= due:
                    task = loop.create_task(self._send(client, sent))
                    self.in_flight.add(task)
                    task.add_done_callback(self.in_flight.discard)
                    sent += 1
                await asyncio.sleep(max(0.0, started + sent / self.rate_per_s - loop.time()))
            while self.in_flight:
                await asyncio.wait(self.in_flight)
            self.pipe.send(self.answers)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the caller's commands; ends with "stop", or when the caller is gone."""
        while True:
            try:
                command, value = self.pipe.recv()
            except EOFError:
                loop.call_soon_threadsafe(self.stopping.set)
                return
            loop.call_soon_threadsafe(self._obey, command, value)
            if command == "stop":
                return

    def _obey(self, command: str, value: Any) -> None:
        if command == "stop":
            self.stopping.set()
            return
        if command == "rows":
            self.bodies = _encode(value)
        self.pipe.send({"rows": None, "counts": self.counts, "answers": self.answers}[command])

    async def _send(self, client: Any, number: int) -> None:
        import aiohttp

        headers = {"content-type": "application/json", "x-routing-key": f"{self.seed}-{number}"}
        started_at, clock = time.time(), time.perf_counter()
        status, slot, generation, version = 0, "", 0, ""
        try:
            async with client.post(self.url, data=self.bodies[number % len(self.bodies)], headers=headers) as response:
                await response.read()
                status = response.status
                slot = response.headers.get("x-slot", "")
                generation = int(response.headers.get("x-generation", 0))
                version = response.headers.get("x-model-version", "")
        except (aiohttp.ClientError, TimeoutError):
            status = 0  # no answer: recorded as failed
        latency_ms = (time.perf_counter() - clock) * 1000
        self.answers.append(
            Answer(
                started_at=started_at,
                latency_ms=latency_ms,
                status=status,
                slot=slot,
                generation=generation,
                model_version=version,
            )
        )
        by_slot = self.counts.setdefault(generation, {})
        by_slot[slot] = by_slot.get(slot, 0) + 1


def _encode(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    import orjson

    return [orjson.dumps({"instances": [row]}) for row in rows]
