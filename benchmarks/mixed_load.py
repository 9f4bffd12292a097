"""Requests of every kind in turn, started by the clock whether or not earlier ones were answered.

One thread with an event loop. What each kind is to be answered is known: anything else counts as failed, and of every
prediction that was answered it is kept how many rows the payload log must have.
"""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import orjson

from benchmarks.example_models import ARROW, encode_stream
from benchmarks.wrk import JSON
from runtime.data.contract import feature_names
from runtime.serving.oip_proto import inference_pb2 as messages
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import oip_json

NUM_BODIES = 50
"""Different bodies of each kind, used in turn."""
ARROW_ROWS = 64
TIMEOUT_S = 15.0
MAX_FAILURES_KEPT = 20
KEPT_IDS = 1000
"""Of the last predictions: those that feedback is given on."""
INFER = "/inference.GRPCInferenceService/ModelInfer"

WEIGHTS = {"json": 50, "v2": 15, "arrow": 12, "grpc": 10, "feedback": 8, "no_endpoint": 1, "bad_token": 2,
           "bad_json": 1, "bad_row": 1}  # fmt: skip
"""Of 100 requests; the last four are to be refused."""


@dataclass(kw_only=True)
class Tally:
    """What became of the load until now."""

    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    """Prediction id to its rows."""
    num_labels: int = 0
    late_s: float = 0.0
    """By how much the latest request was sent after it was due."""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    def note_failure(self, kind: str, what: str) -> None:
        self.failed[kind] += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(f"{kind}: {what}")


class MixedLoad:
    """Runs from its construction until `stop`."""

    def __init__(
        self, *, http: str, grpc_address: str, endpoint: str, headers: Mapping[str, str], rate_per_s: float
    ) -> None:
        """`http`: the edge's URL without a path. `headers`: those of somebody who may predict and give feedback."""
        self.tally = Tally()
        self._http, self._grpc_address, self._endpoint = http, grpc_address, endpoint
        self._headers, self._rate_per_s = dict(headers), rate_per_s
        self._random = random.Random(0)
        self._recent: deque[str] = deque(maxlen=KEPT_IDS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        rows = [example_row(seed) for seed in range(NUM_BODIES)]
        columns = example_columns()
        self._json = itertools.cycle([orjson.dumps({"instances": [row]}) for row in rows])
        self._v2 = itertools.cycle([oip_json([row], columns) for row in rows])
        many = [[example_row(NUM_BODIES + part * ARROW_ROWS + row) for row in range(ARROW_ROWS)] for part in range(4)]
        self._arrow = itertools.cycle([encode_stream(table) for table in many])
        self._tensors = itertools.cycle([infer_request(endpoint, [row]) for row in rows])
        self._bad_row = orjson.dumps({"instances": [rows[0] | {"distance": -1.0}]})
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "json": lambda: self._predict("json", next(self._json), JSON),
            "v2": lambda: self._predict("v2", next(self._v2), JSON),
            "arrow": lambda: self._predict("arrow", next(self._arrow), ARROW),
            "grpc": self._infer,
            "feedback": self._label,
            "no_endpoint": lambda: self._refused("no_endpoint", 404, endpoint="nobody"),
            "bad_token": lambda: self._refused("bad_token", 401, headers={"authorization": "Bearer wrong"}),
            "bad_json": lambda: self._refused("bad_json", 400, body=b'{"instances": ['),
            "bad_row": lambda: self._refused("bad_row", 422, body=self._bad_row),
        }
        self._thread.start()

    def stop(self) -> Tally:
        """Send nothing more and wait for the answers."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S + 10)
        return self.tally

    async def _run(self) -> None:
        names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
        started, number = time.monotonic(), 0
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=200)) as self._session,
            grpc.aio.insecure_channel(self._grpc_address) as channel,
        ):
            self._call: Any = channel.unary_unary(
                INFER,
                request_serializer=messages.ModelInferRequest.SerializeToString,
                response_deserializer=messages.ModelInferResponse.FromString,
            )
            calls: set[asyncio.Task[None]] = set()
            while not self._stopping.is_set():
                if number % len(names) == 0:
                    self._random.shuffle(names)
                due = started + number / self._rate_per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.tally.late_s = max(self.tally.late_s, time.monotonic() - due)
                call = asyncio.create_task(self._ask(names[number % len(names)]))
                calls.add(call)
                call.add_done_callback(calls.discard)
                number += 1
            await asyncio.gather(*calls)

    async def _ask(self, kind: str) -> None:
        self.tally.asked[kind] += 1
        started = time.perf_counter()
        try:
            await self._kinds[kind]()
        except (aiohttp.ClientError, TimeoutError, grpc.aio.AioRpcError, ValueError, KeyError) as error:
            self.tally.note_failure(kind, repr(error)[:300])
        self.tally.latencies_ms.append((time.perf_counter() - started) * 1000)

    async def _predict(self, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        path = f"/v2/models/{self._endpoint}/infer" if kind == "v2" else f"/v1/models/{self._endpoint}:predict"
        routing = {"x-routing-key": f"key-{self._random.randrange(1000)}"} if self._random.random() < 0.3 else {}
        async with self._session.post(
            self._http + path, data=body, headers={**self._headers, **headers, **routing}
        ) as response:
            content = await response.read()
            if response.status != 200:
                self.tally.note_failure(kind, f"{response.status} {content[:200]!r}")
                return
            self._keep(response.headers["x-prediction-id"], ARROW_ROWS if kind == "arrow" else 1)

    async def _infer(self) -> None:
        metadata = tuple(self._headers.items())
        answer = await self._call(next(self._tensors), metadata=metadata, timeout=TIMEOUT_S)
        self._keep(answer.parameters["prediction_id"].string_param, 1)

    async def _label(self) -> None:
        if not self._recent:
            return
        prediction_id = self._random.choice(self._recent)
        labels = [{"prediction_id": prediction_id, "row": 0, "label": self._random.randrange(2)}]
        async with self._session.post(
            f"{self._http}/v1/models/{self._endpoint}:feedback",
            data=orjson.dumps({"labels": labels}),
            headers={**self._headers, **JSON},
        ) as response:
            content = await response.read()
            if response.status == 200:
                self.tally.num_labels += 1
            else:
                self.tally.note_failure("feedback", f"{response.status} {content[:200]!r}")

    async def _refused(
        self,
        kind: str,
        status: int,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        async with self._session.post(
            f"{self._http}/v1/models/{endpoint or self._endpoint}:predict",
            data=body or next(self._json),
            headers={**self._headers, **JSON, **(headers or {})},
        ) as response:
            await response.read()
            if response.status != status:
                self.tally.note_failure(kind, f"{response.status}, not {status}")

    def _keep(self, prediction_id: str, num_rows: int) -> None:
        self.tally.answered[prediction_id] = num_rows
        self._recent.append(prediction_id)


def infer_request(endpoint: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """These rows as a gRPC message, one tensor a column."""
    request = messages.ModelInferRequest(model_name=endpoint)
    columns = example_columns()
    for name in feature_names(columns):
        is_text = columns[name].type == "category"
        tensor = request.inputs.add(name=name, datatype="BYTES" if is_text else "FP64", shape=[len(rows)])
        if is_text:
            tensor.contents.bytes_contents.extend(row[name].encode() for row in rows)
        else:
            tensor.contents.fp64_contents.extend(float(row[name]) for row in rows)
    return request
