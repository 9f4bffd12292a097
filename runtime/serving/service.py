"""One slot's HTTP service as a bare ASGI application. Knows nothing of Ray, and nothing of the split.

The way of a prediction has no framework, no task and no thread on it: parse, encode, infer, answer, on the event loop.
"""

import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from runtime.core.ids import format_uuid7
from runtime.data.accumulate import Accumulator
from runtime.data.contract import contract_to_json, feature_names
from runtime.data.rows import RowError
from runtime.models.bundle import Bundle
from runtime.serving.codec import (
    RequestFault,
    encode_fault,
    encode_json,
    encode_predictions,
    parse_instances,
    parse_labels,
)
from runtime.serving.counters import Delta, Tally
from runtime.serving.delta_log import DeltaLog
from runtime.serving.payload import Answer, Feedback

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

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


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    rows: int = 0


class SlotService:
    """ASGI application of one bundle in one slot."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        identity: SlotIdentity,
        limits: Limits,
        secret: str,
        payload: DeltaLog[Answer],
        feedback: DeltaLog[Feedback],
        on_shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = identity
        self._bundle = bundle
        self._limits = limits
        self._secret = secret.encode()
        self._payload = payload
        self._feedback = feedback
        self._on_shutdown = on_shutdown
        self._accumulator = Accumulator(bundle.profile)
        self._tally = Tally()
        self._background_failures = 0
        self._headers: tuple[Header, ...] = (
            (b"content-type", b"application/json"),
            (b"x-model-version", identity.model_label.encode()),
            (b"x-data-version", identity.data_version.encode()),
        )
        model_path = f"/v1/models/{identity.endpoint}"
        routes: dict[str, tuple[str, Callable[[dict[bytes, bytes], Receive, int], Awaitable[Reply]]]] = {
            f"{model_path}:predict": ("POST", self._predict),
            f"{model_path}:feedback": ("POST", self._take_feedback),
            model_path: ("GET", self._describe),
            "/v2/health/ready": ("GET", self._ready),
            "/v2/health/live": ("GET", self._ready),
        }
        # Serve hands the path over with the route's prefix on it.
        self._routes = {prefix + path: route for path, route in routes.items() for prefix in ("", f"/{identity.app}")}

    def warm_up(self) -> None:
        """Run the model a few times, so that the first request does not pay for what happens once."""
        encoding = self._bundle.encoding
        for rows in WARM_UP_ROWS:
            numeric = np.full((rows, len(encoding.numeric)), np.nan, dtype=np.float32)
            self._bundle.model.predict(numeric, np.zeros((rows, len(encoding.categorical)), dtype=np.int64))

    def take(self) -> Delta:
        """Counts since the last take. Call it on the event loop."""
        tally, self._tally = self._tally, Tally()
        return Delta(
            requests=tally.requests,
            rows=tally.rows,
            errors=tally.errors,
            refused=tally.refused,
            latency_ms_counts=np.array(tally.latency_ms_counts, dtype=np.int64),
            counts=self._accumulator.take(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"a {scope['type']} connection is not served")
        at_ns = time.time_ns()
        started = time.perf_counter()
        reply = await self._reply(scope, receive, at_ns)
        headers = [*self._headers, *reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        # Health checks come more often than requests may, and would hide how these do.
        if scope["path"].endswith(":predict"):
            self._tally.add(reply.status, reply.rows, (time.perf_counter() - started) * 1000)

    async def _reply(self, scope: Scope, receive: Receive, at_ns: int) -> Reply:
        headers = dict(scope["headers"])
        try:
            if not hmac.compare_digest(headers.get(b"x-teal-edge", b""), self._secret):
                raise RequestFault(403, "forbidden", "requests must come through the edge")
            route = self._routes.get(scope["path"])
            if route is None:
                raise RequestFault(404, "not_found", f"no such path: {scope['path'][:200]!r}")
            method, handle = route
            if scope["method"] != method:
                raise RequestFault(405, "method_not_allowed", f"use {method}")
            return await handle(headers, receive, at_ns)
        except RequestFault as fault:
            allow = ((b"allow", route[0].encode()),) if fault.status == 405 and route else ()
            return Reply(status=fault.status, body=encode_fault(fault), headers=allow)
        except Exception:
            logger.exception("a request failed")
            return Reply(status=500, body=encode_fault(_INTERNAL))

    async def _predict(self, headers: dict[bytes, bytes], receive: Receive, at_ns: int) -> Reply:
        body = await self._read_body(headers, receive)
        started_ns = time.time_ns()
        rows = parse_instances(body, headers.get(b"content-type"), max_rows=self._limits.max_rows)
        bundle = self._bundle
        try:
            encoded = bundle.encoding.encode_rows(rows, bundle.columns)
        except RowError as error:
            raise RequestFault.of_row(error) from error
        try:
            scores = bundle.model.predict(encoded.numeric, encoded.categorical)
            if not np.isfinite(scores).all():
                raise ValueError("the model answered a score that is not finite")
        except Exception:
            logger.exception("model %s failed on %d rows", self.identity.model_label, len(rows))
            raise RequestFault(500, "model_failed", f"model {self.identity.model_label} failed on this input") from None
        prediction_id = format_uuid7(at_ns // 1_000_000, os.urandom(10))
        score_list = scores.tolist()
        reply = Reply(
            status=200,
            body=encode_predictions(prediction_id, self.identity.model_label, score_list),
            headers=((b"x-prediction-id", prediction_id.encode()),),
            rows=len(rows),
        )
        try:
            self._accumulator.add(encoded.numeric, encoded.categorical, scores)
            self._payload.add(
                Answer(
                    prediction_id=prediction_id,
                    at_ns=at_ns,
                    started_ns=started_ns,
                    generation=_integer(headers.get(b"x-generation")),
                    request_id=headers.get(b"x-request-id", b"").decode("latin-1"),
                    rows=rows,
                    scores=score_list,
                    latency_ms=(time.time_ns() - at_ns) / 1e6,
                ),
                len(rows),
            )
        except Exception:  # noqa: BLE001 - a fault of the log must not become one of the answer
            self._note_background_failure("counting or logging an answer")
        return reply

    async def _take_feedback(self, headers: dict[bytes, bytes], receive: Receive, at_ns: int) -> Reply:
        body = await self._read_body(headers, receive)
        labels = parse_labels(body, headers.get(b"content-type"), max_rows=self._limits.max_rows)
        if not self._feedback.add(Feedback(labels=labels, received_ns=at_ns), len(labels)):
            raise RequestFault(503, "unavailable", "too many labels wait to be written; send them again later")
        return Reply(status=200, body=encode_json({"accepted": len(labels)}))

    async def _describe(self, _headers: dict[bytes, bytes], _receive: Receive, _at_ns: int) -> Reply:
        contract = contract_to_json(self._bundle.columns)
        identity = self.identity
        description = {
            "endpoint": identity.endpoint,
            "slot": identity.slot,
            "model_version": identity.model_label,
            "data_version": identity.data_version,
            "columns": {name: contract[name] for name in feature_names(self._bundle.columns)},
        }
        return Reply(status=200, body=encode_json(description))

    async def _ready(self, _headers: dict[bytes, bytes], _receive: Receive, _at_ns: int) -> Reply:
        state = {
            "ready": True,
            "model_version": self.identity.model_label,
            "bundle_sha256": self.identity.bundle_sha256,
            "pid": os.getpid(),
            "payload": self._payload.status(),
            "feedback": self._feedback.status(),
            "background_failures": self._background_failures,
        }
        return Reply(status=200, body=encode_json(state))

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._limits.max_body_bytes
        if _integer(headers.get(b"content-length")) > limit:
            raise _too_large(limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        chunks = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._on_shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _note_background_failure(self, what: str) -> None:
        self._background_failures += 1
        if self._background_failures == 1:
            logger.exception("%s failed; this and later failures are counted", what)


_INTERNAL = RequestFault(500, "internal", "the replica failed; its log says why")


def _too_large(limit: int) -> RequestFault:
    return RequestFault(413, "too_large", f"the request body is larger than {limit} bytes")


def _integer(value: bytes | None) -> int:
    """The number in a header; 0 where there is none or no number. Never raises: the edge sets these."""
    return int(value) if value is not None and value.isdigit() else 0
