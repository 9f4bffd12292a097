"""A load that starts its requests by the clock, whether or not earlier ones were answered, and forgives no delay.

Latency counts from when a request was due, so a server that stalls cannot hide it by holding back the load, nor can
the load itself: what it was late by is in the latencies, and told. Runs in a process of its own, on bare sockets: a
client library would cost more than the servers that are measured.
"""

import asyncio
import contextlib
import json
import re
import select
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
DRAIN_S = 8.0
REFUSED = -1
"""Status of a request whose connection was refused: nobody has seen it."""
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Asked(NamedTuple):
    """One request and what became of it."""

    due_s: float
    """Since the load began."""
    status: int
    """0 where no answer came, REFUSED where nobody listened."""
    lag_ms: float
    """From when it was due until it was sent: the generator's own delay."""
    latency_ms: float
    """From when it was due until it was answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLoad:
    """What became of one load."""

    rate_per_s: float
    duration_s: float
    asked: list[Asked]

    @property
    def statuses(self) -> dict[int, int]:
        return Counter(one.status for one in self.asked)

    def settled(self, since_s: float) -> "OpenLoad":
        """Only what was due from then on."""
        asked = [one for one in self.asked if one.due_s >= since_s]
        return OpenLoad(rate_per_s=self.rate_per_s, duration_s=self.duration_s - since_s, asked=asked)

    def goodput_per_s(self, within_ms: float) -> float:
        """Answers 200 that came soon enough, per second of load."""
        return sum(one.status == 200 and one.latency_ms <= within_ms for one in self.asked) / self.duration_s

    def share(self, *statuses: int) -> float:
        return sum(one.status in statuses for one in self.asked) / len(self.asked)

    def percentile_ms(self, fraction: float, status: int = 200) -> float:
        """Of the answers with this status; 0 if there are none."""
        return _percentile([one.latency_ms for one in self.asked if one.status == status], fraction)

    def lag_percentile_ms(self, fraction: float) -> float:
        return _percentile([one.lag_ms for one in self.asked], fraction)

    def late_share(self, lag_ms: float) -> float:
        """Share of the requests that were sent later than this after they were due."""
        return sum(one.lag_ms > lag_ms for one in self.asked) / len(self.asked)


class RunningLoad:
    """A load under way, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], *, rate_per_s: float, timeout_s: float) -> None:
        assert process.stdout is not None
        self._process, self._rate_per_s, self._timeout_s = process, rate_per_s, timeout_s
        self.started = float(process.stdout.readline())
        """By `time.perf_counter`, which on Linux is one clock for all processes."""

    def end(self) -> None:
        """Begin no more requests, however long it was to last."""
        self._process.terminate()

    def result(self) -> OpenLoad:
        """Wait for the end, and for the last answers."""
        text, _ = self._process.communicate(timeout=self._timeout_s)
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)
        asked = [Asked(*one) for one in json.loads(text)]
        return OpenLoad(rate_per_s=self._rate_per_s, duration_s=len(asked) / self._rate_per_s, asked=asked)


@contextlib.contextmanager
def open_loop(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rate_per_s: float,
    duration_s: float,
    max_connections: int = 3500,
    drain_s: float = DRAIN_S,
) -> Iterator[RunningLoad]:
    """A load that has begun. `duration_s`: at most; the other arguments as for `run_open_loop`."""
    with tempfile.NamedTemporaryFile(prefix="teal-load-") as file:
        file.write(body)
        file.flush()
        arguments = {
            "url": url,
            "body_path": file.name,
            "headers": dict(headers),
            "rate_per_s": rate_per_s,
            "duration_s": duration_s,
            "max_connections": max_connections,
            "drain_s": drain_s,
        }
        command = [sys.executable, "-m", "benchmarks.open_loop", json.dumps(arguments)]
        # Unbuffered, as its first line is read alone.
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)
        try:
            yield RunningLoad(process, rate_per_s=rate_per_s, timeout_s=duration_s + drain_s + 30)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run_open_loop(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rate_per_s: float,
    duration_s: float,
    max_connections: int = 3500,
    drain_s: float = DRAIN_S,
) -> OpenLoad:
    """`max_connections`: below the 4096 that HAProxy takes; a request that finds them all busy waits, and lags.
    `drain_s`: how long answers are waited for after the load; then there was none.
    """
    with open_loop(
        url,
        body,
        headers,
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        max_connections=max_connections,
        drain_s=drain_s,
    ) as running:
        return running.result()


