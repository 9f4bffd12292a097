"""A stand-in for replicas behind a real edge, whose slots break as a test says, and callers that keep asking."""

import http.client
import threading
from types import TracebackType
from typing import Any

import numpy as np
from aiohttp import web

from runtime.config.cluster import ClusterConfig
from runtime.telemetry.latency import count_latencies
from tests.serving_edge import Edge, Ingress


class Slots(Ingress):
    """Each slot answers with its own rate of errors, and counts as replicas and the monitor do."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.error_rate = {"blue": 0.0, "green": 0.0}
        self.latency_ms = {"blue": 5.0, "green": 5.0}
        self.score = {"blue": 0.4, "green": 0.4}
        self.counted: dict[str, dict[str, Any]] = {
            slot: {"requests": 0, "errors": 0, "refused": 0, "latency": np.zeros(98, np.int64), "score": np.zeros(3)}
            for slot in ("blue", "green")
        }
        self._random = np.random.default_rng(3)
        super().__init__(cluster)

    def totals(self, _endpoint: str) -> list[dict[str, Any]]:
        labels = {"blue": "m:1", "green": "m:2"}
        return [{"slot": slot, "model_version": labels[slot], **counted} for slot, counted in self.counted.items()]

    async def _echo(self, request: web.Request) -> web.Response:
        slot = "green" if request.path.startswith("/e-green") else "blue"
        if request.path.endswith("/v2/health/ready"):
            return web.json_response({"bundle_sha256": "x" if slot == "blue" else "y"})
        counted = self.counted[slot]
        fails = self._random.random() < self.error_rate[slot]
        latency = self.latency_ms[slot] * float(self._random.lognormal(0, 0.3))
        score = float(np.clip(self._random.normal(self.score[slot], 0.1), 0, 1))
        counted["requests"] += 1
        counted["errors"] += fails
        counted["latency"] = counted["latency"] + count_latencies([latency])
        counted["score"] = counted["score"] + np.array([1, score, score**2])
        version = {"x-model-version": "m:1"}
        return web.json_response({"slot": slot}, status=500 if fails else 200, headers=version)


class Callers:
    """Threads that ask one after another until they are told to stop."""

    def __init__(self, edge: Edge, num: int = 2) -> None:
        self._edge = edge
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(num)]
        self.answered: list[tuple[int, str]] = []
        """Status and slot."""

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _call(self) -> None:
        connection: http.client.HTTPConnection = self._edge.connect()
        while not self._stopping.is_set():
            status, headers, _ = self._edge.send(on=connection)
            self.answered.append((status, headers.get("x-slot", "")))
        connection.close()