def _percentile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0.0


class _FineSelector(selectors.EpollSelector):
    """Wakes to the microsecond; epoll itself rounds up to whole milliseconds, which is a server's whole answer."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


class _Connection(asyncio.Protocol):
    def __init__(self, load: "_Load") -> None:
        self.load = load
        self.due_at: float | None = None
        self.sent_at = 0.0
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, due_at: float) -> None:
        self.due_at, self.sent_at = due_at, time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head_end = self.received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.received[: head_end + 2]
        length = CONTENT_LENGTH.search(head)
        if len(self.received) < head_end + 4 + int(length[1] if length else 0):
            return
        self.received = b""
        self._finish(int(head[9:12]))
        if CLOSE.search(head):
            self.transport.close()
        else:
            self.load.give(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.load.lose(self)
        self._finish(0)

    def _finish(self, status: int) -> None:
        if self.due_at is not None:
            self.load.note(status, self.due_at, self.sent_at)
            self.due_at = None


class _Load:
    def __init__(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        rate_per_s: float,
        duration_s: float,
        max_connections: int,
        drain_s: float,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port = parts.hostname, parts.port or 80
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self.rate_per_s, self.max_connections = rate_per_s, max_connections
        self.drain_s = drain_s
        self.asked: list[Asked] = []
        self._started = 0.0
        self._num_due, self._total = 0, int(rate_per_s * duration_s)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._waiting: deque[float] = deque()
        self._num_connections = 0
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.end)
        self._started = started = time.perf_counter()
        print(started, flush=True)
        while self._num_due < self._total:
            now = time.perf_counter() - started
            due = min(self._total, int(now * self.rate_per_s) + 1)
            for number in range(self._num_due, due):
                self._send(started + number / self.rate_per_s)
            self._num_due = due
            await asyncio.sleep(max(0.0, started + due / self.rate_per_s - time.perf_counter()))
        deadline = time.perf_counter() + self.drain_s
        while len(self.asked) < self._total and time.perf_counter() < deadline:
            await asyncio.sleep(0.02)
        now = time.perf_counter()
        for connection in self._busy:
            if connection.due_at is not None:
                self.note(0, connection.due_at, connection.sent_at)
        for due_at in self._waiting:
            self.note(0, due_at, now)

    def end(self) -> None:
        self._total = self._num_due

    def note(self, status: int, due_at: float, sent_at: float) -> None:
        latency_ms = (time.perf_counter() - due_at) * 1000
        self.asked.append(Asked(due_at - self._started, status, (sent_at - due_at) * 1000, latency_ms))

    def give(self, connection: _Connection) -> None:
        if self._waiting:
            self._busy.add(connection)
            connection.send(self._waiting.popleft())
        else:
            self._busy.discard(connection)
            self._idle.append(connection)

    def lose(self, connection: _Connection) -> None:
        self._num_connections -= 1
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _send(self, due_at: float) -> None:
        if self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            connection.send(due_at)
            return
        self._waiting.append(due_at)
        if self._num_connections < self.max_connections:
            self._num_connections += 1
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except OSError as error:
            self._num_connections -= 1
            if self._waiting:
                status = REFUSED if isinstance(error, ConnectionRefusedError) else 0
                self.note(status, self._waiting.popleft(), time.perf_counter())
            return
        self.give(connection)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    body = Path(arguments.pop("body_path")).read_bytes()
    load = _Load(arguments.pop("url"), body, arguments.pop("headers"), **arguments)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_FineSelector())) as runner:
        runner.run(load.run())
    json.dump(load.asked, sys.stdout)


if __name__ == "__main__":
    main()
